// `ag-compile ops`: the table, and docs/ops.md, which is made by it. AG_BLESS=1 rewrites the page.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/cli/command.hpp"

TEST_CASE("docs/ops.md is what the op table says") {
  const std::string path = AG_SOURCE_DIR "/docs/ops.md";
  Ran r = sh("ag-compile ops --to markdown");
  REQUIRE(r.code == 0);
  if (std::getenv("AG_BLESS")) std::ofstream(path, std::ios::binary) << r.out;
  INFO("AG_BLESS=1 rewrites docs/ops.md");
  CHECK((r.out == read_file(path)));
}

TEST_CASE("the op table has a row for each op, with a word in every column") {
  Ran r = sh("ag-compile ops --json -");
  REQUIRE(r.code == 0);
  auto rows = nlohmann::json::parse(r.out);
  CHECK(rows.size() > 200);
  const std::set<std::string> compiled{"yes", "host", "no", "-"};
  std::size_t differentiable = 0;
  for (const auto& row : rows) {
    CAPTURE(row.dump());
    for (const char* key : {"op", "tier", "types", "eval", "compiled", "ptx", "derivative", "batching", "verified"})
      CHECK(!row[key].get<std::string>().empty());
    CHECK(compiled.contains(row["compiled"]));
    std::string d = row["derivative"];
    CHECK((d != "-" && d != "none: a part of it has none"));
    differentiable += !contains(d, "none") && d != "zero";
  }
  CHECK(differentiable > 150);
}

TEST_CASE("one op is described in full") {
  Ran r = sh("ag-compile ops Gemm");
  CHECK(r.code == 0);
  for (const char* word : {"alpha", "derivative: by parts", "batching: by parts", "compiled: yes"})
    CHECK(contains(r.out, word));
}
