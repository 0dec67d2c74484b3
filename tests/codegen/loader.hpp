// Runs emitted objects without the runtime: a small ELF loader that knows no symbol outside the object, so that a
// call of a library function in emitted code is an error here.
#pragma once
#include <memory>
#include <string>

#include "codegen/backend.hpp"
#include "ir/loop/abi.hpp"

namespace ag::test {

class Code {
 public:
  /// Loads `object` and finds `symbol`; `problem` says why that failed, empty if it did not.
  Code(const std::string& object, const std::string& symbol);
  ~Code();
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  loop::KernelFn fn = nullptr;
  std::string problem;

 private:
  void load(const std::string& object, const std::string& symbol);
  char* memory_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ag::test
