// Files as bytes: only regular ones, never more than was checked, never outside the folder that was given.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/base/diag.hpp"

namespace ag::data {

/// What data files may cost.
struct Limits {
  std::size_t max_file_bytes = std::size_t{64} << 30;
  std::size_t max_array_bytes = std::size_t{16} << 30;  ///< of one array, whether read, filled or random
  bool allow_hard_links = false;  ///< a data file named by a graph may have several names
};

using Bytes = std::string;

/// The whole file. AG0001 if it is missing or not a regular file (a pipe or device never blocks us), AG0006 beyond
/// `max_bytes`. `loc` is the place that names the file, unknown for a command line.
Result<Bytes> read_file(const std::string& path, std::size_t max_bytes, const Loc& loc = {});
/// Everything from standard input, at most `max_bytes`.
Result<Bytes> read_stdin(std::size_t max_bytes);

/// An open file to be read in parts: one that a graph names, under the conditions of read_beneath, or the graph's own.
class BeneathFile {
 public:
  /// Under the conditions of read_file.
  static Result<BeneathFile> open_path(const std::string& path, std::size_t max_bytes, const Loc& loc = {});
  static Result<BeneathFile> open(const std::vector<std::string>& folders, std::string_view relative,
                                  const Limits& limits, const Loc& loc);
  BeneathFile(BeneathFile&& o) noexcept;
  BeneathFile& operator=(BeneathFile&&) = delete;
  ~BeneathFile();
  std::uint64_t size() const { return size_; }
  /// Exactly these bytes; AG0001 if the file became shorter than it was when it was opened.
  Status read(std::uint64_t offset, std::span<std::byte> into, const Loc& loc) const;
  Result<Bytes> read_all(const Loc& loc) const;

 private:
  BeneathFile(int fd, std::uint64_t size, std::string path) : fd_(fd), size_(size), path_(std::move(path)) {}
  int fd_;
  std::uint64_t size_;
  std::string path_;
};

/// A file that a graph names. `folders` are those it may lie in (the graph file's own, the one of the file behind a
/// symbolic link); empty: the graph came from no folder, so no file may be named. The path must be relative and
/// plain, and the kernel resolves it without leaving the folder; what was checked is what is read. AG0015.
Result<Bytes> read_beneath(const std::vector<std::string>& folders, std::string_view relative, const Limits& limits,
                           const Loc& loc);

/// Writes a temporary file beside `path` and renames it; an existing file stays whole if anything fails. AG0020.
Status write_file(const std::string& path, std::string_view bytes);

}  // namespace ag::data
