// Expectation files: exact bytes in tests/diag/golden/. AG_BLESS=1 rewrites them.
#pragma once
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

inline std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

inline void check_golden(const std::string& name, const std::string& actual) {
  std::string path = std::string(AG_SOURCE_DIR) + "/tests/diag/golden/" + name;
  if (std::getenv("AG_BLESS")) {
    std::ofstream(path, std::ios::binary) << actual;
    SUCCEED();
    return;
  }
  INFO("expectation file " << name << "; AG_BLESS=1 rewrites it\n" << actual);
  CHECK((actual == read_text(path)));
}
