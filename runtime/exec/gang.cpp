#include "runtime/exec/gang.hpp"

#include <sched.h>

#include <algorithm>
#include <system_error>
#include <thread>

#include "runtime/exec/fp_state.hpp"

namespace ag::runtime {
namespace {

using Clock = std::chrono::steady_clock;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

constexpr int clockless_spins = 256, spins_per_look = 64;

/// Spins until `ready()`, or until `limit` has passed; looks for the last time after that. `shy`: lets others run.
template <class Ready>
bool spin_until(Ready ready, Clock::duration limit, bool shy) {
  for (int i = 0; i < clockless_spins; ++i) {  // the common case reads no clock
    if (ready()) return true;
    relax();
  }
  for (const auto start = Clock::now();;) {
    for (int i = 0; i < spins_per_look; ++i) {
      if (ready()) return true;
      relax();
    }
    if (Clock::now() - start > limit) return ready();
    if (shy) std::this_thread::yield();
  }
}

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// The calling thread goes to another core if it is on `core`: woken there, it would run once whoever woke it has done
/// everything itself, and the next time again.
void leave_core(int core) {
#if defined(__linux__)
  if (core < 0 || sched_getcpu() != core) return;
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0) return;
  cpu_set_t others = all;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof all, &all);
#else
  (void)core;
#endif
}

int current_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

}  // namespace

int useful_threads(int asked) { return std::max(1, std::min(asked, available_cores())); }

struct alignas(64) ThreadPool::Worker {
  Gang::Role role;
  std::atomic<bool> parked{false}, stopped{false};
  std::atomic<int> caller_core{-1};  ///< where the caller was when it took the worker
  Gang* gang = nullptr;  ///< whose role it has; to be read while the role is held and not idle
  int part = 0;
  alignas(64) std::thread thread;

  /// Sequentially consistent on both sides: either the caller sees `parked`, or the worker what has changed.
  void wake() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (parked.load(std::memory_order_relaxed) && parked.exchange(false)) parked.notify_one();
  }

  bool wanted() const { return stopped.load(std::memory_order_acquire) || !role.idle(); }

  void park() {
    parked.store(true, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!wanted()) parked.wait(true, std::memory_order_seq_cst);
    parked.store(false, std::memory_order_relaxed);
  }
};

ThreadPool::ThreadPool(int workers, SpinPolicy spin)
    : max_workers_(std::max(workers, 0)),
      spin_(spin),
      patience_((max_workers_ < available_cores() ? spin.busy : spin.crowded).count()) {
  workers_.reserve(max_workers_);
  free_.reserve(max_workers_);
}

ThreadPool::~ThreadPool() {
  for (auto& w : workers_) {
    w->stopped.store(true, std::memory_order_release);
    w->wake();
  }
  for (auto& w : workers_) w->thread.join();
}

int ThreadPool::started() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(workers_.size());
}

void ThreadPool::serve(Worker& worker) {
  FpState fp;
  for (;;) {
    spinning_.fetch_add(1, std::memory_order_relaxed);
    const bool found = spin_until([&] { return worker.wanted(); }, spin_.park, crowded());
    spinning_.fetch_sub(1, std::memory_order_relaxed);
    leave_core(worker.caller_core.load(std::memory_order_relaxed));
    if (!found) {
      worker.park();
    } else if (worker.stopped.load(std::memory_order_acquire)) {
      return;
    } else if (worker.role.hold()) {
      // Only now: somebody else may have done it all, and the gang be gone.
      if (worker.role.idle())
        worker.role.let_go();
      else
        worker.gang->walk(worker.part);
    } else {
      relax();
    }
  }
}

void ThreadPool::take(int count, std::vector<Worker*>& out) {
  std::lock_guard lock(mutex_);
  while (static_cast<int>(out.size()) < count) {
    if (free_.empty()) {
      if (static_cast<int>(workers_.size()) == max_workers_) return;
      auto worker = std::make_unique<Worker>();
      try {
        worker->thread = std::thread([this, w = worker.get()] { serve(*w); });
      } catch (const std::system_error&) {
        return;  // the system has no more threads for us: a smaller gang gives the same bits
      }
      free_.push_back(worker.get());
      workers_.push_back(std::move(worker));
    }
    out.push_back(free_.back());
    free_.pop_back();
  }
}

void ThreadPool::give_back(std::vector<Worker*>& workers) {
  std::lock_guard lock(mutex_);
  while (!workers.empty()) {
    free_.push_back(workers.back());
    workers.pop_back();
  }
}

Gang::Gang() = default;
Gang::~Gang() { release(); }

void Gang::acquire(ThreadPool& pool, int threads) {
  release();
  pool_ = &pool;
  const int count = std::min(threads - 1, pool.max_workers());
  if (count <= 0) return;
  workers_.reserve(count);
  members_.reserve(count + 1);
  pool.take(count, workers_);
  static const int cores = available_cores();
  longest_ = size() > cores ? pool.spin_.crowded : pool.spin_.busy;
  const int core = current_core();
  members_.assign(1, {&own_, own_.done.load(std::memory_order_relaxed)});
  for (ThreadPool::Worker* w : workers_) {
    w->gang = this;
    w->caller_core.store(core, std::memory_order_relaxed);
    w->part = static_cast<int>(members_.size());
    members_.push_back({&w->role, w->role.done.load(std::memory_order_relaxed)});
  }
}

void Gang::release() {
  if (!pool_) return;
  if (!workers_.empty()) pool_->give_back(workers_);
  pool_ = nullptr;
}

/// Whether the first `count` entries are done in all parts.
bool Gang::all_done(std::uint32_t count) const {
  return std::all_of(members_.begin(), members_.end(), [&](const Member& m) {
    return static_cast<std::int32_t>(m.role->done.load(std::memory_order_acquire) - m.base - count) >= 0;
  });
}

/// How many entries must be done in all parts before the given one begins.
std::uint32_t Gang::needed(std::uint32_t entry) const {
  const std::uint32_t behind = block_.barriers ? 1 : block_.entries[entry].behind;
  return entry + 1 > behind ? entry + 1 - behind : 0;
}

void Gang::run_entry(std::uint32_t entry, int part) {
  const int parts = std::min<int>(block_.entries[entry].parts, size());
  if (part < parts) block_.fn(block_.user, entry, part, parts);
}

/// Walks from where the role stands to the end of the block, or until it gives its core away. The caller holds the
/// role, the callee lets go of it; the gang may be gone as soon as it does, or as the last entry is done.
void Gang::walk(int part) {
  const auto [role, base] = members_[static_cast<std::size_t>(part)];
  const auto count = static_cast<std::uint32_t>(block_.entries.size());
  std::uint32_t known = 0;  // entries that are known to be done in all parts
  for (std::uint32_t i = role->done.load(std::memory_order_relaxed) - base; i < count; ++i) {
    const std::uint32_t need = needed(i);
    if (need > known && part < block_.entries[i].parts) {
      if (!wait(need)) {
        role->let_go();
        std::this_thread::yield();
        return;
      }
      known = need;
    }
    run_entry(i, part);
    role->done.store(base + i + 1, std::memory_order_release);
  }
  role->let_go();
}

/// Waits until the first `count` entries are done in all parts; does what nobody else does meanwhile. False if that
/// takes longer than a core should be kept for.
bool Gang::wait(std::uint32_t count) {
  for (int i = 0; i < spins_per_look; ++i) {
    if (all_done(count)) return true;
    relax();
  }
  for (const auto start = Clock::now();;) {
    help(count);
    for (int i = 0; i < spins_per_look; ++i) {
      if (all_done(count)) return true;
      relax();
    }
    const std::chrono::nanoseconds patience(pool_->patience_.load(std::memory_order_relaxed));
    if (Clock::now() - start < patience) continue;
    gave_up_.store(true, std::memory_order_relaxed);
    pool_->patience_.store(std::max(patience / 4, pool_->spin_.crowded).count(), std::memory_order_relaxed);
    return false;
  }
}

/// Does the next entry of each role that lags behind and that nobody holds.
void Gang::help(std::uint32_t count) {
  for (std::size_t p = 0; p < members_.size(); ++p) {
    const auto [role, base] = members_[p];
    auto at = [&] { return role->done.load(std::memory_order_acquire) - base; };
    if (at() >= count || role->held.load(std::memory_order_relaxed) || !role->hold()) continue;
    if (const std::uint32_t i = at(); i < count && all_done(needed(i))) {
      run_entry(i, static_cast<int>(p));
      role->done.store(base + i + 1, std::memory_order_release);
    }
    role->let_go();
  }
}

void Gang::run(const Block& block) {
  const auto count = static_cast<std::uint32_t>(block.entries.size());
  if (workers_.empty()) {
    for (std::uint32_t i = 0; i < count; ++i) block.fn(block.user, i, 0, 1);
    return;
  }
  block_ = block;
  for (const Member& m : members_) m.role->limit.store(m.base + count, std::memory_order_release);
  for (ThreadPool::Worker* w : workers_) w->wake();
  while (!all_done(count)) {
    if (!own_.idle() && own_.hold()) {
      if (own_.idle())
        own_.let_go();
      else
        walk(0);
    } else if (!wait(count)) {
      std::this_thread::yield();
    }
  }
  for (Member& m : members_) m.base += count;
  if (gave_up_.exchange(false, std::memory_order_relaxed)) return;
  const std::chrono::nanoseconds patience(pool_->patience_.load(std::memory_order_relaxed));
  if (patience < longest_)
    pool_->patience_.store(std::min(patience * 17 / 16, longest_).count(), std::memory_order_relaxed);
}

void Gang::run(int parts, PartFn part, void* user) {
  struct Job {
    PartFn part;
    void* user;
    int parts;
  } job{part, user, parts};
  const BlockEntry entry{static_cast<std::uint16_t>(std::min(parts, size()))};
  auto share = [](void* j, std::uint32_t, int p, int threads) {
    const Job& job = *static_cast<const Job*>(j);
    for (; p < job.parts; p += threads) job.part(job.user, p, job.parts);
  };
  run({share, &job, {&entry, 1}});
}

}  // namespace ag::runtime
