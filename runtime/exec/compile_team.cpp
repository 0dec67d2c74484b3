#include "runtime/exec/compile_team.hpp"

#include <algorithm>
#include <system_error>
#include <utility>

namespace ag::runtime {

CompileTeam::CompileTeam(int threads, std::function<void()> prepare) : threads_(std::max(1, threads)) {
  if (threads_ == 1 || !prepare) return;
  try {
    others_.emplace_back([this, prepare = std::move(prepare)] {
      prepare();
      wait_and_work();
    });
  } catch (const std::system_error&) {  // fewer threads do the same
  }
}

CompileTeam::~CompileTeam() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  for (auto& t : others_) t.join();
}

void CompileTeam::run(std::size_t n, const std::function<void(std::size_t)>& job) {
  {
    std::lock_guard lock(mutex_);
    job_ = &job;
    jobs_ = n;
  }
  changed_.notify_all();
  const std::size_t wanted = std::min(n, static_cast<std::size_t>(threads_));
  try {
    while (others_.size() + 1 < wanted) others_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
  }
  work();
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  for (auto& t : others_) t.join();
  others_.clear();
}

void CompileTeam::work() {
  for (std::size_t i; (i = next_.fetch_add(1)) < jobs_;) (*job_)(i);
}

void CompileTeam::wait_and_work() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return job_ || closed_; });
  if (!job_) return;
  lock.unlock();
  work();
}

}  // namespace ag::runtime
