// Statements across the elements of a tile: reductions, transposition, contraction, broadcast, extraction.
#include <catch2/catch.hpp>

#include "gemm.hpp"
#include "harness.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;

namespace {

constexpr std::int64_t room = 1024;

/// out = f(tile of the first elements of x), for several tile shapes one after the other.
template <class F>
std::string run(DType e, const std::vector<std::pair<int, int>>& shapes, F&& f) {
  Builder b("k0");
  BufferId x = b.param(e, room, Access::read), out = b.param(e, 16 * room, Access::write);
  std::int64_t at = 0;
  for (auto [rows, lanes] : shapes) {
    VType t{e, static_cast<std::uint16_t>(rows), static_cast<std::uint16_t>(lanes)};
    ValueId one = b.index(1);
    ValueId v = f(b, b.load_tile(x, t, b.index(rows), b.index(lanes), one));
    b.store_tile(out, b.index(at), b.index(b.type(v).lanes), one, v);
    at += b.type(v).count();
  }
  return compare(std::move(b).finish(), {sample(e, room, 1), Bytes(16 * room * dtype_bytes(e) + 64)});
}

}  // namespace

TEST_CASE("reductions over lanes and rows") {
  const std::vector<std::pair<int, int>> shapes{{1, 1},   {1, 2},  {3, 4}, {2, 16}, {1, 32},
                                                {1, 128}, {4, 16}, {7, 8}, {5, 32}, {14, 16}};
  for (int k = 0; k < 6; ++k)
    for (int d = 0; d < dtype_count; ++d) {
      auto kind = static_cast<ReduceKind>(k);
      auto e = static_cast<DType>(d);
      bool logical = kind == ReduceKind::and_ || kind == ReduceKind::or_;
      if (logical ? is_float(e) : e == DType::boolean) continue;
      INFO(describe(reduce_op(kind)).name << " " << dtype_name(e));
      CHECK(run(e, shapes, [&](Builder& b, ValueId v) { return b.reduce_lanes(kind, v); }) == "");
      CHECK(run(e, {{1, 1}, {5, 1}, {4, 16}, {3, 40}}, [&](Builder& b, ValueId v) { return b.reduce_rows(kind, v); }) ==
            "");
    }
}

TEST_CASE("transpose, broadcast, extract, iota") {
  for (int d = 0; d < dtype_count; ++d) {
    auto e = static_cast<DType>(d);
    INFO(dtype_name(e));
    CHECK(run(e, {{1, 1}, {1, 16}, {16, 1}, {4, 4}, {8, 8}, {16, 16}, {3, 5}, {8, 32}},
              [&](Builder& b, ValueId v) { return b.op(Op::transpose, {v}); }) == "");
    CHECK(run(e, {{1, 1}, {1, 24}, {4, 1}, {4, 24}}, [&](Builder& b, ValueId v) { return b.broadcast(v, 4, 24); }) ==
          "");
    CHECK(run(e, {{1, 20}, {3, 32}}, [&](Builder& b, ValueId v) { return b.extract(v, 17); }) == "");
    if (!is_int(e)) continue;
    CHECK(run(e, {{3, 20}}, [&](Builder& b, ValueId v) {
            return b.add(b.add(v, b.lane_iota(e, 20)), b.mul(b.row_iota(e, 3), b.constant_int(e, 7)));
          }) == "");
  }
}

TEST_CASE("contraction accumulates in order") {
  for (int d = 0; d < dtype_count; ++d) {
    auto e = static_cast<DType>(d);
    if (e == DType::boolean) continue;
    INFO(dtype_name(e));
    CHECK(run(e, {{4, 4}, {7, 7}, {16, 16}},
              [&](Builder& b, ValueId v) { return b.op(Op::contract, {v, b.op(Op::transpose, {v}), v}); }) == "");
  }
  for (auto [rows, lanes] : {std::pair{6, 64}, {8, 48}, {14, 32}, {6, 16}, {4, 24}, {5, 7}}) {
    INFO(rows << "x" << lanes);
    for (bool packed : {true, false})
      CHECK(compare(gemm_kernel(2 * rows, 3 * lanes, 40, rows, lanes, packed),
                    {sample(DType::f32, 80 * rows, 2), sample(DType::f32, 120 * lanes, 5),
                     sample(DType::f32, 6 * rows * lanes, 8)}) == "");
  }
}
