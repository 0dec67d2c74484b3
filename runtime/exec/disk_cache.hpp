// Compiled kernels as files, kept between processes.
//
// A file is named by the SHA-256 of its key and holds magic, key, object and the SHA-256 of all of that; what does not
// check out is as good as absent and replaced at the next save. Files are written under another name and renamed, so
// any number of processes may share a folder. The folder belongs to the user alone (mode 0700): machine code found in
// it is run. Keys and objects are made from loops; nothing of a user's text is in them.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "ir/base/diag.hpp"
#include "runtime/exec/compile_cache.hpp"

namespace ag::runtime {

class DiskCache final : public ObjectStore {
 public:
  static constexpr std::int64_t default_limit = std::int64_t{128} << 20;

  /// The folder is made if it is missing. Errors: AG0103, it cannot be made or opened, or is not the user's alone.
  static Result<std::shared_ptr<DiskCache>> open(const std::string& folder, std::int64_t max_bytes = default_limit);
  /// AG_CACHE_DIR, else XDG_CACHE_HOME/ag, else HOME/.cache/ag; empty if AG_CACHE_DIR is, or if nothing is set.
  static std::string default_folder();

  ~DiskCache() override;
  std::optional<std::string> load(const std::string& key) override;
  void save(const std::string& key, const std::string& bytes) override;
  /// Deletes what was used longest ago until no more than three quarters of the limit are left, if it is exceeded.
  void trim();

 private:
  DiskCache(int folder, std::int64_t max_bytes) : folder_(folder), max_bytes_(max_bytes) {}

  const int folder_;  // descriptor: the folder that was checked is the one that is used
  const std::int64_t max_bytes_;
  std::atomic<std::uint64_t> saved_{0};
};

}  // namespace ag::runtime
