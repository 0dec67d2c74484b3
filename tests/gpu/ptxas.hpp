// NVIDIA's assembler, if this machine has it.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include <catch2/catch.hpp>

namespace ag::test {

/// The command, "" if there is none.
inline const std::string& ptxas_path() {
  static const std::string path = [] {
    for (const char* p : {"ptxas", "/usr/local/cuda/bin/ptxas"})
      if (std::system((std::string(p) + " --version > /dev/null 2>&1").c_str()) == 0) return std::string(p);
    return std::string();
  }();
  return path;
}

/// Assembles and returns what ptxas says (with -v: registers, spills, shared memory); says once that it is skipped.
inline std::string assemble(const std::string& ptx, const std::string& arch) {
  if (ptxas_path().empty()) {
    static bool said = false;
    if (!said) WARN("skipped: ptxas is not installed, the PTX is not assembled");
    said = true;
    return "";
  }
  std::string stem = std::string(AG_BINARY_DIR) + "/gpu_test." + std::to_string(std::rand());
  std::ofstream(stem + ".ptx") << ptx;
  std::string command =
      ptxas_path() + " -v -arch=" + arch + " " + stem + ".ptx -o " + stem + ".cubin > " + stem + ".log 2>&1";
  int status = std::system(command.c_str());
  std::ifstream in(stem + ".log");
  std::string log(std::istreambuf_iterator<char>(in), {});
  for (const char* ext : {".ptx", ".cubin", ".log"}) std::remove((stem + ext).c_str());
  INFO(log);
  CHECK(status == 0);
  CHECK(log.find("error") == std::string::npos);
  return log;
}

}  // namespace ag::test
