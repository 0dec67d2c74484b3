// What the command answers to mistakes: exit code and standard error of every line in errors.txt, byte for byte.
// AG_BLESS=1 rewrites the file's answers; a new case is a line that begins with `$ `.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/cli/command.hpp"

namespace {

const char* const path = AG_SOURCE_DIR "/tests/cli/errors.txt";

struct Case {
  std::string line, answer;
};

std::vector<Case> read_cases() {
  std::vector<Case> cases;
  std::istringstream in(read_file(path));
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("$ "))
      cases.push_back({line.substr(2), ""});
    else if (!cases.empty())
      cases.back().answer += line + "\n";
  }
  return cases;
}

}  // namespace

TEST_CASE("mistakes are answered with their place and exit code") {
  std::vector<Case> cases = read_cases();
  REQUIRE(cases.size() > 60);
  std::string blessed;
  for (const Case& c : cases) {
    Ran r = sh(c.line);
    std::string answer = "exit " + std::to_string(r.code) + "\n" + r.err;
    blessed += "$ " + c.line + "\n" + answer;
    CAPTURE(c.line, answer);
    CHECK((r.code == 1 || r.code == 2 || r.code == 3));
    if (!std::getenv("AG_BLESS")) CHECK(answer == c.answer);
  }
  if (std::getenv("AG_BLESS")) std::ofstream(path, std::ios::binary) << blessed;
}
