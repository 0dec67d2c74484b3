#include "tests/codegen/harness.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <random>

#include "codegen/backend.hpp"
#include "ir/loop/interp.hpp"
#include "ir/loop/scratch.hpp"
#include "tests/codegen/loader.hpp"

namespace ag::test {
namespace {

std::vector<std::uint64_t> interesting(DType t) {
  std::vector<std::uint64_t> out;
  if (t == DType::boolean) return {0, 1};
  if (is_float(t)) {
    double least = t == DType::f64 ? 0x1p-1074 : t == DType::f32 ? 0x1p-149 : t == DType::bf16 ? 0x1p-133 : 0x1p-24;
    double normal = t == DType::f64 ? 0x1p-1022 : t == DType::f16 ? 0x1p-14 : 0x1p-126;
    for (double v : {0.0,
                     1.0,
                     0.5,
                     1.5,
                     2.5,
                     3.0,
                     7.0,
                     0.1,
                     255.0,
                     256.5,
                     65504.0,
                     65519.0,
                     65520.0,
                     32767.5,
                     2147483648.0,
                     4294967295.0,
                     9.3e18,
                     1.9e19,
                     3.4028235e38,
                     1e300,
                     double(INFINITY),
                     least,
                     3 * least,
                     normal,
                     normal - least,
                     1.0000001,
                     1.0078125,
                     1.00390625,
                     0x1p52 + 0.5})
      for (double s : {v, -v}) out.push_back(loop::constant_bits(t, s));
    out.push_back(loop::constant_bits(t, std::nan("")));
    return out;
  }
  for (std::int64_t v : {0L,          1L,          2L,
                         3L,          7L,          8L,
                         15L,         16L,         31L,
                         32L,         63L,         64L,
                         100L,        127L,        128L,
                         255L,        256L,        32767L,
                         32768L,      65535L,      16777217L,
                         2147483647L, 4294967295L, 9007199254740993L,
                         INT64_MAX,   INT64_MIN,   6148914691236517205L})
    for (std::int64_t s : {v, static_cast<std::int64_t>(-static_cast<std::uint64_t>(v))})
      out.push_back(loop::constant_bits(t, s));
  return out;
}

bool is_nan(DType t, const std::uint8_t* p) {
  if (!is_float(t)) return false;
  std::uint64_t bits = 0;
  std::memcpy(&bits, p, dtype_bytes(t));
  return std::isnan(loop::bits_to_double(t, bits));
}

}  // namespace

Bytes sample(DType t, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 rng(seed);
  auto values = interesting(t);
  std::size_t size = dtype_bytes(t);
  Bytes out(count * size + 64);  // a little behind the end, so that overruns hit known bytes
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t bits = rng();
    if (t == DType::boolean)
      bits &= 1;
    else if (bits % 4 != 0)
      bits = values[rng() % values.size()];
    else
      bits = rng();
    if (t == DType::f32 && seed % 3 == 2) bits = loop::constant_bits(t, std::ldexp(double(rng() % 4001) - 2000, -7));
    std::memcpy(out.data() + i * size, &bits, size);
  }
  return out;
}

const std::vector<std::string>& targets() {
  static const std::vector<std::string> list{"cpu:native", "cpu:x86-64-v3"};
  return list;
}

std::string compare(const loop::Kernel& kernel, const std::vector<Bytes>& params,
                    const std::vector<std::int64_t>& dims) {
  auto text = [](const Diags& d) {
    std::string all;
    for (const Diag& x : d) {
      all += x.message + "\n";
      for (const auto& c : x.children) all += c.message + "\n";
    }
    return all;
  };
  DimEnv env;
  for (std::size_t i = 0; i < kernel.dims.size(); ++i) env[kernel.dims[i]] = dims[i];
  std::vector<Bytes> expected = params;
  std::vector<loop::BufferView> views;
  for (std::size_t i = 0; i < params.size(); ++i)
    views.push_back({expected[i].data(), *kernel.buffers[i].elems.eval(env)});
  auto ran = loop::interpret(kernel, views, dims);
  if (!ran) return "interpreter: " + text(ran.error());

  for (const std::string& name : targets()) {
    auto target = codegen::describe_target(name);
    if (!target) return text(target.error());
    auto object = codegen::backend_of(*target).emit(kernel, *target, codegen::EmitKind::object, {});
    if (!object) return name + ": " + text(object.error());
    Code code(*object, "k");
    if (!code.problem.empty()) return name + ": " + code.problem;
    std::vector<Bytes> actual = params;
    std::vector<void*> pointers;
    for (Bytes& b : actual) pointers.push_back(b.data());
    loop::ContextBlock context;
    std::vector<std::uint8_t> scratch(static_cast<std::size_t>(*loop::scratch_bytes(kernel).eval(env)) + 64);
    auto aligned =
        reinterpret_cast<std::uint8_t*>((reinterpret_cast<std::uintptr_t>(scratch.data()) + 63) & ~std::uintptr_t{63});
    loop::KernelArgs args{pointers.data(), dims.data(), &context, aligned};
    code.fn(&args, 0, *kernel.tiles.eval(env));
    if (context.trap_kind != ran->kind || context.trap_detail != ran->detail || context.trap_origin != ran->origin)
      return fmt::format("{}: trap {} ({}), expected {} ({})", name, context.trap_kind.load(), context.trap_detail,
                         ran->kind, ran->detail);
    for (std::size_t i = 0; i < params.size(); ++i) {
      DType t = kernel.buffers[i].dtype;
      std::size_t size = dtype_bytes(t);
      for (std::size_t e = 0; e < actual[i].size() / size; ++e) {
        const std::uint8_t *x = actual[i].data() + e * size, *y = expected[i].data() + e * size;
        if (std::memcmp(x, y, size) == 0 || (is_nan(t, x) && is_nan(t, y))) continue;
        std::uint64_t xb = 0, yb = 0;
        std::memcpy(&xb, x, size);
        std::memcpy(&yb, y, size);
        std::string inputs;
        for (std::size_t k = 0; k < params.size(); ++k) {
          if (k == i) continue;
          std::uint64_t b = 0;
          std::size_t n = dtype_bytes(kernel.buffers[k].dtype);
          if ((e + 1) * n <= params[k].size()) std::memcpy(&b, params[k].data() + e * n, n);
          inputs += fmt::format(" {:#x}", b);
        }
        return fmt::format("{}: buffer {} element {}: {:#x}, expected {:#x}; the others have{}", name, i, e, xb, yb,
                           inputs);
      }
    }
  }
  return "";
}

}  // namespace ag::test
