// Two threads that share a job: what benchmarks put beside the threads of ag.
#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

namespace ag::bench {

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
