// Threads. A ThreadPool owns workers; a step borrows some of them as a Gang and gives them back at its end,
// so programs that run at the same time never use more threads than the pool has.
//
// A job is cut into parts, one a thread, by a static partition: part p always does the same tiles, so its
// data stay in one core's cache from kernel to kernel. Workers wait for jobs by spinning, then park. The
// calling thread does part 0, then whatever parts no worker has begun: a worker that sleeps or was preempted
// delays nobody, and a gang bigger than the machine only loses time. Parts never wait for each other,
// therefore one join is the only synchronisation a job needs, and a host's plain parallel-for will do as well.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace ag::runtime {

/// One part of a job. Must not throw, and must not wait for another part.
using PartFn = void (*)(void* user, int part, int parts);

/// First and last + 1 tile of a part: [part*tiles/parts, (part+1)*tiles/parts).
struct TileRange {
  std::int64_t lo, hi;
};
constexpr TileRange tile_range(std::int64_t tiles, int part, int parts) {
  // Quotient and remainder separately: part*tiles could overflow.
  auto at = [=](std::int64_t p) { return tiles / parts * p + tiles % parts * p / parts; };
  return {at(part), at(part + 1)};
}

/// A host program's own threads, for programs in which ag shall start none.
class HostPool {
 public:
  virtual ~HostPool() = default;
  virtual int threads() const = 0;
  /// Calls part(user, p, parts) once for each p in [0, parts), on any threads, in any order; returns when
  /// all of them have returned. Must not throw.
  virtual void parallel_for(int parts, PartFn part, void* user) = 0;
};

/// How long idle workers spin. A parked worker takes some 30 us to take part again.
struct SpinPolicy {
  std::chrono::nanoseconds busy = std::chrono::microseconds(50);  ///< with pause only, then yielding
  std::chrono::nanoseconds park = std::chrono::microseconds(1000);
};

class ThreadPool {
 public:
  /// At most `workers` threads, started when first wanted.
  explicit ThreadPool(int workers, SpinPolicy spin = {});
  ~ThreadPool();  ///< no gang may be held
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int max_workers() const { return max_workers_; }
  int started() const;
  /// Whether a free worker still spins: then using it costs almost nothing.
  bool hot() const { return spinning_.load(std::memory_order_relaxed) > 0; }

 private:
  friend class Gang;
  struct Worker;
  void serve(Worker& worker);
  void take(int count, std::vector<Worker*>& out);
  void give_back(std::vector<Worker*>& workers);

  const int max_workers_;
  const SpinPolicy spin_;
  std::atomic<int> spinning_{0};
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> free_;  // the last one used is the first one taken: it is likely still awake
};

/// The calling thread and some workers. Not thread-safe; one object can be used again and again.
class Gang {
 public:
  Gang();
  ~Gang();
  Gang(const Gang&) = delete;
  Gang& operator=(const Gang&) = delete;

  /// Takes up to `threads` - 1 free workers of `pool`, in one go; those busy elsewhere are not waited for.
  void acquire(ThreadPool& pool, int threads);
  void release();
  bool held() const { return pool_ != nullptr; }
  int size() const { return static_cast<int>(workers_.size()) + 1; }  ///< the calling thread included
  /// Runs part(user, p, parts) for p in [0, parts); returns when all are done.
  void run(int parts, PartFn part, void* user);

 private:
  ThreadPool* pool_ = nullptr;
  std::vector<ThreadPool::Worker*> workers_;
};

}  // namespace ag::runtime
