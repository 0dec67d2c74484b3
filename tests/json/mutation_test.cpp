// The examples with single bytes changed, deleted and doubled, and with members exchanged: every text gives a graph or
// errors with a place, and nothing else happens.
#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "frontend/json/import.hpp"

using namespace ag;
namespace fs = std::filesystem;

namespace {

/// "graph", "errors", or what should not be.
std::string outcome(const std::string& text) {
  try {
    auto doc = json::Document::parse(text, std::make_shared<std::string>("m.json"));
    auto graph = doc ? json::import_graph(**doc) : Result<Graph>(fail(doc.error()));
    if (graph) {
      if (!verify(*graph)) return "a graph that does not verify";
      auto canonical = json::export_graph(*graph);
      return canonical ? "graph" : "a graph that does not export";
    }
    if (graph.error().empty()) return "no graph and no error";
    for (const Diag& d : graph.error())
      if (d.spans.empty() || d.spans[0].loc.line == 0 || d.message.empty())
        return "an error without a place: " + d.message;
    return "errors";
  } catch (const InternalError& e) {
    return "internal error: " + e.message;
  }
}

}  // namespace

TEST_CASE("mutated examples give a graph or placed errors") {
  int graphs = 0, errors = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(AG_SOURCE_DIR) / "examples")) {
    if (entry.path().extension() != ".json") continue;
    std::ifstream in(entry.path(), std::ios::binary);
    std::ostringstream all;
    all << in.rdbuf();
    const std::string text = all.str();
    CAPTURE(entry.path().filename().string());
    REQUIRE(outcome(text) == "graph");
    auto check = [&](const std::string& mutant, std::size_t at) {
      std::string o = outcome(mutant);
      if (o == "graph")
        ++graphs;
      else if (o == "errors")
        ++errors;
      else {
        CAPTURE(at, mutant);
        FAIL(o);
      }
    };
    constexpr std::string_view bytes = "x0]\"-";
    for (std::size_t i = 0; i < text.size(); i += 2) {
      std::string mutant = text;
      mutant[i] = bytes[i / 2 % bytes.size()];
      check(mutant, i);
      mutant = text;
      mutant.erase(i, 1);
      check(mutant, i);
    }
    // Whole tokens exchanged: a string for every other one.
    for (std::string_view token : {"\"x\"", "null", "-1", "[]", "{}", "true", "9223372036854775808",
                                   "\"f32[4294967296,4294967296]\"", "[[1, 2], [3]]"}) {
      auto doc = json::Document::parse(text, nullptr);
      std::vector<json::View> open = {(*doc)->root()};
      while (!open.empty()) {
        json::View v = open.back();
        open.pop_back();
        for (json::View child : v) {
          std::size_t begin = static_cast<std::size_t>(child.spelling().data() - (*doc)->text().data());
          std::string mutant = text;
          mutant.replace(begin, child.spelling().size(), token);
          check(mutant, begin);
          open.push_back(child);
        }
      }
    }
  }
  CHECK(graphs > 100);
  CHECK(errors > 1000);
}
