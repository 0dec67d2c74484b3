#include "ir/interp_map.hpp"

#include <cstring>

#include "ir/loop/abi.hpp"
#include "ir/loop/interp.hpp"

namespace ag {
namespace {

/// One loop over whole tiles and one shorter tile for the rest: no lane computes what is not there.
loop::Kernel build(const NodeView& node, const std::vector<bool>& splat, std::int64_t elems, std::int64_t lanes) {
  loop::Builder b("map");
  std::vector<loop::BufferId> in;
  for (std::size_t i = 0; i < splat.size(); ++i)
    in.push_back(b.param(node.in(i).dtype, splat[i] ? 1 : elems, loop::Access::read));
  loop::BufferId out = b.param(node.out().dtype, elems, loop::Access::write);
  auto tile = [&](loop::ValueId base, std::int64_t count) {
    loop::ValueId one = b.index(1);
    std::vector<loop::ValueId> x;
    for (std::size_t i = 0; i < in.size(); ++i) {
      DType t = node.in(i).dtype;
      if (splat[i])
        x.push_back(b.load(in[i], b.index(0)));
      else
        x.push_back(b.load_tile(in[i], {t, 1, static_cast<std::uint16_t>(count)}, base, b.index(0), one));
    }
    loop::ValueId y = node.node().op->scalar(b, node, x);
    if (b.type(y).lanes != count) y = b.broadcast(y, 1, static_cast<int>(count));
    b.store_tile(out, base, b.index(0), one, y);
  };
  if (elems / lanes)
    b.for_(b.index(0), b.index(elems / lanes * lanes), b.index(lanes), {}, {}, [&](loop::ValueId iv, const auto&) {
      tile(iv, lanes);
      return loop::Builder::Values{};
    });
  if (elems % lanes) tile(b.index(elems / lanes * lanes), elems % lanes);
  return std::move(b).finish();
}

bool has_trap(const loop::Kernel& k) {
  for (const loop::Stmt& s : k.stmts)
    if (s.op == loop::Op::trap) return true;
  return false;
}

/// In tiles of 256 elements; one by one if the rule traps, since the condition of a trap is a scalar.
loop::Kernel build(const NodeView& node, const std::vector<bool>& splat, std::int64_t elems) {
  loop::Kernel tiles = build(node, splat, elems, 256);
  return has_trap(tiles) ? build(node, splat, elems, 1) : tiles;
}

std::unexpected<Diags> trapped(const NodeView& node, const loop::TrapRecord& trap) {
  auto kind = static_cast<loop::Trap>(trap.kind);
  bool division = kind == loop::Trap::integer_division_by_zero;
  return fail(division ? Code::AG5013 : Code::AG5012, node.graph.loc(node.result()),
              "`" + std::string(node.node().op->name) + (division ? "` divides an integer by zero" : "` trapped"));
}

}  // namespace

std::optional<std::vector<std::int64_t>> broadcast_concrete(std::span<const Array> operands) {
  std::vector<std::int64_t> out;
  for (const Array& a : operands) {
    const auto& s = a.shape();
    if (s.size() > out.size()) out.insert(out.begin(), s.size() - out.size(), 1);
    for (std::size_t i = 0; i < s.size(); ++i) {
      std::int64_t& o = out[out.size() - s.size() + i];
      if (o == 1)
        o = s[i];
      else if (s[i] != o && s[i] != 1)
        return std::nullopt;
    }
  }
  return out;
}

Array expand_to(const Array& a, const std::vector<std::int64_t>& shape) {
  if (a.shape() == shape) return a;
  Array out(a.dtype(), shape);
  std::size_t rank = shape.size(), size = dtype_bytes(a.dtype());
  std::vector<std::int64_t> stride(rank, 0), index(rank, 0);
  std::int64_t step = 1;
  for (std::size_t i = 0; i < a.shape().size(); ++i) {
    std::size_t d = a.shape().size() - 1 - i;
    stride[rank - 1 - i] = a.shape()[d] == 1 ? 0 : step;
    step *= a.shape()[d];
  }
  std::byte* to = out.mutable_bytes().data();
  const std::byte* from = a.bytes().data();
  std::int64_t row = rank ? shape[rank - 1] : 1, inner = rank ? stride[rank - 1] : 0, offset = 0;
  for (std::int64_t done = 0; done < out.elems(); done += row) {
    if (inner == 1)
      std::memcpy(to + done * size, from + offset * size, row * size);
    else
      for (std::int64_t i = 0; i < row; ++i) std::memcpy(to + (done + i) * size, from + offset * size, size);
    for (std::size_t d = rank - 1; d-- > 0;) {  // the next row's offset
      offset += stride[d];
      if (++index[d] < shape[d]) break;
      offset -= stride[d] * shape[d];
      index[d] = 0;
    }
  }
  return out;
}

Result<Array> evaluate_map(const NodeView& node, std::span<const Array> operands,
                           const std::vector<std::int64_t>& shape, MapKernel& cache) {
  if (auto fits = broadcast_concrete(operands); !fits || *fits != shape) {
    std::string given;
    for (const Array& a : operands)
      given += (given.empty() ? "" : ", ") + shape_str(Dims(a.shape().begin(), a.shape().end()));
    return fail(Code::AG5205, node.graph.loc(node.result()),
                "`" + std::string(node.node().op->name) + "`: the sizes " + given + " do not broadcast to " +
                    shape_str(Dims(shape.begin(), shape.end())));
  }
  Array out(node.out().dtype, shape);
  if (out.elems() == 0) return out;
  std::vector<bool> splat;
  std::vector<Array> full;
  for (const Array& a : operands) {
    splat.push_back(a.elems() == 1 && out.elems() != 1);
    full.push_back(splat.back() ? a : expand_to(a, shape));
  }
  if (cache.elems != out.elems() || cache.splat != splat) cache = {build(node, splat, out.elems()), out.elems(), splat};
  std::vector<loop::BufferView> views;
  for (const Array& a : full) views.push_back({const_cast<std::byte*>(a.bytes().data()), a.elems()});
  views.push_back({out.mutable_bytes().data(), out.elems()});
  loop::InterpOptions options;
  options.detect_races = false;
  AG_TRY(loop::TrapRecord trap, loop::interpret(cache.kernel, views, {}, options));
  if (trap.kind) return trapped(node, trap);
  return out;
}

}  // namespace ag
