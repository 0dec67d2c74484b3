// The cache of machine code in files: what is damaged, foreign or unsafe is not used; processes share it; it stays
// small.
#include "runtime/exec/disk_cache.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "codegen/backend.hpp"
#include "ir/builder.hpp"
#include "runtime/engine.hpp"

namespace fs = std::filesystem;
using namespace ag;
using namespace ag::runtime;

namespace {

/// A folder of this test's own, removed at its end; the cache is a folder in it.
struct Place {
  fs::path root;
  std::string folder;
  Place() {
    std::string name = (fs::temp_directory_path() / "ag-cache-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()));
    root = name;
    folder = (root / "cache" / "ag").string();
  }
  ~Place() { fs::remove_all(root); }
  std::shared_ptr<DiskCache> open(std::int64_t limit = DiskCache::default_limit) const {
    auto cache = DiskCache::open(folder, limit);
    REQUIRE(cache);
    return *cache;
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> out;
    for (const auto& e : fs::directory_iterator(folder)) out.push_back(e.path());
    return out;
  }
  fs::path only() const {
    REQUIRE(files().size() == 1);
    return files()[0];
  }
};

std::string read(const fs::path& p) {
  std::ifstream in(p, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write(const fs::path& p, const std::string& bytes) {
  std::ofstream(p, std::ios::binary | std::ios::trunc) << bytes;
}

std::string object_of(int i) {
  return std::string(static_cast<std::size_t>(3000 + i), static_cast<char>('a' + i % 26));
}

void refused(const std::string& folder, const std::string& why) {
  auto cache = DiskCache::open(folder);
  REQUIRE(!cache);
  CHECK(cache.error().front().code == Code::AG0103);
  CHECK(cache.error().front().message.find(why) != std::string::npos);
}

Graph tanh_graph() {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", Type{DType::f32, {Dim(64)}});
  g.outputs.push_back({"y", b.mul(x, b.add(x, x)), {}});
  return g;
}

std::size_t compiled_anew(Engine& engine, const EngineOptions& options) {
  auto c = engine.compile(tanh_graph(), options);
  REQUIRE(c);
  std::size_t n = 0;
  for (const auto& k : c->report.kernels) n += !k.cached;
  return n;
}

}  // namespace

TEST_CASE("objects are found again by another process's cache", "[disk_cache]") {
  Place place;
  {
    auto cache = place.open();
    CHECK(!cache->load("key"));
    cache->save("key", object_of(1));
    cache->save("other", object_of(2));
    cache->save("empty", "");
  }
  auto cache = place.open();
  CHECK(cache->load("key") == object_of(1));
  CHECK(cache->load("other") == object_of(2));
  CHECK(cache->load("empty") == "");
  CHECK(!cache->load("third"));
  cache->save("key", object_of(3));
  CHECK(cache->load("key") == object_of(3));
  CHECK(place.files().size() == 3);
}

TEST_CASE("folder and files are the user's alone", "[disk_cache]") {
  Place place;
  auto cache = place.open();
  cache->save("key", object_of(1));
  struct stat st;
  REQUIRE(::stat(place.folder.c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0700);
  REQUIRE(::stat(place.only().c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
}

TEST_CASE("damaged files are as good as absent and are replaced", "[disk_cache]") {
  Place place;
  auto cache = place.open();
  cache->save("key", object_of(1));
  const fs::path file = place.only();
  const std::string whole = read(file);
  auto gone = [&](const std::string& bytes) {
    write(file, bytes);
    CHECK(!cache->load("key"));
  };
  for (std::size_t i = 0; i < whole.size(); i += i < 64 || i + 80 > whole.size() ? 1 : 97) {
    std::string bad = whole;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    gone(bad);
  }
  for (std::size_t n : {std::size_t{0}, std::size_t{5}, std::size_t{28}, whole.size() / 2, whole.size() - 1})
    gone(whole.substr(0, n));
  gone(whole + "x");
  gone(whole + whole);
  cache->save("key", object_of(1));
  CHECK(cache->load("key") == object_of(1));
  CHECK(read(file) == whole);
}

TEST_CASE("a file under another key's name is not that key's object", "[disk_cache]") {
  Place place;
  auto cache = place.open();
  cache->save("a", object_of(1));
  const fs::path a = place.only();
  cache->save("b", object_of(2));
  for (const fs::path& b : place.files())
    if (b != a) fs::copy_file(a, b, fs::copy_options::overwrite_existing);
  CHECK(!cache->load("b"));
  CHECK(cache->load("a") == object_of(1));
}

TEST_CASE("links, pipes and folders in place of a file are not read", "[disk_cache]") {
  Place place;
  auto cache = place.open();
  cache->save("key", object_of(1));
  const fs::path file = place.only(), elsewhere = place.root / "elsewhere";
  fs::rename(file, elsewhere);
  fs::create_symlink(elsewhere, file);
  CHECK(!cache->load("key"));
  fs::remove(file);
  REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
  CHECK(!cache->load("key"));
  fs::remove(file);
  fs::create_directory(file);
  CHECK(!cache->load("key"));
  cache->save("key", object_of(1));  // cannot replace a folder; leaves nothing behind
  CHECK(place.files().size() == 1);
  fs::remove(file);
  cache->save("key", object_of(1));
  CHECK(cache->load("key") == object_of(1));
}

TEST_CASE("folders that others may use are refused", "[disk_cache]") {
  Place place;
  place.open();
  for (mode_t mode : {0755, 0710, 0702}) {
    REQUIRE(::chmod(place.folder.c_str(), mode) == 0);
    refused(place.folder, "0700");
  }
  REQUIRE(::chmod(place.folder.c_str(), 0700) == 0);
  const fs::path link = place.root / "link", file = place.root / "file";
  fs::create_directory_symlink(place.folder, link);
  refused(link.string(), "no folder");
  write(file, "");
  refused(file.string(), "no folder");
  refused((file / "below").string(), "");
  if (::geteuid() == 0) {
    REQUIRE(::chown(place.folder.c_str(), 12345, 12345) == 0);
    refused(place.folder, "another user");
  }
}

TEST_CASE("processes write and read the same keys at the same time", "[disk_cache]") {
  Place place;
  place.open();
  std::vector<pid_t> children;
  for (int p = 0; p < 4; ++p) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      auto cache = DiskCache::open(place.folder, 40'000);  // so small that they also delete each other's files
      bool good = cache.has_value();
      for (int i = 0; good && i < 300; ++i) {
        const int k = (i * 7 + p) % 20;
        auto found = (*cache)->load(fmt::format("key{}", k));
        good = !found || *found == object_of(k);
        (*cache)->save(fmt::format("key{}", k), object_of(k));
        if (i % 50 == 49) (*cache)->trim();
      }
      ::_exit(good ? 0 : 1);
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  }
  for (const fs::path& f : place.files()) CHECK(f.extension() == ".agk");  // no temporary files are left
}

TEST_CASE("the cache stays within its limit and keeps what was used last", "[disk_cache]") {
  Place place;
  {
    auto cache = place.open(200'000);
    for (int i = 0; i < 100; ++i) {
      cache->save(fmt::format("key{}", i), object_of(i));
      for (const fs::path& f : place.files()) {  // older by a day, so that a use shows
        timespec times[2] = {{::time(nullptr) - 86'400, 0}, {::time(nullptr) - 86'400, 0}};
        if (i < 99) ::utimensat(AT_FDCWD, f.c_str(), times, 0);
      }
    }
    CHECK(cache->load("key7") == object_of(7));
    write(fs::path(place.folder) / "notes.txt", "not ours");
    write(fs::path(place.folder) / ".tmp-1-1-a", "of a process that is at work");
    write(fs::path(place.folder) / ".tmp-1-1-b", "of a process that died");
    timespec old[2] = {{::time(nullptr) - 86'400, 0}, {::time(nullptr) - 86'400, 0}};
    ::utimensat(AT_FDCWD, (fs::path(place.folder) / ".tmp-1-1-b").c_str(), old, 0);
  }
  std::int64_t sum = 0;
  for (const fs::path& f : place.files())
    if (f.extension() == ".agk") sum += static_cast<std::int64_t>(fs::file_size(f));
  CHECK(sum <= 200'000);
  CHECK(sum > 50'000);
  auto cache = place.open(200'000);
  CHECK(cache->load("key7") == object_of(7));
  CHECK(cache->load("key99") == object_of(99));
  CHECK(fs::exists(fs::path(place.folder) / "notes.txt"));
  CHECK(fs::exists(fs::path(place.folder) / ".tmp-1-1-a"));
  CHECK(!fs::exists(fs::path(place.folder) / ".tmp-1-1-b"));
  cache->save("huge", std::string(300'000, 'x'));
  CHECK(!cache->load("huge"));
}

TEST_CASE("engines of several processes compile once; options and versions have entries of their own", "[disk_cache]") {
  Place place;
  EngineOptions options{.cache_folder = place.folder};
  auto first = Engine::create(), second = Engine::create(), third = Engine::create();
  CHECK(compiled_anew(**first, options) == 1);
  CHECK(compiled_anew(**second, options) == 0);
  EngineOptions other = options;
  other.target = "cpu:x86-64-v3";
  CHECK(compiled_anew(**second, other) == 1);
  other = options;
  other.use_cache = false;
  CHECK(compiled_anew(**second, other) == 1);
  for (const fs::path& f : place.files()) {
    const std::string bytes = read(f);
    CHECK(bytes.find(codegen::code_version()) != std::string::npos);  // another version, another key
    write(f, bytes.substr(0, bytes.size() / 2));
  }
  CHECK(compiled_anew(**third, options) == 1);
  CHECK(compiled_anew(**Engine::create(), options) == 0);
}

TEST_CASE("a cache folder that cannot be used is a warning, and no more", "[disk_cache]") {
  Place place;
  place.open();
  REQUIRE(::chmod(place.folder.c_str(), 0777) == 0);
  auto engine = Engine::create();
  for (int i = 0; i < 2; ++i) {
    auto c = (*engine)->compile(tanh_graph(), {.cache_folder = place.folder});
    REQUIRE(c);
    REQUIRE(c->report.warnings.size() == 1);
    CHECK(c->report.warnings[0].code == Code::AG0103);
    CHECK(c->report.warnings[0].level == Level::warning);
  }
  CHECK(place.files().empty());
}
