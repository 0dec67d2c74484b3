// Threads. A ThreadPool owns workers; a step borrows some of them as a Gang and gives them back at its end,
// so programs that run at the same time never use more threads than the pool has.
//
// A gang runs blocks: lists of entries that its threads walk side by side, thread p doing part p of each. The split
// into parts is static, so a part's data stay in one core's cache from entry to entry. Before an entry a thread waits
// until the entries it depends on are done in all parts, no longer: where parts match, it goes on without a barrier.
//
// Each part of a block is a *role* with a count of entries done. A worker holds its role while it walks. One that
// sleeps, or gives its core away while it waits, holds nothing, and whoever waits for it does its next entry instead:
// such a worker delays nobody. Workers wait for blocks by spinning, then park.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
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

/// `asked`, or the number of cores that this process may use, if that is less: more threads would only take turns.
int useful_threads(int asked);

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
  std::chrono::nanoseconds park = std::chrono::microseconds(1000);
  /// A thread that waits for another one of its gang keeps its core for at most `busy`: one that was given away may
  /// come back after milliseconds. Where that proves too short the machine has other work, and the one waited for may
  /// need this very core: from then on, and if the threads are more than the cores, it waits less, down to `crowded`.
  std::chrono::nanoseconds busy = std::chrono::microseconds(100), crowded = std::chrono::microseconds(2);
};

/// How an entry of a block is divided: part p of `parts` may begin once part p of all entries before it is done, and
/// all parts of those that stand `behind` or more before it. 1 is a barrier.
struct BlockEntry {
  std::uint16_t parts = 1, behind = 1;
};
struct Block {
  using Fn = void (*)(void* user, std::uint32_t entry, int part, int parts);
  Fn fn = nullptr;  ///< must not throw, nor wait for another part
  void* user = nullptr;
  std::span<const BlockEntry> entries;
  bool barriers = false;  ///< whatever `behind` says: it was meant for another number of threads
};

class Gang;

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
  std::atomic<std::int64_t> patience_;  ///< ns that a thread waits for others now
  bool crowded() const { return patience_.load(std::memory_order_relaxed) < spin_.busy.count() / 2; }
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
  /// Runs a block; returns when all is done. An entry for more parts than the gang has threads is divided among those
  /// there are.
  void run(const Block& block);
  /// Runs part(user, p, parts) for p in [0, parts); returns when all are done.
  void run(int parts, PartFn part, void* user);

 private:
  friend class ThreadPool;
  /// Who walks: what is done of the block, and what is to be done; held by at most one thread at a time. Counts go on
  /// from block to block and wrap.
  struct alignas(64) Role {
    std::atomic<std::uint32_t> limit{0};
    alignas(64) std::atomic<std::uint32_t> done{0};
    std::atomic<std::uint32_t> held{0};

    bool idle() const { return done.load(std::memory_order_acquire) == limit.load(std::memory_order_acquire); }
    bool hold() { return held.exchange(1, std::memory_order_acq_rel) == 0; }
    void let_go() { held.store(0, std::memory_order_release); }
  };
  struct Member {
    Role* role;
    std::uint32_t base;  ///< of `done` before the block's first entry
  };
  void walk(int part);
  bool all_done(std::uint32_t count) const;
  std::uint32_t needed(std::uint32_t entry) const;
  bool wait(std::uint32_t count);
  void help(std::uint32_t count);
  void run_entry(std::uint32_t entry, int part);

  ThreadPool* pool_ = nullptr;
  std::vector<ThreadPool::Worker*> workers_;
  std::vector<Member> members_;  ///< the calling thread first
  Role own_;
  Block block_;
  std::chrono::nanoseconds longest_{};  ///< wait for others
  std::atomic<bool> gave_up_{false};  ///< some wait of the block took too long
};

}  // namespace ag::runtime
