// Runs kernels on vectors.
#pragma once
#include <string>
#include <vector>

#include "ir/loop/interp.hpp"
#include "tests/loop/kernels.hpp"

namespace ag::test {

/// "" or the first error as "AG5101 message"; the vectors are the parameters in order.
template <class... T>
std::string run(const loop::Kernel& k, std::vector<T>&... params) {
  loop::BufferView views[] = {{params.data(), static_cast<std::int64_t>(params.size())}...};
  auto r = loop::interpret(k, views, {});
  return r ? "" : code_name(r.error()[0].code) + " " + r.error()[0].message;
}

}  // namespace ag::test
