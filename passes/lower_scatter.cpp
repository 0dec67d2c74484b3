// Scatter -> kernels: the operand is copied, then the updates are applied in index order by the owner of each window
// position, so that the result does not depend on the number of threads.
#include "passes/lower_own.hpp"

#include <algorithm>
#include <unordered_map>

#include "ir/loop/abi.hpp"

namespace ag::passes {
namespace {

using loop::AxisRole;
using loop::Mapping;
using loop::Op;
using LV = loop::ValueId;
using LVs = std::vector<LV>;
using Ints = std::vector<std::int64_t>;

/// One kernel of the pair; leaves of the operands are its read parameters.
class ScatterKernel : public ElementSource {
 public:
  ScatterKernel(const Graph& g, NodeId id, std::initializer_list<std::size_t> operands, loop::Access out)
      : g_(g), id_(id), b_("k") {
    for (std::size_t i : operands) {
      LeafProbe probe(g);
      ValueId v = node().operands[i];
      probe.element(v, probe.indices(g.type(v).shape));
      for (const auto& leaf : probe.leaves) {
        if (reads_.contains(leaf.value)) continue;
        const Type& t = g.type(leaf.value);
        reads_.emplace(leaf.value, b_.param(t.dtype, t.elems(), loop::Access::read));
        lowered_.buffers.push_back(leaf.value);
      }
    }
    const Type& t = g.type(node().result());
    out_ = b_.param(t.dtype, t.elems(), out);
    lowered_.buffers.push_back(node().result());
    lowered_.origins.push_back(id);
    b_.set_origin(1);
  }

  loop::Builder& builder() override { return b_; }
  const Graph& graph() const override { return g_; }
  LV leaf(ValueId v, std::span<const LV> index) override {
    return b_.load(reads_.at(v), linear_index(b_, g_.type(v).shape, index));
  }
  void trap(NodeId, LV cond, std::uint32_t kind, LV detail) override { b_.trap(cond, kind, detail); }

  LoweredKernel copy_operand() {
    const Type& t = g_.type(node().result());
    LVs at(t.shape.size());
    std::vector<std::pair<std::size_t, AxisRole>> loops;
    for (std::size_t d = 0; d < t.shape.size(); ++d) loops.emplace_back(d, AxisRole::batch);
    mark_last(loops, t.shape);
    nest(loops, t.shape, at, Mapping::parallel, 0,
         [&] { b_.store(out_, linear_index(b_, t.shape, at), element(node().operands[0], at)); });
    return finish("copy", t.elems());
  }

  LoweredKernel apply_updates() {
    const Dims& shape = g_.type(node().operands[2]).shape;
    Ints window = ints("update_window_dims"), batch;
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (!has(window, d)) batch.push_back(static_cast<std::int64_t>(d));
    // Axes whose updates never meet: the window's, and those that batch the operand too.
    std::vector<std::pair<std::size_t, AxisRole>> parallel, serial;
    for (std::int64_t d : ints("scatter_indices_batching_dims"))
      parallel.emplace_back(batch[static_cast<std::size_t>(batch_of(d))], AxisRole::batch);
    for (std::int64_t d : batch)
      if (std::none_of(parallel.begin(), parallel.end(),
                       [&](auto& p) { return p.first == static_cast<std::size_t>(d); }))
        serial.emplace_back(d, AxisRole::none);
    std::vector<std::pair<std::size_t, AxisRole>> lanes;
    for (std::int64_t d : window) lanes.emplace_back(d, AxisRole::batch);
    mark_last(lanes, shape);
    parallel.insert(parallel.end(), lanes.begin(), lanes.end());
    LVs at(shape.size());
    nest(parallel, shape, at, Mapping::parallel, 0,
         [&] { nest(serial, shape, at, Mapping::serial, 0, [&] { update(at, window, batch); }); });
    return finish("scatter", g_.type(node().operands[2]).elems());
  }

 private:
  const Graph& g_;
  NodeId id_;
  loop::Builder b_;
  LoweredKernel lowered_;
  std::unordered_map<ValueId, loop::BufferId> reads_;
  loop::BufferId out_;

  const Node& node() const { return g_.node(id_); }
  Ints ints(std::string_view name) const { return node().attrs.get_or<Ints>(name, {}); }
  static bool has(const Ints& v, std::size_t d) {
    return std::find(v.begin(), v.end(), static_cast<std::int64_t>(d)) != v.end();
  }
  std::int64_t vector_dim() const { return node().attrs.get_or<std::int64_t>("index_vector_dim", 0); }
  std::int64_t batch_of(std::int64_t d) const { return d - (vector_dim() < d ? 1 : 0); }

  static void mark_last(std::vector<std::pair<std::size_t, AxisRole>>& loops, const Dims& shape) {
    for (std::size_t i = loops.size(); i-- > 0;)
      if (!shape[loops[i].first].is(1)) {
        loops[i].second = AxisRole::col;
        return;
      }
  }

  void nest(const std::vector<std::pair<std::size_t, AxisRole>>& loops, const Dims& shape, LVs& at, Mapping mapping,
            std::size_t i, const std::function<void()>& body) {
    if (i == loops.size()) return body();
    auto [d, role] = loops[i];
    if (shape[d].is(1)) {
      at[d] = b_.index(0);
      return nest(loops, shape, at, mapping, i + 1, body);
    }
    b_.for_each(b_.dim(shape[d]), {.mapping = mapping, .role = role}, [&](LV iv) {
      at[d] = iv;
      nest(loops, shape, at, mapping, i + 1, body);
    });
  }

  void update(const LVs& at, const Ints& window, const Ints& batch) {
    const Dims& operand = g_.type(node().result()).shape;
    const Dims& updates = g_.type(node().operands[2]).shape;
    Ints inserted = ints("inserted_window_dims"), batching = ints("input_batching_dims"),
         indices_batching = ints("scatter_indices_batching_dims");
    LVs position(operand.size(), b_.index(0));
    Dims size(operand.size(), 1);
    std::size_t w = 0;
    for (std::size_t d = 0; d < operand.size(); ++d) {
      if (has(inserted, d) || has(batching, d)) continue;
      position[d] = at[static_cast<std::size_t>(window[w])];
      size[d] = updates[static_cast<std::size_t>(window[w++])];
    }
    for (std::size_t i = 0; i < batching.size(); ++i)
      position[batching[i]] = at[batch[static_cast<std::size_t>(batch_of(indices_batching[i]))]];
    LV inside = add_starts(at, batch, operand, size, position);
    LV value = element(node().operands[2], at), where = linear_index(b_, operand, position);
    std::string kind = node().attrs.get_or<std::string>("kind", "set");
    if (kind != "set") {
      LV old = b_.load(out_, where, inside);
      Op op = kind == "add" ? Op::add : kind == "mul" ? Op::mul : kind == "min" ? Op::min : Op::max;
      if (b_.type(value).elem == DType::boolean) op = kind == "add" || kind == "max" ? Op::or_ : Op::and_;
      value = b_.op(op, {old, value});
    }
    b_.store(out_, where, value, inside);
  }

  /// Adds the index vector to `position`; traps where it is out of range and returns the mask of those inside.
  LV add_starts(const LVs& at, const Ints& batch, const Dims& operand, const Dims& size, LVs& position) {
    const Dims& indices = g_.type(node().operands[1]).shape;
    LVs where;
    for (std::int64_t d : batch) where.push_back(at[d]);
    bool has_vector = vector_dim() < static_cast<std::int64_t>(indices.size());
    if (has_vector) where.insert(where.begin() + vector_dim(), LV{});
    LV inside = b_.constant_int(DType::boolean, 1);
    Ints map = ints("scatter_dims_to_operand_dims");
    for (std::size_t k = 0; k < map.size(); ++k) {
      if (has_vector) where[vector_dim()] = b_.index(static_cast<std::int64_t>(k));
      LV start = b_.cast(element(node().operands[1], where), DType::i64);
      auto axis = static_cast<std::size_t>(map[k]);
      LV last = b_.dim(operand[axis] - size[axis]), zero = b_.index(0);
      LV bad = b_.op(Op::or_, {b_.op(Op::cmp_lt, {start, zero}), b_.op(Op::cmp_gt, {start, last})});
      b_.trap(bad, static_cast<std::uint32_t>(loop::Trap::index_out_of_range), start);
      inside = b_.op(Op::and_, {inside, b_.op(Op::not_, {bad})});
      position[axis] = b_.add(position[axis], b_.op(Op::max, {b_.op(Op::min, {start, last}), zero}));
    }
    return inside;
  }

  LoweredKernel finish(std::string label, const Dim& elems) {
    lowered_.label = std::move(label);
    b_.set_origin(0);
    b_.kernel().flops = elems * Dim(2);
    b_.kernel().bytes = elems * Dim(static_cast<std::int64_t>(2 * dtype_bytes(g_.type(node().result()).dtype)));
    lowered_.kernel = std::move(b_).finish();
    return std::move(lowered_);
  }
};

}  // namespace

Result<std::vector<LoweredKernel>> lower_scatter(const Graph& g, NodeId id) {
  std::vector<LoweredKernel> kernels;
  kernels.push_back(ScatterKernel(g, id, {0}, loop::Access::write).copy_operand());
  kernels.push_back(ScatterKernel(g, id, {1, 2}, loop::Access::read_write).apply_updates());
  return kernels;
}

}  // namespace ag::passes
