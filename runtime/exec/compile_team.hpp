// The threads of one compilation: one of them may prepare while the caller is still busy with passes.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ag::runtime {

class CompileTeam {
 public:
  /// Up to `threads` threads, the calling one included. If it may be more than that one, another starts at once and
  /// calls `prepare`, if there is something to prepare. Neither `prepare` nor a job may throw.
  explicit CompileTeam(int threads, std::function<void()> prepare = {});
  ~CompileTeam();
  CompileTeam(const CompileTeam&) = delete;
  CompileTeam& operator=(const CompileTeam&) = delete;

  /// Calls job(i) for each i in [0, n), in ascending order as threads get free. Once per team.
  void run(std::size_t n, const std::function<void(std::size_t)>& job);

 private:
  void work();
  void wait_and_work();

  const int threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void(std::size_t)>* job_ = nullptr;
  std::size_t jobs_ = 0;
  bool closed_ = false;
  std::atomic<std::size_t> next_{0};
  std::vector<std::thread> others_;
};

}  // namespace ag::runtime
