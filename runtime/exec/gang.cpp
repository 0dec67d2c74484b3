#include "runtime/exec/gang.hpp"

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

/// Spins until `ready()`, or until `limit` has passed (never, if it is zero); yields after `busy`.
template <class Ready>
bool spin_until(Ready ready, Clock::duration busy, Clock::duration limit) {
  for (int i = 0; i < 256; ++i) {  // the common case reads no clock
    if (ready()) return true;
    relax();
  }
  const auto start = Clock::now();
  for (;;) {
    const auto waited = Clock::now() - start;
    if (limit.count() != 0 && waited > limit) return ready();
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      relax();
    }
    if (waited > busy) std::this_thread::yield();
  }
}

// A worker's mailbox is one word: a job number and what has become of the job. The number makes each
// posting a new value, so that a worker that parks compares against what it saw last.
enum State : std::uint32_t { done = 0, pending = 1, taken = 2, stop = 3 };
constexpr std::uint32_t state_of(std::uint32_t word) { return word & 3; }
constexpr std::uint32_t with_state(std::uint32_t word, State s) { return (word & ~3u) | s; }

}  // namespace

struct alignas(64) ThreadPool::Worker {
  std::atomic<std::uint32_t> word{0};
  std::atomic<bool> parked{false};
  int part = 0, parts = 0;
  PartFn fn = nullptr;
  void* user = nullptr;
  alignas(64) std::thread thread;

  /// Runs the posted part if nobody else has begun it.
  void run_if_pending() {
    auto w = word.load(std::memory_order_relaxed);
    if (state_of(w) != pending) return;
    if (!word.compare_exchange_strong(w, with_state(w, taken), std::memory_order_acquire)) return;
    fn(user, part, parts);
    word.store(with_state(w, done), std::memory_order_release);
  }

  void post(PartFn f, void* u, int p, int n) {
    fn = f, user = u, part = p, parts = n;
    publish(with_state(word.load(std::memory_order_relaxed) + 4, pending));
  }

  // Sequentially consistent on both sides: either the poster sees `parked`, or the worker the new word.
  void publish(std::uint32_t w) {
    word.store(w, std::memory_order_seq_cst);
    if (parked.load(std::memory_order_seq_cst) && parked.exchange(false)) word.notify_one();
  }

  void park(std::uint32_t seen) {
    parked.store(true, std::memory_order_seq_cst);
    word.wait(seen, std::memory_order_seq_cst);
    parked.store(false, std::memory_order_relaxed);
  }
};

ThreadPool::ThreadPool(int workers, SpinPolicy spin) : max_workers_(std::max(workers, 0)), spin_(spin) {
  workers_.reserve(max_workers_);
  free_.reserve(max_workers_);
}

ThreadPool::~ThreadPool() {
  for (auto& w : workers_) w->publish(with_state(w->word.load() + 4, stop));
  for (auto& w : workers_) w->thread.join();
}

int ThreadPool::started() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(workers_.size());
}

void ThreadPool::serve(Worker& worker) {
  FpState fp;
  for (;;) {
    std::uint32_t seen = 0;
    auto posted = [&] {
      seen = worker.word.load(std::memory_order_relaxed);
      return state_of(seen) == pending || state_of(seen) == stop;
    };
    spinning_.fetch_add(1, std::memory_order_relaxed);
    const bool found = spin_until(posted, spin_.busy, spin_.park);
    spinning_.fetch_sub(1, std::memory_order_relaxed);
    if (!found)
      worker.park(seen);
    else if (state_of(seen) == stop)
      return;
    else
      worker.run_if_pending();
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
  pool.take(count, workers_);
}

void Gang::release() {
  if (!pool_) return;
  if (!workers_.empty()) pool_->give_back(workers_);
  pool_ = nullptr;
}

void Gang::run(int parts, PartFn part, void* user) {
  const int others = std::min(parts, size()) - 1;
  for (int i = 0; i < others; ++i) workers_[i]->post(part, user, i + 1, parts);
  part(user, 0, parts);
  for (int p = others + 1; p < parts; ++p) part(user, p, parts);
  for (int i = 0; i < others; ++i) workers_[i]->run_if_pending();
  for (int i = 0; i < others; ++i) {
    auto finished = [&] { return state_of(workers_[i]->word.load(std::memory_order_acquire)) == done; };
    if (!finished()) spin_until(finished, std::chrono::microseconds(20), Clock::duration::zero());
  }
}

}  // namespace ag::runtime
