// Every tests/mistakes/NAME.json has one or more mistakes. NAME.expect lists what must be reported, one line each,
// in this order and nothing else: CODE LINE COLUMN PHRASE. A code may be a prefix; the phrase is part of the message.
#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "frontend/json/import.hpp"
#include "passes/pass.hpp"

using namespace ag;
namespace fs = std::filesystem;

namespace {

std::string slurp(const fs::path& p) {
  std::ifstream in(p, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

Diags errors_of(const fs::path& p) {
  auto doc = json::Document::parse(slurp(p), std::make_shared<std::string>(p.filename().string()));
  if (!doc) return std::move(doc).error();
  json::ImportOptions options;
  options.folders = {p.parent_path().string()};
  auto graph = json::import_graph(**doc, options);
  if (!graph) return std::move(graph).error();
  passes::PassContext context;
  auto gradients = passes::autodiff.on_graph(*graph, context);
  return gradients ? Diags{} : std::move(gradients).error();
}

std::string line_of(const Diag& d) {
  const Loc& l = d.spans.at(0).loc;
  return code_name(d.code) + " " + std::to_string(l.line) + " " + std::to_string(l.col) + " " + d.message;
}

}  // namespace

TEST_CASE("seeded mistakes are reported with code, place and cause") {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(AG_SOURCE_DIR) / "tests" / "mistakes"))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::ranges::sort(files);
  REQUIRE(files.size() >= 30);
  for (const fs::path& file : files) {
    fs::path expect = file;
    expect.replace_extension(".expect");
    REQUIRE(fs::exists(expect));
    Diags errors = errors_of(file);
    std::string reported;
    for (const Diag& d : errors) reported += line_of(d) + "\n";
    CAPTURE(file.filename().string(), reported);
    std::istringstream lines(slurp(expect));
    std::string line;
    std::size_t i = 0;
    for (; std::getline(lines, line); ++i) {
      CAPTURE(line);
      REQUIRE(i < errors.size());
      std::istringstream words(line);
      std::string code, phrase;
      std::uint32_t row = 0, col = 0;
      words >> code >> row >> col;
      std::getline(words >> std::ws, phrase);
      const Diag& d = errors[i];
      CHECK(code_name(d.code).starts_with(code));
      CHECK(d.spans[0].loc.line == row);
      CHECK(d.spans[0].loc.col == col);
      CHECK(d.message.find(phrase) != std::string::npos);
    }
    CHECK(errors.size() == i);
  }
}

TEST_CASE("no mistake reads as a graph when the text is cut") {
  // A cut text is never accepted, and never takes the reader out of its bounds (the sanitizers watch).
  std::string text = slurp(fs::path(AG_SOURCE_DIR) / "tests" / "mistakes" / "several.json");
  for (std::size_t n = 0; n + 2 < text.size(); n += 3) {
    auto doc = json::Document::parse(text.substr(0, n), std::make_shared<std::string>("cut.json"));
    CHECK(!doc);
  }
}
