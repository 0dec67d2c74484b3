// run, bench, gradcheck: values, files, agreement between levels, targets and thread counts.
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/cli/command.hpp"

namespace {
const std::string two_dot = "ag-compile run examples/two_dot.json --input x=0,1,2,3 ";
}

TEST_CASE("run prints name, type and value in columns") {
  const std::string want = "y       f32[]   28\nx_grad  f32[4]  [0, 4, 8, 12]\n";
  for (const char* options :
       {"", "--no-cache", "-O0", "-O1", "-O 2", "-O3", "-q", "--interpret", "--target cpu:x86-64-v3", "--threads 1",
        "--threads=2", "--expect y=28 --expect x_grad=0,4,8,12"}) {
    Ran r = sh(two_dot + options);
    CAPTURE(options, r.err);
    CHECK(r.code == 0);
    CHECK(r.out == want);
    CHECK(r.err.empty());
  }
  CHECK(sh("ag-compile --target cpu:x86-64-v3 run examples/two_dot.json --input x=0,1,2,3").out == want);
  CHECK(sh("ag-compile --dim N=4 run --input x=iota examples/two_dot.json").out == want);
  CHECK(sh("AG_FLAGS='-O1 --input x=0,1,2,3' ag-compile run examples/two_dot.json").out == want);
  CHECK(sh("ag-compile run - --input x=0,1,2,3 < examples/two_dot.json").out == want);
}

TEST_CASE("long arrays are summed up") {
  Ran r = sh("ag-compile run examples/sum.json --input x=3,4 --print-max 1");
  CHECK(r.out == "y       f32[]   7\nx_grad  f32[2]  norm 1.4142135623730951, min 1, max 1\n");
}

TEST_CASE("gradients of the command line are added to the file's") {
  Ran r = sh(two_dot + "--grad y:d --grad-seed y=2");
  CAPTURE(r.err);
  CHECK(r.code == 0);
  CHECK(r.out == "y       f32[]   28\nx_grad  f32[4]  [0, 8, 16, 24]\nd_grad  f32[]   4\n");
  CHECK(sh("ag-compile run examples/plus_one.json --input x=1,2 --grad '\"y\":\"d\"'").code == 1);
}

TEST_CASE("every example agrees with the interpreter at every level and on both vector widths") {
  for (const Example& e : examples())
    for (const char* options : {"-O0", "-O2", "-O3", "-O2 --target cpu:x86-64-v3"}) {
      Ran r = sh("ag-compile run " + e.file + e.inputs + " --verify " + options);
      CAPTURE(e.file, options, r.err);
      CHECK(r.code == 0);
      CHECK(contains(r.out, "verified: "));
    }
}

TEST_CASE("every example gives the same bits at 1, 2 and 3 threads") {
  TempFolder t;
  for (const Example& e : examples()) {
    std::string first;
    for (const char* threads : {"1", "2", "3"}) {
      std::string file = t / (std::string("t") + threads + ".npz");
      Ran r = sh("ag-compile run -q " + e.file + e.inputs + " --threads " + threads + " --outputs " + file);
      CAPTURE(e.file, threads, r.err);
      REQUIRE(r.code == 0);
      std::string bytes = read_file(file);
      REQUIRE(bytes.size() > 100);
      if (first.empty()) first = bytes;
      CHECK((bytes == first));
    }
  }
}

TEST_CASE("outputs are inputs of the next run") {
  TempFolder t;
  std::string file = t / "y.npz";
  REQUIRE(sh(two_dot + "--outputs " + file).code == 0);
  Ran r = sh("ag-compile run examples/sum.json --input x=@" + file + ":x_grad");
  CHECK(contains(r.out, "y       f32[]   24\n"));
  // By name: no key is `x`, so nothing fits and everything is named.
  r = sh("ag-compile run examples/sum.json --inputs " + file);
  CHECK(r.code == 1);
  CHECK(contains(r.err, "no input is named"));
}

TEST_CASE("a comparison that fails exits with 3") {
  CHECK(sh(two_dot + "--expect y=28.1").code == 3);
  CHECK(sh(two_dot + "--expect y=28.1 --rtol 0.01").code == 0);
  CHECK(sh(two_dot + "--expect y=28.1 --rtol 0 --atol 0.01").code == 0);
}

TEST_CASE("bench prints one JSON object and nothing else") {
  for (const char* options : {"", " --print-ir-change --time-passes --print-fusion"}) {
    Ran r = sh(std::string(
                   "ag-compile bench examples/two_dot.json --input x=1,2 --threads 2 --time 0.01 --warmup 0 --json -") +
               options);
    CAPTURE(r.out, r.err);
    REQUIRE(r.code == 0);
    auto j = nlohmann::ordered_json::parse(r.out);
    std::vector<std::string> keys;
    for (const auto& item : j.items()) keys.push_back(item.key());
    CHECK(keys == std::vector<std::string>{"compile_ms", "load_ms", "min_ms", "median_ms", "peak_arena_bytes",
                                           "plan_bytes", "live_bytes", "kernels", "kernel_compile_ms", "threads"});
    CHECK(j["threads"] == 2);
    CHECK(j["kernels"] >= 1);
    CHECK(j["min_ms"] <= j["median_ms"]);
    CHECK(j["compile_ms"] > 0);
  }
}

TEST_CASE("gradcheck passes on every example that asks for gradients") {
  int checked = 0;
  for (const Example& e : examples()) {
    if (!contains(read_file(AG_SOURCE_DIR "/" + e.file), "\"grad\"")) continue;
    Ran r = sh("ag-compile gradcheck " + e.file + e.inputs);
    CAPTURE(e.file, r.out, r.err);
    CHECK(r.code == 0);
    CHECK(contains(r.out, " ok\n"));
    CHECK(!contains(r.out, "WRONG"));
    ++checked;
  }
  CHECK(checked >= 12);
  // Seeds by value, intermediates as variables, a tolerance that nothing meets.
  CHECK(sh("ag-compile gradcheck examples/two_dot.json --input x=1,2 --grad y:d --grad-seed y=3").code == 0);
  CHECK(sh("ag-compile gradcheck examples/pow3.json --input a=1.1,2 --rtol 0").code == 3);
}

TEST_CASE("a failed run leaves files as they were") {
  TempFolder t;
  std::string file = t.write("out.npz", "before");
  CHECK(sh(two_dot + "--expect q=1 --outputs " + file).code == 1);
  CHECK(sh("ag-compile run tests/cli/traps.json --input x=1 --input i=9 --input a=1 --outputs " + file).code == 1);
  CHECK(sh("ag-compile check nowhere.json -o " + file).code == 1);
  CHECK(sh("ag-compile examples/two_dot.json --emit ptx -o " + file).code == 1);
  CHECK(read_file(file) == "before");
  CHECK(sh(two_dot + "-q --outputs " + file).code == 0);
  CHECK(read_file(file).substr(0, 2) == "PK");
  auto files = std::distance(std::filesystem::directory_iterator(t.path()), std::filesystem::directory_iterator());
  CHECK(files == 1);
}

TEST_CASE("devices and links are written through, not replaced") {
  TempFolder t;
  CHECK(sh(two_dot + "--outputs /dev/null").code == 0);
  CHECK(std::filesystem::is_character_file("/dev/null"));
  CHECK(sh(two_dot + "--outputs /dev/full").code == 1);
  CHECK(std::filesystem::is_character_file("/dev/full"));
  std::string real = t.write("real", "before"), link = t / "link";
  std::filesystem::create_symlink(real, link);
  CHECK(sh("ag-compile examples/sum.json --emit ir -o " + link).code == 0);
  CHECK(std::filesystem::is_symlink(link));
  CHECK(contains(read_file(real), "ag.ir 1"));
}
