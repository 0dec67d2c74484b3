#include "runtime/exec/disk_cache.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "ir/base/sha256.hpp"

namespace ag::runtime {
namespace {

constexpr std::string_view magic = "ag kernel 1\n";
constexpr std::string_view suffix = ".agk", temporary = ".tmp-";
constexpr std::size_t digest_size = 64;
constexpr std::int64_t max_file_bytes = std::int64_t{64} << 20;
constexpr std::time_t touch_seconds = 600;   // how exact "used last" is: every use as a write would cost
constexpr std::time_t stale_seconds = 3600;  // a temporary file as old as this belongs to a process that died
constexpr std::uint64_t saves_between_trims = 1024;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::string digest(std::string_view text) { return sha256_hex(std::as_bytes(std::span(text))); }
std::string file_name(const std::string& key) { return digest(key).substr(0, 40) + std::string(suffix); }

std::string pack(const std::string& key, const std::string& bytes) {
  std::string out(magic);
  for (std::uint64_t n : {std::uint64_t{key.size()}, std::uint64_t{bytes.size()}})
    for (int i = 0; i < 8; ++i) out += static_cast<char>(n >> (8 * i));
  out += key;
  out += bytes;
  return out += digest(out);
}

/// The object in a file's content, if that is whole and of this key.
std::optional<std::string> unpack(const std::string& key, std::string_view file) {
  const std::size_t head = magic.size() + 16;
  if (file.size() < head + digest_size || !file.starts_with(magic)) return std::nullopt;
  auto number = [&](std::size_t at) {
    std::uint64_t n = 0;
    for (int i = 0; i < 8; ++i) n |= std::uint64_t{static_cast<unsigned char>(file[at + i])} << (8 * i);
    return n;
  };
  const std::size_t body = file.size() - head - digest_size;
  if (number(magic.size()) != key.size() || key.size() > body || number(magic.size() + 8) != body - key.size())
    return std::nullopt;
  if (file.substr(head, key.size()) != key) return std::nullopt;
  const std::string_view signed_part = file.substr(0, head + body);
  if (digest(signed_part) != file.substr(head + body)) return std::nullopt;
  return std::string(file.substr(head + key.size(), body - key.size()));
}

/// A regular file of this user, or nothing.
bool usable(int fd, struct stat& st) {
  return ::fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == ::geteuid() && st.st_size <= max_file_bytes;
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

std::string DiskCache::default_folder() {
  if (const char* own = std::getenv("AG_CACHE_DIR")) return own;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg == '/') return std::string(xdg) + "/ag";
  if (const char* home = std::getenv("HOME"); home && *home == '/') return std::string(home) + "/.cache/ag";
  return {};
}

Result<std::shared_ptr<DiskCache>> DiskCache::open(const std::string& folder, std::int64_t max_bytes) {
  auto refuse = [&](std::string why) {
    return fail(error(Code::AG0103, {}, fmt::format("the cache folder `{}` is not used: {}", folder, why))
                    .help("AG_CACHE_DIR names another one; set to nothing it turns the cache off"));
  };
  std::error_code ec;
  const auto parent = std::filesystem::path(folder).parent_path();
  if (!parent.empty()) std::filesystem::create_directories(parent, ec);
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return refuse(std::strerror(errno));
  Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.ok()) return refuse(errno == ENOTDIR || errno == ELOOP ? "it is no folder" : std::strerror(errno));
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return refuse(std::strerror(errno));
  if (st.st_uid != ::geteuid()) return refuse("it belongs to another user");
  if (st.st_mode & 077) return refuse("other users may look into it or write to it; its mode must be 0700");
  return std::shared_ptr<DiskCache>(new DiskCache(fd.release(), max_bytes));
}

DiskCache::~DiskCache() {
  if (saved_ % saves_between_trims != 0) trim();
  ::close(folder_);
}

std::optional<std::string> DiskCache::load(const std::string& key) {
  const std::string name = file_name(key);
  // Not blocking: a pipe of that name must not stop us.
  Fd fd(::openat(folder_, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat st;
  if (!fd.ok() || !usable(fd.get(), st)) return std::nullopt;
  std::string file(static_cast<std::size_t>(st.st_size), '\0');
  for (std::size_t done = 0; done < file.size();) {
    const ssize_t n = ::read(fd.get(), file.data() + done, file.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    done += static_cast<std::size_t>(n);
  }
  auto object = unpack(key, file);
  if (object && std::time(nullptr) - st.st_mtime > touch_seconds) ::futimens(fd.get(), nullptr);
  return object;
}

void DiskCache::save(const std::string& key, const std::string& bytes) {
  const std::string file = pack(key, bytes);
  if (static_cast<std::int64_t>(file.size()) > std::min(max_bytes_, max_file_bytes)) return;
  const std::uint64_t number = ++saved_;
  const std::string part = fmt::format("{}{}-{}-{:x}", temporary, ::getpid(), number,
                                       reinterpret_cast<std::uintptr_t>(this));  // other caches of this process
  {
    Fd fd(::openat(folder_, part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd.ok()) return;  // a full or read-only disk costs only time
    if (!write_all(fd.get(), file)) {
      ::unlinkat(folder_, part.c_str(), 0);
      return;
    }
  }
  if (::renameat(folder_, part.c_str(), folder_, file_name(key).c_str()) != 0) ::unlinkat(folder_, part.c_str(), 0);
  if (number % saves_between_trims == 0) trim();
}

void DiskCache::trim() {
  struct File {
    std::string name;
    std::int64_t bytes, used;
  };
  std::vector<File> files;
  std::int64_t sum = 0;
  DIR* dir = ::fdopendir(::openat(folder_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    const bool part = name.starts_with(temporary);
    struct stat st;
    if (!part && !name.ends_with(suffix)) continue;
    if (::fstatat(folder_, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (part) {
      if (std::time(nullptr) - st.st_mtime > stale_seconds) ::unlinkat(folder_, entry->d_name, 0);
      continue;
    }
    // What it takes on the disk, in nanoseconds since it was used.
    const std::int64_t bytes = std::max<std::int64_t>(st.st_size, std::int64_t{st.st_blocks} * 512);
    files.push_back({std::string(name), bytes, st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec});
    sum += bytes;
  }
  ::closedir(dir);
  if (sum <= max_bytes_) return;
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.used < b.used; });
  for (const File& f : files) {
    if (sum <= max_bytes_ / 4 * 3) break;
    ::unlinkat(folder_, f.name.c_str(), 0);
    sum -= f.bytes;
  }
}

}  // namespace ag::runtime
