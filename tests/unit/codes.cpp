// The table of diagnostic codes against the code that uses it.
#include <catch2/catch.hpp>
#include <cctype>
#include <map>
#include <set>

#include "ir/base/diag.hpp"
#include "tests/unit/tree.hpp"

namespace {

/// Every `AG` followed by four digits, as a whole word.
std::set<std::string> codes_in(const std::string& text) {
  std::set<std::string> out;
  auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  for (std::size_t at = text.find("AG"); at != text.npos; at = text.find("AG", at + 2)) {
    std::size_t end = at + 2;
    while (end < text.size() && std::isdigit(static_cast<unsigned char>(text[end]))) ++end;
    bool whole = (at == 0 || !word(text[at - 1])) && (end == text.size() || !word(text[end]));
    if (whole && end - at == 6) out.insert(text.substr(at, 6));
  }
  return out;
}

}  // namespace

TEST_CASE("codes that the library reports are in codes.def, each once") {
  std::vector<std::string> wrong;
  std::set<std::string> listed;
  for (const ag::CodeInfo& info : ag::all_codes()) {
    std::string name = ag::code_name(info.code);
    if (!listed.insert(name).second) wrong.push_back(name + " stands twice in codes.def");
  }
  for (const SourceFile& f : source_tree()) {
    bool library = f.is_code() && !f.path.starts_with("tests/") && !f.path.starts_with("bench/");
    if (!library) continue;
    for (const std::string& c : codes_in(f.text))
      if (!listed.contains(c)) wrong.push_back(f.path + " reports " + c + ", which is not in codes.def");
  }
  INFO(joined(wrong));
  CHECK(wrong.empty());
}

TEST_CASE("every code in codes.def is reported somewhere") {
  std::set<std::string> unused;
  for (const ag::CodeInfo& info : ag::all_codes()) unused.insert(ag::code_name(info.code));
  for (const SourceFile& f : source_tree())
    if (f.is_code() && !f.path.starts_with("tests/"))
      for (const std::string& c : codes_in(f.text)) unused.erase(c);
  INFO(joined({unused.begin(), unused.end()}));
  CHECK(unused.empty());
}

TEST_CASE("codes_in finds whole codes") {
  CHECK(codes_in("fail(AG2003, Code::AG0001); AG20031 XAG2003 AG200 AG_TRY") ==
        std::set<std::string>{"AG2003", "AG0001"});
}
