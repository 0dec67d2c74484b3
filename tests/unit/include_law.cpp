// Who may include whom: reads the #includes of every file.
#include <catch2/catch.hpp>
#include <map>
#include <optional>
#include <set>

#include "tests/unit/tree.hpp"

namespace {

struct Law {
  std::string prefix;                ///< of the including file's path; the first row that fits counts
  std::vector<std::string> allowed;  ///< prefixes of what it may include; empty: everything
  bool llvm = false;                 ///< whether its .cpp files may include LLVM
};

// One row a layer, from the special to the general.
const std::vector<Law> laws = {
    {"ir/base/", {"ir/base/"}},
    {"ir/loop/", {"ir/base/", "ir/loop/"}},
    {"ir/", {"ir/"}},
    {"frontend/", {"ir/", "frontend/"}},
    {"passes/", {"ir/", "passes/"}},
    {"codegen/llvm/", {"ir/base/", "ir/loop/", "codegen/"}, true},
    {"codegen/", {"ir/base/", "ir/loop/", "codegen/"}},
    // The cache of compiled kernels calls the code generator, through its record alone.
    {"runtime/exec/compile_cache", {"ir/base/", "ir/loop/", "runtime/exec/", "codegen/backend.hpp"}},
    {"runtime/exec/", {"ir/base/", "ir/loop/", "runtime/exec/"}},
    {"runtime/cpu/", {"ir/base/", "ir/loop/", "runtime/exec/", "runtime/cpu/"}, true},
    // The C++ library: the recorder and the readers of files come together with the engine.
    {"runtime/api/", {"ir/", "frontend/", "passes/", "codegen/", "runtime/", "ag/"}},
    {"runtime/", {"ir/", "passes/", "codegen/", "runtime/"}},
    {"include/ag/", {"ag/"}},
    {"examples/", {"ag/"}},
    {"tools/", {}},
    {"tests/", {}},
    {"bench/", {}},
    {"cmake/", {"ir/"}},
};

struct Include {
  std::string path;
  bool quoted;
};

std::vector<Include> includes_of(const std::string& text) {
  std::vector<Include> out;
  for (const std::string& line : lines_of(text)) {
    std::size_t hash = line.find_first_not_of(" \t");
    if (hash == line.npos || line[hash] != '#') continue;
    std::size_t word = line.find_first_not_of(" \t", hash + 1);
    if (word == line.npos || line.compare(word, 7, "include") != 0) continue;
    std::size_t open = line.find_first_of("\"<", word + 7);
    if (open == line.npos) continue;
    std::size_t close = line.find(line[open] == '<' ? '>' : '"', open + 1);
    if (close != line.npos) out.push_back({line.substr(open + 1, close - open - 1), line[open] == '"'});
  }
  return out;
}

bool is_llvm(const std::string& path) {
  return path.starts_with("llvm/") || path.starts_with("llvm-c/") || path.starts_with("lld/") ||
         path.starts_with("clang/");
}

/// A header of one folder's .cpp files alone; it may see what they see.
bool is_internal(const std::string& path) { return path.ends_with("_internal.hpp"); }

std::vector<std::string> violations(const SourceFile& file, const std::set<std::string>& known) {
  std::vector<std::string> out;
  auto complain = [&](const std::string& what) { out.push_back(file.path + ": " + what); };
  auto law = std::find_if(laws.begin(), laws.end(), [&](const Law& l) { return file.path.starts_with(l.prefix); });
  if (law == laws.end()) {
    complain("lies in a folder that has no row in the include law");
    return out;
  }
  bool header = file.is(".hpp");
  if (header && file.text.find("#pragma once") == file.text.npos) complain("has no #pragma once");
  for (const Include& i : includes_of(file.text)) {
    if (is_llvm(i.path)) {
      if (!law->llvm && !law->allowed.empty()) complain("may not include LLVM: " + i.path);
      if (header && !is_internal(file.path)) complain("a header may not include LLVM: " + i.path);
      continue;
    }
    if (header && i.path.starts_with("nlohmann/") && !is_internal(file.path))
      complain("a header may not include " + i.path);
    bool ours = i.quoted || known.contains(i.path);
    if (!ours) continue;
    if (file.path.starts_with("tests/") && known.contains(file.folder() + "/" + i.path)) continue;
    if (!known.contains(i.path) && !known.contains("include/" + i.path)) {
      complain("includes what is not in the tree (paths start at the root): " + i.path);
      continue;
    }
    bool allowed = law->allowed.empty() || std::any_of(law->allowed.begin(), law->allowed.end(),
                                                       [&](const std::string& a) { return i.path.starts_with(a); });
    if (!allowed) complain("may not include " + i.path);
    SourceFile included{i.path, {}};
    if (is_internal(i.path) && included.folder() != file.folder())
      complain("may not include another folder's internal header: " + i.path);
  }
  return out;
}

/// A chain of headers that ends where it began; nullopt if there is none.
std::optional<std::string> cycle(const std::map<std::string, std::vector<std::string>>& edges) {
  std::set<std::string> done;
  std::vector<std::string> path;
  auto visit = [&](auto&& self, const std::string& node) -> bool {
    if (std::find(path.begin(), path.end(), node) != path.end()) return path.push_back(node), true;
    if (!done.insert(node).second) return false;
    path.push_back(node);
    if (auto it = edges.find(node); it != edges.end())
      for (const std::string& next : it->second)
        if (self(self, next)) return true;
    path.pop_back();
    return false;
  };
  for (const auto& [node, targets] : edges)
    if (visit(visit, node)) {
      std::string text;
      for (const std::string& p : path) text += (text.empty() ? "" : " -> ") + p;
      return text;
    }
  return std::nullopt;
}

}  // namespace

TEST_CASE("include law") {
  auto tree = source_tree();
  std::set<std::string> known;
  for (const SourceFile& f : tree) known.insert(f.path);
  REQUIRE(known.contains("ir/base/diag.hpp"));
  std::vector<std::string> all;
  std::map<std::string, std::vector<std::string>> edges;
  std::size_t files = 0;
  for (const SourceFile& f : tree) {
    if (!f.is_code() && !f.is(".def")) continue;
    ++files;
    for (std::string& v : violations(f, known)) all.push_back(std::move(v));
    for (const Include& i : includes_of(f.text))
      if (i.quoted) edges[f.path].push_back(i.path);
  }
  INFO(joined(all));
  CHECK(all.empty());
  CHECK(files > 20);
  auto loop = cycle(edges);
  INFO("headers in a circle: " << loop.value_or(""));
  CHECK_FALSE(loop);
}

TEST_CASE("the include law catches what it is there for") {
  std::set<std::string> known = {
      "ir/graph.hpp",     "ir/loop/kernel.hpp", "ir/base/diag.hpp", "passes/pass.hpp", "codegen/llvm/emit_internal.hpp",
      "include/ag/ag.hpp"};
  auto count = [&](std::string path, std::string text) {
    return violations({std::move(path), std::move(text)}, known).size();
  };
  CHECK(count("ir/base/x.cpp", "#include \"ir/base/diag.hpp\"\n#include <vector>\n") == 0);
  CHECK(count("ir/base/x.cpp", "#include \"ir/graph.hpp\"\n") == 1);
  CHECK(count("ir/loop/x.cpp", "  #  include \"ir/graph.hpp\"\n") == 1);
  CHECK(count("ir/x.cpp", "#include \"passes/pass.hpp\"\n") == 1);
  CHECK(count("codegen/llvm/x.cpp", "#include <llvm/IR/Module.h>\n#include \"ir/loop/kernel.hpp\"\n") == 0);
  CHECK(count("codegen/llvm/x.cpp", "#include \"ir/graph.hpp\"\n") == 1);
  CHECK(count("codegen/x.hpp", "#pragma once\n#include <llvm/IR/Module.h>\n") == 2);
  CHECK(count("codegen/llvm/x.hpp", "#pragma once\n#include <llvm/IR/Module.h>\n") == 1);
  CHECK(count("codegen/llvm/emit_internal.hpp", "#pragma once\n#include <llvm/IR/Module.h>\n") == 0);
  CHECK(count("runtime/cpu/x.cpp", "#include \"codegen/llvm/emit_internal.hpp\"\n") == 2);
  CHECK(count("runtime/exec/x.cpp", "#include \"ir/graph.hpp\"\n") == 1);
  CHECK(count("frontend/x.cpp", "#include \"passes/pass.hpp\"\n") == 1);
  CHECK(count("frontend/x.cpp", "#include \"../ir/graph.hpp\"\n") == 1);
  CHECK(count("ir/x.hpp", "#include <vector>\n") == 1);
  CHECK(count("frontend/x.hpp", "#pragma once\n#include <nlohmann/json.hpp>\n") == 1);
  CHECK(count("elsewhere/x.cpp", "") == 1);
  CHECK(cycle({{"a", {"b"}}, {"b", {"c"}}, {"c", {"b"}}}).has_value());
  CHECK_FALSE(cycle({{"a", {"b", "c"}}, {"b", {"c"}}}).has_value());
}
