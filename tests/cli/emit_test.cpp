// What can be printed: kinds, stages, passes, tables, diagnostics; and that printed text is an input.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli/command.hpp"

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

const std::string two_dot = "ag-compile examples/two_dot.json ";

}  // namespace

TEST_CASE("help fits 60 lines and 120 columns and names every command") {
  for (const char* line :
       {"ag-compile --help", "ag-compile -h", "ag-compile help", "ag-compile", "ag-compile run --help"}) {
    Ran r = sh(line);
    CHECK(r.code == 0);
    auto lines = lines_of(r.out);
    CHECK(lines.size() > 30);
    CHECK(lines.size() <= 60);
    for (const std::string& l : lines) CHECK(l.size() <= 120);
    for (const char* name : {"compile", "check", "convert", "opt", "run", "bench", "gradcheck", "conform", "inspect",
                             "ops", "targets", "explain"})
      CHECK(contains(r.out, name));
  }
  CHECK(sh("ag-compile --version").out.starts_with("ag-compile "));
}

TEST_CASE("emitted IR is an input that gives the same text") {
  for (const Example& e : examples()) {
    Ran r = sh("ag-compile compile " + e.file + " --emit ir");
    CAPTURE(e.file, r.err);
    REQUIRE(r.code == 0);
    CHECK(r.out.starts_with("ag.ir 1 stage=autodiff"));
    Ran again = sh("ag-compile compile " + e.file + " --emit ir | ag-compile compile - --emit ir");
    CHECK(again.code == 0);
    CHECK((again.out == r.out));
    // Later stages too: the text goes on from the stage that it names.
    Ran late = sh("ag-compile " + e.file + " --stage dce.2 | ag-compile - --stage dce.2");
    CHECK(late.code == 0);
    CHECK((late.out == sh("ag-compile " + e.file + " --stage dce.2").out));
  }
}

TEST_CASE("a text runs as its graph does") {
  TempFolder t;
  for (const Example& e : examples()) {
    std::string text = t / "g.ag";
    REQUIRE(sh("ag-compile " + e.file + " --emit ir -o " + text).code == 0);
    Ran a = sh("ag-compile run -q " + e.file + e.inputs), b = sh("ag-compile run -q " + text + e.inputs);
    CAPTURE(e.file, b.err);
    CHECK(b.code == 0);
    CHECK((a.out == b.out));
  }
}

TEST_CASE("canonical JSON converts to itself") {
  for (const Example& e : examples()) {
    Ran once = sh("ag-compile convert " + e.file),
        twice = sh("ag-compile convert " + e.file + " | ag-compile convert - --to json");
    CAPTURE(e.file, once.err, twice.err);
    CHECK(once.code == 0);
    CHECK((once.out == twice.out));
    CHECK(nlohmann::json::parse(once.out)["ag"] == 1);
  }
}

TEST_CASE("every kind can be emitted") {
  TempFolder t;
  CHECK(contains(sh(two_dot + "--emit loops").out, "kernel @k0("));
  CHECK(contains(sh(two_dot + "--emit llvm").out, "define void @k0("));
  CHECK(contains(sh(two_dot + "--emit asm").out, "vfmadd"));
  CHECK(contains(sh(two_dot + "--emit asm").out, "zmm") == contains(sh("ag-compile targets").out, "512 bit"));
  CHECK(!contains(sh(two_dot + "--emit asm --target cpu:x86-64-v3").out, "zmm"));
  CHECK(sh(two_dot + "--emit dot").out.starts_with("digraph ag {"));
  CHECK(nlohmann::json::parse(sh(two_dot + "--emit json").out)["outputs"] == std::vector<std::string>{"y", "x_grad"});
  CHECK(sh(two_dot + "--emit obj -o " + (t / "k.o")).code == 0);
  CHECK(read_file(t / "k.o").substr(1, 3) == "ELF");
  CHECK(sh(two_dot + "--emit ir,json,obj -o " + (t / "all")).code == 0);
  for (const char* suffix : {".ir", ".json", ".obj"}) CHECK(read_file((t / "all") + suffix).size() > 100);
}

TEST_CASE("PTX for GPUs, once there is a mapping to them") {
  Ran r = sh("ag-compile examples/sum.json --target cuda:sm_80 --emit ptx");
  CAPTURE(r.err);
  if (contains(sh("ag-compile --list-passes").out, "gpu_map")) {
    CHECK(r.code == 0);
    CHECK(contains(r.out, ".visible .entry"));
  } else {
    CHECK(r.code == 1);
    CHECK(contains(r.err, "gpu_map"));
  }
}

TEST_CASE("stages and passes are listed, and each stage can be shown") {
  auto stages = lines_of(sh("ag-compile --list-stages").out);
  REQUIRE(stages.size() > 10);
  CHECK(stages[0] == "import");
  for (const std::string& s : stages) {
    Ran r = sh(two_dot + "--stage " + s);
    CAPTURE(s, r.err);
    CHECK(r.code == 0);
    CHECK((contains(r.out, "stage=" + s + " ") || r.out.starts_with("program ")));
  }
  for (const std::string& line : lines_of(sh("ag-compile --list-passes").out)) {
    Ran r = sh("ag-compile --list-stages");
    std::string name = line.substr(0, line.find(' '));
    CHECK((contains(r.out, name) || name == "gpu_map"));
  }
  CHECK(lines_of(sh("ag-compile --list-stages -O0").out).size() < stages.size());
}

TEST_CASE("passes can be chosen, left out and watched") {
  CHECK(contains(sh(two_dot + "--passes autodiff,cse --emit ir").out, "stage=autodiff"));
  CHECK(contains(sh("ag-compile opt examples/two_dot.json --passes autodiff,cse").out, "stage=cse"));
  std::string all = sh("ag-compile opt examples/two_dot.json --print-ir-change").out;
  CHECK(contains(all, "// ----- autodiff\nag.ir 1 stage=autodiff"));
  CHECK(contains(all, "// ----- fold: omitted because no change\n"));
  CHECK(all == sh("ag-compile opt --print-ir-change examples/two_dot.json").out);
  std::string diff = sh("ag-compile opt examples/two_dot.json --print-ir-change=diff --filter-pass '^cse$'").out;
  CHECK(diff.starts_with("// ----- cse\n"));
  CHECK(contains(diff, "\n-"));
  CHECK(!contains(diff, "autodiff\n"));
  CHECK(!contains(sh("ag-compile opt examples/two_dot.json --print-ir-change --disable-pass cse").out, "----- cse"));
  CHECK(sh("ag-compile opt examples/two_dot.json --print-ir-before cse").out.starts_with("// ----- before cse\n"));
  CHECK(sh("ag-compile opt examples/two_dot.json --print-ir-after cse --verify-each")
            .out.starts_with("// ----- after cse\n"));
  std::string every = sh("ag-compile opt examples/two_dot.json --print-ir-after all").out;
  CHECK(contains(every, "// ----- after dce.2\n"));
  std::string times = sh(two_dot + "--time-passes").out;
  CHECK(contains(times, "autodiff"));
  bool cse_changed = false, fold_changed = true;
  for (const std::string& l : lines_of(times)) {
    if (l.starts_with("cse ")) cse_changed = l.ends_with(" changed");
    if (l.starts_with("fold ")) fold_changed = !l.ends_with(" no change");
  }
  CHECK(cse_changed);
  CHECK(!fold_changed);
  CHECK(contains(sh(two_dot + "--print-fusion").out, "group"));
}

TEST_CASE("what is told beside emitted text goes to standard error") {
  std::string plain = sh(two_dot + "--emit ir").out;
  Ran r = sh(two_dot + "--emit ir --print-ir-change --time-passes");
  CHECK(r.out == plain);
  CHECK(contains(r.err, "// ----- autodiff"));
}

TEST_CASE("a dump folder gets a file after every pass, and each graph is an input") {
  TempFolder t;
  std::string folder = t / "dumps";
  Ran r = sh("ag-compile run examples/two_dot.json --input x=1,2 --dump-dir " + folder);
  CHECK(r.code == 0);
  CHECK(contains(r.out, folder));
  std::size_t graphs = 0, loops = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() == ".loops") ++loops;
    if (file.path().extension() != ".ag") continue;
    ++graphs;
    CAPTURE(file.path().string());
    CHECK(sh("ag-compile run " + file.path().string() + " --input x=0,1,2,3 --expect y=28 --expect x_grad=0,4,8,12")
              .code == 0);
  }
  std::vector<std::string> stages = lines_of(sh("ag-compile --list-stages").out);  // the import, graphs, then programs
  auto lowered = std::find(stages.begin(), stages.end(), "lower");
  REQUIRE(lowered != stages.end());
  CHECK(graphs == static_cast<std::size_t>(lowered - stages.begin()) - 1);
  CHECK(loops == static_cast<std::size_t>(stages.end() - lowered));
}

TEST_CASE("long constants move to files and come back") {
  TempFolder t;
  std::string graph = t.write(
      "g.json",
      R"({ "ag": 1, "inputs": [{ "name": "x", "type": "f32[N]" }],
    "initializers": [{ "name": "w", "type": "f32[40]", "data": [)" +
          [] {
            std::string s;
            for (int i = 0; i < 40; ++i) s += (i ? "," : "") + std::to_string(i * i) + ".5";
            return s;
          }() +
          R"(] }], "nodes": [{ "op": "ReduceSum", "in": ["w"], "out": "s", "attrs": { "keepdims": 0 } },
                         { "op": "Mul", "in": ["x", "s"], "out": "y" }],
    "outputs": ["y"] })");
  std::string want = sh("ag-compile run " + graph + " --input x=1,2").out;
  REQUIRE(contains(want, "y  f32[2]  [20560, 41120]"));
  std::string run = " run - --input x=1,2 ";
  CHECK(sh("ag-compile " + graph + " --emit ir | ag-compile" + run).out == want);
  std::string emit = "ag-compile " + graph + " --emit ir --resources " + (t / "res");
  CHECK(sh(emit + " | ag-compile" + run + "--resources " + (t / "res")).out == want);
  std::filesystem::remove_all(t / "res");
  Ran r = sh("ag-compile " + graph + " --emit ir --elide-weights | ag-compile" + run);
  CHECK(r.code == 1);
  CHECK(contains(r.err, "AG0304"));
}

TEST_CASE("diagnostics as JSON are one object a line, with rustc's names and a pointer") {
  TempFolder t;
  std::string graph = t.write(
      "bad.json",
      "{ \"ag\": 1,\n  \"inputs\": [ { \"name\": \"x\", \"type\": \"f32[N]\" } ],\n"
      "  \"nodes\": [ { \"op\": \"Mull\", \"in\": [\"x\", \"z\"], \"out\": \"y\" } ],\n  \"outputs\": [\"q\"] }\n");
  Ran r = sh("ag-compile check " + graph + " --diagnostics json");
  CHECK(r.code == 1);
  CHECK(r.out.empty());
  auto lines = lines_of(r.err);
  CHECK(lines.size() >= 2);
  for (const std::string& line : lines) {
    CAPTURE(line);
    auto j = nlohmann::json::parse(line);
    for (const char* key : {"level", "code", "message", "spans", "children", "pointer"}) CHECK(j.contains(key));
    CHECK(j["level"] == "error");
    REQUIRE(!j["spans"].empty());
    for (const char* key : {"file_name", "line_start", "line_end", "column_start", "column_end", "is_primary", "label"})
      CHECK(j["spans"][0].contains(key));
    CHECK(j["spans"][0]["file_name"] == graph);
    CHECK((j["spans"][0]["line_start"] == 3 || j["spans"][0]["line_start"] == 4));
    CHECK(j["pointer"].get<std::string>().starts_with("/"));
  }
  Ran brief = sh("ag-compile check " + graph + " --diagnostics short");
  CHECK(brief.code == 1);
  CHECK(lines_of(brief.err).size() == lines.size());
  for (const std::string& line : lines_of(brief.err)) CHECK(line.starts_with(graph + ":"));
}

TEST_CASE("check, inspect, ops, targets and explain") {
  for (const Example& e : examples()) {
    Ran r = sh("ag-compile check " + e.file);
    CAPTURE(e.file, r.err);
    CHECK(r.code == 0);
    CHECK(r.out == e.file + ": ok\n");
  }
  CHECK(sh("ag-compile check -q examples/sum.json").out.empty());
  std::string inspect = sh("ag-compile inspect examples/digits.json").out;
  CHECK(contains(inspect, "9610 parameters (38440 bytes)"));
  CHECK(contains(inspect, "x_train"));
  CHECK(contains(sh("ag-compile ops Mul").out, "a * b"));
  CHECK(lines_of(sh("ag-compile ops").out).size() > 70);
  std::string targets = sh("ag-compile targets").out;
  for (const char* name : {"cpu:native", "cpu:x86-64-v3", "cuda:sm_80", "this machine: "})
    CHECK(contains(targets, name));
  auto codes = lines_of(sh("ag-compile explain").out);
  CHECK(codes.size() > 100);
  for (std::size_t i = 0; i < codes.size(); i += 20) {
    Ran r = sh("ag-compile explain " + codes[i].substr(0, 6));
    CHECK(r.code == 0);
    CHECK(r.out.starts_with(codes[i].substr(0, 6) + ": "));
    CHECK(lines_of(r.out).size() >= 3);
  }
}

TEST_CASE("the commands in the README do what it says") {
  int count = 0;
  for (const std::string& line : lines_of(read_file(AG_SOURCE_DIR "/README.md"))) {
    if (!line.starts_with("    ag-compile ")) continue;
    ++count;
    Ran r = sh(line);
    CAPTURE(line, r.err);
    CHECK(r.code == 0);
  }
  CHECK(count >= 4);
}
