// House rules that a machine can check: see the rules below.
#include <catch2/catch.hpp>
#include <map>

#include "tests/unit/tree.hpp"

namespace {

constexpr std::size_t max_columns = 120, max_lines = 600;

// Files that may be longer, each with the length it may have.
const std::map<std::string, std::size_t> long_files = {};

/// Words of unfinished work. Spelled in pieces, so that this file passes its own rule.
const std::vector<std::string> banned_words = {
    "TO"
    "DO",
    "FIX"
    "ME",
    "XX"
    "X",
    "HA"
    "CK"};

/// What a library must not do: print, exit, abort.
const std::vector<std::string> banned_calls = {"std::cout", "std::cerr", "std::clog",  "printf(",       "puts(",
                                               "exit(",     "abort()",   "fmt::print", "std::terminate"};

bool is_word_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

/// `word` as a whole word (or, for calls, not as the tail of a longer name).
bool has(const std::string& line, const std::string& word) {
  for (std::size_t at = line.find(word); at != line.npos; at = line.find(word, at + 1)) {
    std::size_t end = at + word.size();
    bool starts = at == 0 || !is_word_char(line[at - 1]);
    bool ends = end >= line.size() || !is_word_char(word.back()) || !is_word_char(line[end]);
    if (starts && ends) return true;
  }
  return false;
}

std::size_t columns(const std::string& line) {
  return static_cast<std::size_t>(
      std::count_if(line.begin(), line.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

bool is_library(const SourceFile& f) {
  if (f.path == "include/ag/console.hpp") return false;  // compiled into the program: it says where lines go
  for (const char* folder : {"ir/", "frontend/", "passes/", "codegen/", "runtime/", "include/"})
    if (f.path.starts_with(folder)) return f.is_code();
  return false;
}

std::vector<std::string> violations(const SourceFile& f) {
  std::vector<std::string> out;
  bool prose = f.is(".md"), code = f.is_code();
  bool text = code || prose || f.is(".def") || f.is(".txt") || f.is(".sh") || f.is(".cmake") || f.path == "dev";
  if (!text || f.path.find("/golden/") != f.path.npos) return out;
  auto lines = lines_of(f.text);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    auto complain = [&](const std::string& what) { out.push_back(f.path + ":" + std::to_string(i + 1) + ": " + what); };
    // Long explanations are one string in codes.def; prose breaks lines where it likes.
    if (code && columns(line) > max_columns) complain(std::to_string(columns(line)) + " columns");
    if (line.find('\t') != line.npos) complain("a tab");
    if (line.ends_with('\r')) complain("a carriage return");
    if (line.ends_with(' ')) complain("a space at the end");
    for (const std::string& w : banned_words)
      if (has(line, w)) complain("the word " + w);
    if (is_library(f))
      for (const std::string& w : banned_calls)
        if (has(line.substr(0, line.find("//")), w)) complain("a library does not call " + w);
  }
  if (!f.text.empty() && f.text.back() != '\n') out.push_back(f.path + ": no newline at the end");
  auto allowed = long_files.find(f.path);
  if (code && lines.size() > (allowed == long_files.end() ? max_lines : allowed->second))
    out.push_back(f.path + ": " + std::to_string(lines.size()) + " lines");
  return out;
}

}  // namespace

TEST_CASE("tidy") {
  auto tree = source_tree();
  std::vector<std::string> all;
  for (const SourceFile& f : tree)
    for (std::string& v : violations(f)) all.push_back(std::move(v));
  for (const auto& [path, lines] : long_files) {
    auto same = [&](const SourceFile& f) { return f.path == path && lines_of(f.text).size() > max_lines; };
    if (std::none_of(tree.begin(), tree.end(), same)) all.push_back(path + ": is in long_files but is not long");
  }
  INFO(joined(all));
  CHECK(all.empty());
}

TEST_CASE("tidy catches what it is there for") {
  auto count = [](std::string path, std::string text) { return violations({std::move(path), std::move(text)}).size(); };
  CHECK(count("ir/x.cpp", std::string(120, 'x') + "\n") == 0);
  CHECK(count("ir/x.cpp", std::string(121, 'x') + "\n") == 1);
  CHECK(count("ir/x.cpp", "\tint x;\n") == 1);
  CHECK(count("ir/x.cpp", "int x; \n") == 1);
  CHECK(count("ir/x.cpp", "int x;\r\n") == 1);
  CHECK(count("ir/x.cpp", "int x;") == 1);
  CHECK(count("ir/x.cpp", "// " + banned_words[0] + ": later\n") == 1);
  CHECK(count("ir/x.cpp", "int " + banned_words[0] + "S;\n") == 0);
  CHECK(count("ir/x.cpp", "  std::cout << 1;\n") == 1);
  CHECK(count("tools/x.cpp", "  std::cout << 1;\n") == 0);
  CHECK(count("ir/x.cpp", "  snprintf(b, n, f); on_exit(); // exit(1)\n") == 0);
  CHECK(count("ir/x.cpp", "  exit(1);\n") == 1);
  std::string many;
  for (std::size_t i = 0; i <= max_lines; ++i) many += "\n";
  CHECK(count("ir/x.cpp", many) == 1);
  CHECK(count("docs/x.md", many + std::string(500, 'x') + "\n") == 0);
}
