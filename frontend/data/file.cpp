#include "frontend/data/file.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

namespace ag::data {
namespace {

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Fd& operator=(Fd&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::string reason(int code) { return std::strerror(code); }

Status check_regular(int fd, const std::string& path, std::size_t max_bytes, const Loc& loc, struct stat& st) {
  if (::fstat(fd, &st) != 0) return fail(Code::AG0001, loc, fmt::format("cannot read `{}`: {}", path, reason(errno)));
  if (!S_ISREG(st.st_mode)) {
    std::string_view what = S_ISDIR(st.st_mode) ? "a directory" : "no regular file";
    return fail(Code::AG0001, loc, fmt::format("cannot read `{}`: it is {}", path, what));
  }
  if (static_cast<std::uint64_t>(st.st_size) > max_bytes)
    return fail(Code::AG0006, loc, fmt::format("`{}` has {} bytes; the limit is {}", path, st.st_size, max_bytes));
  return {};
}

/// Why a path may not be used at all; empty if it may.
std::string_view refuse_path(std::string_view path) {
  if (path.empty()) return "the path is empty";
  if (path.size() > 4096) return "the path is longer than 4096 bytes";
  if (path.find('\0') != path.npos) return "the path contains a NUL byte";
  if (path.find('\\') != path.npos) return "the path contains a backslash";
  if (path.front() == '/') return "the path is absolute";
  if (path.substr(0, path.find('/')).find(':') != path.npos) return "the path starts with a scheme or a drive";
  while (!path.empty()) {
    std::size_t slash = path.find('/');
    std::string_view part = path.substr(0, slash);
    if (part.empty() || part == ".") return "the path is not plain";
    if (part == "..") return "the path leaves its folder through `..`";
    if (slash == path.npos) break;
    path.remove_prefix(slash + 1);
    if (path.empty()) return "the path names a folder";
  }
  return {};
}

/// Opens `relative` below `folder`; errno says why not. Without openat2 no symbolic link is followed at all.
Fd open_beneath(const std::string& folder, const std::string& relative) {
  Fd dir(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!dir.ok()) return dir;
  open_how how{};
  how.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  int fd = static_cast<int>(::syscall(SYS_openat2, dir.get(), relative.c_str(), &how, sizeof how));
  if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return Fd(fd);
  std::size_t begin = 0;
  for (;;) {
    std::size_t slash = relative.find('/', begin);
    std::string part = relative.substr(begin, slash - begin);
    bool last = slash == std::string::npos;
    Fd next(::openat(dir.get(), part.c_str(),
                     O_NOFOLLOW | O_CLOEXEC | (last ? O_RDONLY | O_NONBLOCK | O_NOCTTY : O_PATH | O_DIRECTORY)));
    if (last || !next.ok()) return next;
    dir = std::move(next);
    begin = slash + 1;
  }
}

}  // namespace

Result<Bytes> read_file(const std::string& path, std::size_t max_bytes, const Loc& loc) {
  AG_TRY(BeneathFile file, BeneathFile::open_path(path, max_bytes, loc));
  return file.read_all(loc);
}

Result<Bytes> read_stdin(std::size_t max_bytes) {
  Bytes out;
  constexpr std::size_t chunk = 1 << 16;
  for (;;) {
    std::size_t old = out.size();
    out.resize(old + chunk);
    ssize_t n = ::read(0, out.data() + old, chunk);
    if (n < 0 && errno == EINTR)
      n = 0;
    else if (n < 0)
      return fail(Code::AG0001, {}, fmt::format("cannot read standard input: {}", reason(errno)));
    else if (n == 0) {
      out.resize(old);
      return out;
    }
    out.resize(old + static_cast<std::size_t>(n));
    if (out.size() > max_bytes)
      return fail(Code::AG0006, {}, fmt::format("standard input has more than {} bytes, the limit", max_bytes));
  }
}

Result<BeneathFile> BeneathFile::open_path(const std::string& path, std::size_t max_bytes, const Loc& loc) {
  if (path.find('\0') != path.npos) return fail(Code::AG0001, loc, "a file name cannot contain a NUL byte");
  Fd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (!fd.ok()) return fail(Code::AG0001, loc, fmt::format("cannot read `{}`: {}", path, reason(errno)));
  struct stat st{};
  AG_TRY_(check_regular(fd.get(), path, max_bytes, loc, st));
  return BeneathFile(fd.release(), static_cast<std::uint64_t>(st.st_size), path);
}

Result<BeneathFile> BeneathFile::open(const std::vector<std::string>& folders, std::string_view relative,
                                      const Limits& limits, const Loc& loc) {
  std::string path(relative);
  if (std::string_view why = refuse_path(relative); !why.empty())
    return fail(error(Code::AG0015, loc, fmt::format("data file `{}` is not allowed: {}", path, why))
                    .note("a graph may name files in its own folder and below, by a plain relative path"));
  if (folders.empty())
    return fail(error(Code::AG0015, loc,
                      fmt::format("data file `{}` is not allowed: the graph was not read from a folder", path))
                    .help("save the graph beside its data files and give its path"));
  int why = ENOENT;
  for (const std::string& folder : folders) {
    Fd fd = open_beneath(folder, path);
    if (!fd.ok()) {
      if (errno != ENOENT || why == 0) why = errno;
      continue;
    }
    struct stat st{};
    AG_TRY_(check_regular(fd.get(), path, limits.max_file_bytes, loc, st));
    if (st.st_nlink > 1 && !limits.allow_hard_links)
      return fail(
          Code::AG0015, loc,
          fmt::format("data file `{}` is not allowed: it is a hard link to a file that may lie elsewhere", path));
    return BeneathFile(fd.release(), static_cast<std::uint64_t>(st.st_size), std::move(path));
  }
  if (why == EXDEV || why == ELOOP)
    return fail(Code::AG0015, loc,
                fmt::format("data file `{}` is not allowed: a symbolic link leads out of the graph's folder", path));
  return fail(Code::AG0001, loc, fmt::format("cannot read `{}`: {}", path, reason(why)));
}

BeneathFile::BeneathFile(BeneathFile&& o) noexcept
    : fd_(std::exchange(o.fd_, -1)), size_(o.size_), path_(std::move(o.path_)) {}

BeneathFile::~BeneathFile() {
  if (fd_ >= 0) ::close(fd_);
}

Status BeneathFile::read(std::uint64_t offset, std::span<std::byte> into, const Loc& loc) const {
  for (std::size_t done = 0; done < into.size();) {
    ssize_t n = ::pread(fd_, into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(Code::AG0001, loc, fmt::format("cannot read `{}`: {}", path_, reason(errno)));
    if (n == 0)
      return fail(Code::AG0001, loc, fmt::format("cannot read `{}`: it became shorter while being read", path_));
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<Bytes> BeneathFile::read_all(const Loc& loc) const {
  Bytes out(size_, 0);
  AG_TRY_(read(0, std::as_writable_bytes(std::span(out)), loc));
  return out;
}

Result<Bytes> read_beneath(const std::vector<std::string>& folders, std::string_view relative, const Limits& limits,
                           const Loc& loc) {
  AG_TRY(BeneathFile file, BeneathFile::open(folders, relative, limits, loc));
  return file.read_all(loc);
}

namespace {

/// The code of the error, 0 for none.
int write_all(int fd, std::string_view bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    done += static_cast<std::size_t>(n);
  }
  return 0;
}

}  // namespace

Status write_file(const std::string& path, std::string_view bytes) {
  auto give_up = [&](int code) {
    return fail(Code::AG0020, {}, fmt::format("cannot write `{}`: {}", path, reason(code)));
  };
  struct stat st{};
  bool exists = ::stat(path.c_str(), &st) == 0;
  if (exists && S_ISDIR(st.st_mode)) return give_up(EISDIR);
  if (exists && !S_ISREG(st.st_mode)) {  // a device or a pipe is written to, never replaced by a file
    Fd device(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
    int code = device.ok() ? write_all(device.get(), bytes) : errno;
    return code == 0 ? Status{} : give_up(code);
  }
  // Behind a symbolic link the real file is replaced, not the link.
  std::error_code ec;
  std::string real = exists ? std::filesystem::canonical(path, ec).string() : path;
  if (ec) return give_up(ec.value());
  std::string temp = real + ".XXXXXX";
  Fd fd(::mkostemp(temp.data(), O_CLOEXEC));
  if (!fd.ok()) return give_up(errno);
  int code = write_all(fd.get(), bytes);
  mode_t mask = ::umask(0);
  ::umask(mask);
  if (code == 0 && (::fchmod(fd.get(), 0666 & ~mask) != 0 || ::fsync(fd.get()) != 0)) code = errno;
  if (code == 0 && ::rename(temp.c_str(), real.c_str()) != 0) code = errno;
  if (code == 0) return {};
  ::unlink(temp.c_str());
  return give_up(code);
}

}  // namespace ag::data
