// Lays constant right-hand sides of products out in panels, [N / width][K][width], so that a product reads each panel
// as one stream of whole registers. The product reads the panels through views (transpose, reshape, slice), whose
// indices stay simple within a panel; the width is that of the schedule's register tile (contraction_model.hpp). The
// last panel is padded with zeros, which nobody reads. Values are copied, never computed with: every bit is kept.
#include <algorithm>
#include <map>
#include <numeric>
#include <system_error>
#include <thread>

#include "ir/op.hpp"
#include "passes/contraction_model.hpp"
#include "passes/pack_constants.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

/// Elements from which a copy pays.
constexpr Int min_elements = 2048;
/// Elements from which a copy is shared among threads.
constexpr Int parallel_elements = 1 << 20;

/// A constant seen through transposes and reshapes: its elements by strides.
struct ConstantView {
  LiteralPtr literal;
  Ints shape, strides;
};

Ints row_major(const Ints& shape) {
  Ints strides(shape.size());
  Int step = 1;
  for (std::size_t d = shape.size(); d-- > 0; step *= shape[d]) strides[d] = step;
  return strides;
}

/// Strides of the same elements in another shape, if they have any.
std::optional<Ints> reshaped(const Ints& shape, const Ints& strides, const Ints& to) {
  Ints out(to.size());
  std::size_t i = 0, j = 0;
  while (i < shape.size() || j < to.size()) {  // the shortest runs of axes with equal products
    std::size_t i0 = i, j0 = j;
    Int a = i < shape.size() ? shape[i++] : 1, b = j < to.size() ? to[j++] : 1;
    while (a != b) {
      if (a < b && i < shape.size())
        a *= shape[i++];
      else if (b < a && j < to.size())
        b *= to[j++];
      else
        return std::nullopt;
    }
    Int step = 0, expected = -1;
    for (std::size_t d = i; d-- > i0;) {  // one run of elements?
      if (shape[d] == 1) continue;
      if (expected < 0)
        step = strides[d];
      else if (strides[d] != expected)
        return std::nullopt;
      expected = strides[d] * shape[d];
    }
    for (std::size_t d = j; d-- > j0; step *= to[d]) out[d] = step;
  }
  return out;
}

std::optional<ConstantView> constant_view(const Graph& g, ValueId v) {
  std::vector<NodeId> views;
  for (int depth = 0; depth < 16; ++depth) {
    const Node& n = g.def(v);
    if (const LiteralPtr* literal = n.attrs.get<LiteralPtr>("value"); literal && n.operands.empty()) {
      bool plain = (*literal)->form != Literal::Form::splat && !n.attrs.get_or<bool>("trainable", false);
      if (!plain) return std::nullopt;
      ConstantView out{*literal, (*literal)->shape, row_major((*literal)->shape)};
      for (std::size_t i = views.size(); i-- > 0;) {
        const Node& view = g.node(views[i]);
        if (view.op->name == "transpose") {
          Ints shape, strides;
          for (Int d : view.attrs.get_or<Ints>("perm", {})) {
            shape.push_back(out.shape[static_cast<std::size_t>(d)]);
            strides.push_back(out.strides[static_cast<std::size_t>(d)]);
          }
          out.shape = std::move(shape), out.strides = std::move(strides);
        } else {
          auto shape = static_shape(g.type(view.result()).shape);
          auto strides = shape ? reshaped(out.shape, out.strides, *shape) : std::nullopt;
          if (!strides) return std::nullopt;
          out.shape = *shape, out.strides = *strides;
        }
      }
      return out;
    }
    if (n.op->name != "transpose" && n.op->name != "reshape") return std::nullopt;
    views.push_back(g.value(v).node);
    v = n.operands[0];
  }
  return std::nullopt;
}

/// Offsets of all positions over some axes, the last fastest.
Ints offsets(const ConstantView& v, const Ints& axes) {
  Ints out{0};
  for (Int a : axes) {
    auto d = static_cast<std::size_t>(a);
    Ints next;
    next.reserve(out.size() * static_cast<std::size_t>(v.shape[d]));
    for (Int base : out)
      for (Int i = 0; i < v.shape[d]; ++i) next.push_back(base + i * v.strides[d]);
    out = std::move(next);
  }
  return out;
}

/// What a copy reads: elements at outer + column * column_step + depth.
struct PanelSource {
  Ints outer, depth;
  Int columns, column_step, width;
  Int panels() const { return (columns + width - 1) / width; }  ///< of one place in `outer`
};

/// Panels [lo, hi) of [outer][N / width][depth][width].
template <class T>
void copy_panels(const T* from, T* to, const PanelSource& s, Int lo, Int hi) {
  constexpr std::size_t block = 16;  // steps of depth at a time: lines of both sides stay in the cache
  to += lo * static_cast<Int>(s.depth.size()) * s.width;
  for (Int p = lo; p < hi; ++p, to += static_cast<Int>(s.depth.size()) * s.width) {
    const Int first = p % s.panels() * s.width, count = std::min(s.width, s.columns - first);
    const T* panel = from + s.outer[static_cast<std::size_t>(p / s.panels())] + first * s.column_step;
    if (s.column_step == 1) {
      for (std::size_t k = 0; k < s.depth.size(); ++k)
        std::copy_n(panel + s.depth[k], count, to + static_cast<Int>(k) * s.width);
      continue;
    }
    for (std::size_t k0 = 0; k0 < s.depth.size(); k0 += block)
      for (Int n = 0; n < count; ++n)
        for (std::size_t k = k0; k < std::min(k0 + block, s.depth.size()); ++k)
          to[static_cast<Int>(k) * s.width + n] = panel[n * s.column_step + s.depth[k]];
  }
}

class Packer {
 public:
  Packer(const Graph& g, const TargetSpec& target) : g_(g), target_(target), out_(empty_like(g)), b_(out_) {}

  Graph run() {
    map_.resize(g_.value_count());
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (n.op->name == "dot_general" && product(id)) continue;
      NodeId copy = b_.copy(g_, id, [&](ValueId v) { return map_[v.index]; });
      for (std::uint32_t r = 0; r < n.result_count; ++r) map_[n.result(r).index] = out_.node(copy).result(r);
    }
    map_signature(g_, map_, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  const TargetSpec& target_;
  Graph out_;
  GraphBuilder b_;
  ValueMap map_;
  using Key = std::tuple<const Literal*, Ints, Ints, Ints, Ints>;
  std::map<Key, ValueId> packed_;  // panels that are there already, whatever their width

  static std::optional<Int> number(const Dim& d) { return d.is_const() ? std::optional(d.value()) : std::nullopt; }

  /// The product of `id` with its constant in panels, if it has one that gains by it.
  bool product(NodeId id) {
    const Node& n = g_.node(id);
    auto ints = [&](const char* name) { return n.attrs.get_or<Ints>(name, {}); };
    Ints contract = ints("rhs_contract"), batch = ints("rhs_batch"), free;
    auto view = constant_view(g_, n.operands[1]);
    if (!view || contract.empty() || !is_float(view->literal->dtype) || is_storage(view->literal->dtype)) return false;
    for (Int d = 0; d < static_cast<Int>(view->shape.size()); ++d)
      if (std::find(contract.begin(), contract.end(), d) == contract.end() &&
          std::find(batch.begin(), batch.end(), d) == batch.end())
        free.push_back(d);
    if (free.empty()) return false;
    auto at = [](const Ints& from, Int i) { return from[static_cast<std::size_t>(i)]; };
    Int columns = at(view->shape, free.back()), step = at(view->strides, free.back()), depth = 1, elements = 1;
    for (Int d : contract) depth *= at(view->shape, d);
    for (Int s : view->shape) elements *= s;
    if (columns < 2 || depth < 2 || elements < min_elements) return false;
    Int width = panel_width(n, columns, depth, dtype_bytes(view->literal->dtype));
    if (step == 1 && columns <= width) return false;  // one panel as it lies
    Ints outer = batch;
    outer.insert(outer.end(), free.begin(), free.end() - 1);
    ValueId panels = constant_panels(*view, outer, contract, free.back(), width);
    rebuild(id, panels, *view, outer, batch.size(), contract, columns);
    return true;
  }

  /// Columns of the tile that the schedule will choose.
  Int panel_width(const Node& n, Int columns, Int depth, std::size_t bytes) const {
    const Type& lhs = g_.type(n.operands[0]);
    Ints contract = n.attrs.get_or<Ints>("lhs_contract", {}), batch = n.attrs.get_or<Ints>("lhs_batch", {});
    ContractionSizes s{.rows = 1, .cols = columns, .depth = depth};
    // Rows that lie one after another in memory become one axis (pass `collapse`).
    const bool one_axis = contract.size() == 1 && contract[0] == lhs.rank() - 1;
    for (Int d = 0; d < lhs.rank(); ++d) {
      bool other = std::find(contract.begin(), contract.end(), d) != contract.end() ||
                   std::find(batch.begin(), batch.end(), d) != batch.end();
      const Dim& size = lhs.shape[static_cast<std::size_t>(d)];
      if (other || size.is(1)) continue;
      auto rows = number(size);
      s.rows = one_axis && s.rows && rows ? std::optional(*s.rows * *rows) : rows;
    }
    s.element_bytes = bytes == 8 ? 8 : 4;
    s.lanes = target_.lanes(static_cast<std::size_t>(s.element_bytes));
    auto pitch = lhs.shape.empty() ? std::nullopt : number(lhs.shape.back());
    s.rows_collide = pitch && *pitch * static_cast<Int>(dtype_bytes(lhs.dtype)) % 4096 == 0;
    return pick_tile(s, target_).registers * s.lanes;
  }

  ValueId constant_panels(const ConstantView& v, const Ints& outer, const Ints& contract, Int column, Int width) {
    Key key{v.literal.get(), v.strides, outer, contract, {column}};
    if (auto it = packed_.find(key); it != packed_.end()) return it->second;
    Array from = v.literal->materialize();
    auto size = [&](Int d) { return v.shape[static_cast<std::size_t>(d)]; };
    Ints shape;
    for (Int d : outer) shape.push_back(size(d));
    shape.push_back((size(column) + width - 1) / width);
    for (Int d : contract) shape.push_back(size(d));
    shape.push_back(width);
    Array to(v.literal->dtype, shape);
    Int step = v.strides[static_cast<std::size_t>(column)];
    const PanelSource source{offsets(v, outer), offsets(v, contract), size(column), step, width};
    const Int panels = static_cast<Int>(source.outer.size()) * source.panels();
    auto copy = [&]<class T>(T) {
      const Int parts = to.elems() < parallel_elements ? 1 : std::clamp<Int>(target_.threads, 1, panels);
      T* out = reinterpret_cast<T*>(to.mutable_bytes().data());
      auto part = [&, out](Int i) {
        copy_panels(reinterpret_cast<const T*>(from.bytes().data()), out, source, panels * i / parts,
                    panels * (i + 1) / parts);
      };
      std::vector<std::jthread> others;
      for (Int i = 1; i < parts; ++i) {
        try {
          others.emplace_back(part, i);
        } catch (const std::system_error&) {  // no more threads
          part(i);
        }
      }
      part(0);
    };
    switch (dtype_bytes(v.literal->dtype)) {
      case 2: copy(std::uint16_t{}); break;
      case 4: copy(std::uint32_t{}); break;
      default: copy(std::uint64_t{}); break;
    }
    auto literal = std::make_shared<Literal>();
    literal->dtype = to.dtype(), literal->shape = to.shape(), literal->array = std::move(to);
    return packed_[key] = b_.constant(std::move(literal));
  }

  /// The product over the panels, seen as [batch, contracted, other free, columns].
  void rebuild(NodeId id, ValueId panels, const ConstantView& v, const Ints& outer, std::size_t batch,
               const Ints& contract, Int columns) {
    const Node& n = g_.node(id);
    b_.set_origin(n.locs, n.grad_of ? map_[n.grad_of.index] : ValueId{});
    auto order = [&](std::size_t from, std::size_t count, Ints& perm) {
      for (std::size_t i = 0; i < count; ++i) perm.push_back(static_cast<Int>(from + i));
    };
    Ints perm;
    order(0, batch, perm);
    order(outer.size() + 1, contract.size(), perm);
    order(batch, outer.size() - batch, perm);
    perm.push_back(static_cast<Int>(outer.size()));
    perm.push_back(static_cast<Int>(outer.size() + 1 + contract.size()));
    ValueId right = b_.transpose(panels, perm);
    Dims shape = b_.type(right).shape, start, limit;
    Dim padded = shape[shape.size() - 2] * shape.back();
    shape.pop_back();
    shape.back() = padded;
    right = b_.reshape(right, shape);
    if (!padded.is(columns)) {
      start.assign(shape.size(), Dim(0));
      limit = shape;
      limit.back() = Dim(columns);
      right = b_.slice(right, start, limit);
    }
    Ints rhs_batch(batch), rhs_contract(contract.size());
    std::iota(rhs_batch.begin(), rhs_batch.end(), 0);
    std::iota(rhs_contract.begin(), rhs_contract.end(), static_cast<Int>(batch));
    ValueId z = b_.dot_general(map_[n.operands[0].index], right, n.attrs.get_or<Ints>("lhs_contract", {}), rhs_contract,
                               n.attrs.get_or<Ints>("lhs_batch", {}), rhs_batch);
    map_[n.result().index] = z;
    const std::string& name = g_.value(n.result()).name;
    if (!name.empty() && out_.value(z).name.empty() && !out_.find(name)) out_.set_name(z, name);
    (void)v;
  }
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (context.target.kind != TargetSpec::Kind::cpu) return copy_if(g, [](NodeId) { return true; });
  return Packer(g, context.target).run();
}

}  // namespace

const Pass pack_constants = {
    .name = "pack_constants", .summary = "lay constant operands of products out in panels", .on_graph = run};

}  // namespace ag::passes
