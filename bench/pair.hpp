// Two threads that share a job: what benchmarks put beside the threads of ag.
#pragma once
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <thread>

#include "runtime/exec/gang.hpp"

namespace ag::bench {

/// A worker that keeps its core while it waits, as the reference's does, whatever else the machine does.
inline std::shared_ptr<runtime::ThreadPool> patient_pool() {
  using namespace std::chrono_literals;
  return std::make_shared<runtime::ThreadPool>(1, runtime::SpinPolicy{.park = 1ms, .busy = 1s, .crowded = 1s});
}

/// While it lives, the calling thread keeps to one core and all others of the process to the next one, those of ag and
/// those of a reference alike: where other programs run, the two halves of a job would otherwise meet on one core.
class KeptCores {
 public:
  KeptCores() {
    if (sched_getaffinity(0, sizeof all_, &all_) != 0 || CPU_COUNT(&all_) < 2) return;
    cpu_set_t own, others;
    CPU_ZERO(&own);
    CPU_ZERO(&others);
    int c = 0;
    while (!CPU_ISSET(c, &all_)) ++c;
    CPU_SET(c++, &own);
    while (!CPU_ISSET(c, &all_)) ++c;
    CPU_SET(c, &others);
    set(own, others);
    set_ = true;
  }
  ~KeptCores() {
    if (set_) set(all_, all_);
  }
  KeptCores(const KeptCores&) = delete;
  KeptCores& operator=(const KeptCores&) = delete;

 private:
  cpu_set_t all_;
  bool set_ = false;

  static void set(const cpu_set_t& own, const cpu_set_t& others) {
    std::error_code ignored;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", ignored)) {
      const int thread = std::atoi(task.path().filename().c_str());
      sched_setaffinity(thread, sizeof own, thread == gettid() ? &own : &others);
    }
  }
};

/// Half of a job for this thread, half for a second one, which spins for a while after it and then sleeps, as the
/// threads of ag do: neither may keep a core from the other.
class Pair {
 public:
  Pair() : other_([this] { loop(); }) {}
  ~Pair() {
    stop_ = true;
    go_.fetch_add(1);
    go_.notify_one();
    other_.join();
  }
  void run(const std::function<void(int)>& job) {
    job_ = &job;
    go_.fetch_add(1);
    go_.notify_one();
    job(0);
    while (done_.load(std::memory_order_acquire) != go_.load()) __builtin_ia32_pause();
  }

 private:
  const std::function<void(int)>* job_ = nullptr;
  std::atomic<int> go_ = 0, done_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread other_;

  void loop() {
    for (int seen = 0;;) {
      for (auto since = std::chrono::steady_clock::now();
           go_.load() == seen && std::chrono::steady_clock::now() - since < std::chrono::milliseconds(1);)
        __builtin_ia32_pause();
      go_.wait(seen);
      if (stop_) return;
      (*job_)(1);
      done_.store(++seen, std::memory_order_release);
    }
  }
};

}  // namespace ag::bench
