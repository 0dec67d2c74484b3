// Programs put together by hand, with kernels written in C++.
#pragma once
#include <catch2/catch.hpp>
#include <cstdint>
#include <string>

#include "runtime/exec/executable.hpp"
#include "tests/diag/golden.hpp"

namespace ag::runtime::test {

using loop::Access;
using loop::BufferKind;
using loop::KernelArgs;
using loop::ProgramBufferId;

struct ProgramMaker {
  loop::Program p;
  KernelCode code;
  std::vector<HostFn> host;

  ProgramBufferId buffer(BufferKind kind, std::string name, DType t, Dims shape) {
    auto& ids = kind == BufferKind::input ? p.inputs : p.outputs;
    const auto id = p.buffers.push({.name = std::move(name), .kind = kind, .dtype = t, .shape = std::move(shape)});
    if (kind == BufferKind::input || kind == BufferKind::output) {
      p.buffers[id].index = static_cast<std::uint32_t>(ids.size());
      ids.push_back(id);
    }
    return id;
  }
  ProgramBufferId input(std::string name, Dims shape, DType t = DType::f32) {
    const auto id = buffer(BufferKind::input, std::move(name), t, shape);
    for (std::uint32_t axis = 0; axis < shape.size(); ++axis)
      if (auto s = shape[axis].as_symbol())
        p.dim_sources.push_back({*s, static_cast<std::uint32_t>(p.inputs.size() - 1), axis});
    return id;
  }
  ProgramBufferId output(std::string name, Dims shape, DType t = DType::f32) {
    return buffer(BufferKind::output, std::move(name), t, std::move(shape));
  }
  ProgramBufferId temp(std::string name, Dims shape, DType t = DType::f32) {
    return buffer(BufferKind::temp, std::move(name), t, std::move(shape));
  }

  struct Param {
    DType dtype;
    Access access;
    Dim elems;
  };
  /// A kernel whose one dim, if it has any, is called n.
  loop::KernelId kernel(loop::KernelFn fn, std::vector<Param> params, Dim tiles = 1, Dim flops = 0,
                        bool has_dim = true) {
    loop::Kernel k;
    k.name = "k" + std::to_string(p.kernels.size());
    for (auto& q : params) k.buffers.push_back({.dtype = q.dtype, .access = q.access, .elems = q.elems});
    if (has_dim) k.dims = {"n"};
    k.tiles = std::move(tiles);
    k.flops = std::move(flops);
    code.functions.push_back(fn);
    return p.kernels.push(std::move(k));
  }
  static loop::Step call(loop::KernelId k, std::vector<ProgramBufferId> buffers, Dims dims, std::string label = "k") {
    return {loop::KernelCall{k, std::move(buffers), std::move(dims), {}, std::move(label)}};
  }
  void add(loop::Step s) { p.body.steps.push_back(std::move(s)); }

  Result<std::shared_ptr<const Executable>> make() const { return Executable::create(p, code, host); }
  std::shared_ptr<const Executable> must() const {
    auto e = make();
    INFO((e ? std::string() : e.error().front().message));
    REQUIRE(e);
    return *e;
  }
};

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return DType::i64;
  else
    return DType::boolean;
}
template <class T>
HostArray view(std::vector<T>& v, std::vector<std::int64_t> shape = {}) {
  if (shape.empty()) shape = {static_cast<std::int64_t>(v.size())};
  return {dtype_of<T>(), std::move(shape), v.data(), v.size() * sizeof(T)};
}

template <class T>
std::string code_of(const Result<T>& r) {
  return r ? "ok" : code_name(r.error().front().code);
}
template <class T>
std::string message_of(const Result<T>& r) {
  if (r) return "ok";
  std::string s = r.error().front().message;
  for (auto& c : r.error().front().children) s += "\n" + c.message;
  return s;
}

/// What the command would print.
template <class T>
std::string text_of(const Result<T>& r) {
  return r ? "ok\n" : render(r.error(), Sources());
}

// Kernels. Each tile is one element unless said otherwise; dims[0] is n.
template <class T>
T* ptr(const KernelArgs* a, int i) {
  return static_cast<T*>(a->buffers[i]);
}
/// b1[i] = b0[i] * 2 + 1
inline void twice_plus_one(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  for (auto i = lo; i < hi; ++i) ptr<float>(a, 1)[i] = ptr<float>(a, 0)[i] * 2 + 1;
}
/// b2[i] = b0[i] + b1[i]
inline void add(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  for (auto i = lo; i < hi; ++i) ptr<float>(a, 2)[i] = ptr<float>(a, 0)[i] + ptr<float>(a, 1)[i];
}

/// y = (2x + 1) + x over N elements, through a temp.
inline ProgramMaker small_program(bool expensive = false) {
  ProgramMaker m;
  const Dim N = Dim::symbol("N"), n = Dim::symbol("n");
  const auto x = m.input("x", {N}), y = m.output("y", {N}), t = m.temp("t", {N});
  const Dim flops = expensive ? n * Dim(1000000) : Dim(0);
  const auto k0 = m.kernel(twice_plus_one, {{DType::f32, Access::read, n}, {DType::f32, Access::write, n}}, n, flops);
  const auto k1 = m.kernel(
      test::add, {{DType::f32, Access::read, n}, {DType::f32, Access::read, n}, {DType::f32, Access::write, n}}, n,
      flops);
  m.add(m.call(k0, {x, t}, {N}, "twice"));
  m.add(m.call(k1, {t, x, y}, {N}, "add"));
  m.p.buffers[t].planned = true;
  m.p.arena_bytes = ceildiv(N * Dim(4), Dim(64)) * Dim(64);
  return m;
}

}  // namespace ag::runtime::test
