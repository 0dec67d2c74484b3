#include "runtime/exec/gang.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "runtime/exec/fp_state.hpp"

using namespace ag::runtime;

TEST_CASE("tile ranges cover every tile once, in order") {
  for (std::int64_t tiles : {0LL, 1LL, 2LL, 7LL, 64LL, 1000003LL, 9007199254740993LL})
    for (int parts : {1, 2, 3, 5, 8, 100}) {
      std::int64_t at = 0;
      for (int p = 0; p < parts; ++p) {
        auto [lo, hi] = tile_range(tiles, p, parts);
        CHECK(lo == at);
        CHECK(hi >= lo);
        CHECK(hi - lo <= tiles / parts + 1);
        at = hi;
      }
      CHECK(at == tiles);
    }
  // A product part * tiles that overflows.
  CHECK(tile_range(INT64_MAX, 99, 100).hi == INT64_MAX);
}

namespace {
struct Count {
  std::vector<std::atomic<int>> runs;
  explicit Count(int n) : runs(n) {}
  static void part(void* self, int p, int) { static_cast<Count*>(self)->runs[p].fetch_add(1); }
  bool all(int n) {
    for (auto& r : runs)
      if (r.load() != n) return false;
    return true;
  }
};
}  // namespace

TEST_CASE("a gang runs each part once") {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads - 1);
    Gang gang;
    gang.acquire(pool, threads);
    REQUIRE(gang.size() == threads);
    REQUIRE(pool.started() == threads - 1);
    Count count(threads);
    for (int i = 0; i < 2000; ++i) gang.run(threads, Count::part, &count);
    CHECK(count.all(2000));
    for (int parts = 1; parts <= threads; ++parts) {
      Count few(parts);
      gang.run(parts, Count::part, &few);
      CHECK(few.all(1));
    }
  }
}

namespace {
/// Entries of random division; notes what was begun before what it waits for, and what was done twice.
struct Walk {
  std::vector<BlockEntry> entries;
  std::vector<std::vector<std::atomic<int>>> done;
  std::atomic<int> wrong{0};
  int size;

  Walk(unsigned seed, int threads, int count) : size(threads) {
    std::mt19937 gen(seed);
    for (int i = 0; i < count; ++i) {
      entries.push_back({static_cast<std::uint16_t>(1 + gen() % static_cast<unsigned>(threads)),
                         static_cast<std::uint16_t>(gen() % 3 ? 1 + gen() % 4 : 100)});
      done.emplace_back(static_cast<std::size_t>(threads));
    }
  }
  int parts(std::uint32_t i) const { return std::min<int>(entries[i].parts, size); }
  static void run(void* user, std::uint32_t i, int part, int parts) {
    auto& w = *static_cast<Walk*>(user);
    if (parts != w.parts(i)) ++w.wrong;
    for (std::uint32_t j = 0; j < i; ++j)
      for (int p = 0; p < w.parts(j); ++p)
        if (p == part || j + w.entries[i].behind <= i) w.wrong += w.done[j][static_cast<std::size_t>(p)] != 1;
    w.wrong += w.done[i][static_cast<std::size_t>(part)]++ != 0;
    if ((i * 7 + static_cast<std::uint32_t>(part)) % 23 == 0) std::this_thread::yield();
  }
  bool complete() const {
    for (std::uint32_t i = 0; i < entries.size(); ++i)
      for (int p = 0; p < size; ++p)
        if (done[i][static_cast<std::size_t>(p)] != (p < parts(i))) return false;
    return true;
  }
};
}  // namespace

TEST_CASE("threads walk a block in order, and wait for what an entry says, whoever does a part") {
  for (int threads : {2, 3, 5})
    for (auto park : {std::chrono::microseconds(1), std::chrono::microseconds(1000)}) {
      ThreadPool pool(threads - 1, {.park = park, .busy = std::chrono::microseconds(5)});
      Gang gang;
      gang.acquire(pool, threads);
      for (unsigned seed = 0; seed < 60; ++seed) {
        Walk walk(seed, threads, 1 + static_cast<int>(seed % 40));
        gang.run({Walk::run, &walk, walk.entries});
        REQUIRE(walk.wrong == 0);
        REQUIRE(walk.complete());
        if (seed % 8 == 0) gang.release(), gang.acquire(pool, threads);
      }
    }
}

TEST_CASE("a gang smaller than was planned makes every entry a barrier") {
  ThreadPool pool(1);
  Gang gang;
  gang.acquire(pool, 2);
  Walk walk(1, 2, 30);
  for (BlockEntry& e : walk.entries) e.parts = 7;
  auto barriers = walk.entries;
  for (BlockEntry& e : walk.entries) e.behind = 1;  // what is checked
  for (BlockEntry& e : barriers) e.behind = 100;
  gang.run({Walk::run, &walk, barriers, true});
  CHECK(walk.wrong == 0);
  CHECK(walk.complete());
}

TEST_CASE("no thread is started before it is wanted, none more than asked") {
  ThreadPool pool(5);
  CHECK(pool.started() == 0);
  Gang gang;
  gang.acquire(pool, 1);
  CHECK(gang.size() == 1);
  CHECK(pool.started() == 0);
  gang.acquire(pool, 3);
  CHECK(gang.size() == 3);
  CHECK(pool.started() == 2);
  gang.acquire(pool, 100);
  CHECK(gang.size() == 6);
}

TEST_CASE("workers busy in another gang are not waited for") {
  ThreadPool pool(2);
  Gang a, b, c;
  a.acquire(pool, 2);
  b.acquire(pool, 3);
  c.acquire(pool, 2);
  CHECK(a.size() == 2);
  CHECK(b.size() == 2);
  CHECK(c.size() == 1);
  Count count(1);
  c.run(1, Count::part, &count);
  CHECK(count.all(1));
  a.release();
  c.acquire(pool, 2);
  CHECK(c.size() == 2);
}

TEST_CASE("parked workers wake up, and the caller does not wait for them to") {
  ThreadPool pool(3, {.park = std::chrono::microseconds(10)});
  Gang gang;
  gang.acquire(pool, 4);
  Count count(4);
  for (int i = 0; i < 200; ++i) {
    gang.run(4, Count::part, &count);
    if (i % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
  CHECK(count.all(200));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK_FALSE(pool.hot());
}

TEST_CASE("workers do run parts") {
  ThreadPool pool(1);
  Gang gang;
  gang.acquire(pool, 2);
  struct Job {
    std::thread::id ids[2];
  } job;
  bool other = false;
  for (int i = 0; i < 200 && !other; ++i) {
    gang.run(
        2,
        [](void* j, int p, int) {
          static_cast<Job*>(j)->ids[p] = std::this_thread::get_id();
          auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(2);
          while (std::chrono::steady_clock::now() < until) {
          }
        },
        &job);
    CHECK(job.ids[0] == std::this_thread::get_id());
    other = job.ids[1] != job.ids[0];
  }
  CHECK(other);
}

TEST_CASE("many gangs on one pool at the same time") {
  ThreadPool pool(3);
  std::atomic<int> bad{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 6; ++t)
    callers.emplace_back([&] {
      Gang gang;
      for (int i = 0; i < 300; ++i) {
        gang.acquire(pool, 3);
        Count count(gang.size());
        for (int k = 0; k < 5; ++k) gang.run(gang.size(), Count::part, &count);
        if (!count.all(5)) ++bad;
        gang.release();
      }
    });
  for (auto& c : callers) c.join();
  CHECK(bad == 0);
  CHECK(pool.started() <= 3);
}

#if defined(__x86_64__)
TEST_CASE("kernels run with subnormals and round to nearest, the caller's state is restored") {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040 | 0x6000);  // FTZ, DAZ, towards zero
  {
    FpState fp;
    volatile float tiny = 1e-39f;
    CHECK(tiny + tiny > 0);
    CHECK((_mm_getcsr() & 0xe040) == 0);
  }
  CHECK((_mm_getcsr() & 0xe040) == 0xe040);
  _mm_setcsr(before);
}
#endif
