// Every code of codes.def is shown by an expectation file somewhere under tests/.
#include <filesystem>
#include <set>

#include "ir/base/diag.hpp"
#include "tests/diag/golden.hpp"

namespace fs = std::filesystem;

namespace {

/// Codes that no expectation names. Expectations are all files under tests/ that are neither C++ nor prose.
std::set<std::string> uncovered_codes() {
  std::set<std::string> left;
  for (const ag::CodeInfo& info : ag::all_codes()) left.insert(ag::code_name(info.code));
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(AG_SOURCE_DIR) / "tests")) {
    auto ext = entry.path().extension();
    if (!entry.is_regular_file() || ext == ".cpp" || ext == ".hpp" || ext == ".md" || ext == ".py" || ext == ".npz")
      continue;
    std::string text = read_text(entry.path().string());
    for (std::size_t at = text.find("AG"); at != text.npos; at = text.find("AG", at + 2))
      left.erase(text.substr(at, 6));
  }
  return left;
}

}  // namespace

TEST_CASE("every diagnostic code has an expectation") {
  std::string missing;
  for (const std::string& code : uncovered_codes()) missing += code + " ";
  INFO("no expectation file names: " << missing);
  CHECK(missing.empty());
}
