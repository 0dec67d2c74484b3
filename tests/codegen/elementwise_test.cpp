// Every elementwise statement on every type it is defined on, in tiles of many shapes.
#include <catch2/catch.hpp>

#include <cstring>

#include "ir/loop/elementwise.hpp"
#include "tests/codegen/harness.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;

namespace {

constexpr std::int64_t tiles = 40;

struct Shape {
  std::uint16_t rows, lanes;
  int offset;
};
constexpr Shape shapes[] = {{1, 1, 0},   {1, 2, 1},   {1, 5, 3},  {1, 8, 8},   {1, 16, 16},
                            {1, 32, 32}, {2, 16, 64}, {3, 1, 96}, {2, 12, 99}, {1, 17, 123}};
constexpr std::int64_t per_tile = 140;

bool defined(Op op, DType result, DType operand) {
  OpClass c = describe(op).cls;
  bool elementwise = c == OpClass::unary || c == OpClass::binary || c == OpClass::compare || c == OpClass::ternary;
  if (!elementwise || !elementwise_fn(op, result, operand)) return false;
  if (c == OpClass::compare) return result == DType::boolean;
  if (op == Op::bitcast && (result == DType::boolean) != (operand == DType::boolean)) return false;
  return op == Op::cast || op == Op::bitcast || result == operand;
}

std::vector<DType> operand_types(Op op, DType operand) {
  if (op == Op::select) return {DType::boolean, operand, operand};
  if (op == Op::ldexp) return {operand, operand == DType::f64 ? DType::i64 : DType::i32};
  return std::vector<DType>(static_cast<std::size_t>(describe(op).operands), operand);
}

Kernel kernel_of(Op op, DType result, const std::vector<DType>& types) {
  Builder b("k0");
  std::vector<BufferId> in;
  for (DType t : types) in.push_back(b.param(t, tiles * per_tile, Access::read));
  BufferId out = b.param(result, tiles * per_tile, Access::write);
  b.for_each(b.index(tiles), {.mapping = Mapping::tile}, [&](ValueId iv) {
    ValueId first = b.mul(iv, b.index(per_tile));
    for (const Shape& s : shapes) {
      ValueId base = b.add(first, b.index(s.offset)), row = b.index(s.lanes), one = b.index(1);
      std::vector<ValueId> args;
      for (std::size_t i = 0; i < in.size(); ++i)
        args.push_back(b.load_tile(in[i], {types[i], s.rows, s.lanes}, base, row, one));
      ValueId v = op == Op::cast      ? b.cast(args[0], result)
                  : op == Op::bitcast ? b.bitcast(args[0], result)
                                      : b.op(op, args);
      b.store_tile(out, base, row, one, v);
    }
  });
  b.kernel().tiles = tiles;
  return std::move(b).finish();
}

void limit_exponents(DType t, Bytes& bytes) {  // ldexp: within the exponent's range, one more at either end
  std::int64_t top = t == DType::i64 ? 1024 : 128;
  for (std::size_t i = 0; i + 8 <= bytes.size(); i += dtype_bytes(t)) {
    std::uint64_t bits = bytes[i] | bytes[i + 1] << 8;
    bits = constant_bits(t, static_cast<std::int64_t>(bits) % (2 * top) - top + 1);
    std::memcpy(&bytes[i], &bits, dtype_bytes(t));
  }
}

}  // namespace

TEST_CASE("elementwise statements have the interpreter's bits") {
  int kernels = 0;
  for (int o = 0; o <= static_cast<int>(Op::trap); ++o) {
    Op op = static_cast<Op>(o);
    for (int r = 0; r < dtype_count; ++r)
      for (int t = 0; t < dtype_count; ++t) {
        auto result = static_cast<DType>(r), operand = static_cast<DType>(t);
        if (!defined(op, result, operand)) continue;
        ++kernels;
        auto types = operand_types(op, operand);
        std::vector<Bytes> data;
        for (std::size_t i = 0; i < types.size(); ++i) data.push_back(sample(types[i], tiles * per_tile, 1 + 3 * i));
        if (op == Op::ldexp) limit_exponents(types[1], data[1]);
        data.push_back(Bytes(tiles * per_tile * dtype_bytes(result) + 64));
        INFO(describe(op).name << " " << dtype_name(operand) << " -> " << dtype_name(result));
        CHECK(compare(kernel_of(op, result, types), data) == "");
      }
  }
  CHECK(kernels > 500);
}

TEST_CASE("operands of one row or one lane are repeated") {
  for (int t = 0; t < dtype_count; ++t) {
    auto e = static_cast<DType>(t);
    Op op = e == DType::boolean ? Op::xor_ : Op::sub;
    Builder b("k0");
    BufferId x = b.param(e, 64, Access::read), y = b.param(e, 64, Access::read), out = b.param(e, 512, Access::write);
    std::vector<VType> forms{{e, 1, 1}, {e, 3, 1}, {e, 1, 20}, {e, 3, 20}};
    std::int64_t at = 0;
    for (VType p : forms)
      for (VType q : forms) {
        ValueId one = b.index(1), zero = b.index(0);
        ValueId l = b.load_tile(x, p, zero, b.index(p.lanes), one), r = b.load_tile(y, q, zero, b.index(q.lanes), one);
        ValueId v = b.op(op, {l, r});
        b.store_tile(out, b.index(at), b.index(b.type(v).lanes), one, v);
        at += b.type(v).count();
      }
    b.kernel().buffers[out.index].elems = at;
    INFO(dtype_name(e));
    CHECK(compare(std::move(b).finish(), {sample(e, 64, 1), sample(e, 64, 4), Bytes(at * dtype_bytes(e) + 64)}) == "");
  }
}
