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
#include "passes/pack_constants.hpp"
#include "passes/panels.hpp"
#include "passes/rebuild.hpp"
#include "passes/strided_view.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

/// Elements from which a copy pays.
constexpr Int min_elements = 2048;
/// Elements from which a copy is shared among threads.
constexpr Int parallel_elements = 1 << 20;

/// A constant seen through views: its elements by strides.
struct ConstantView {
  LiteralPtr literal;
  Ints shape, strides;
};

std::optional<ConstantView> constant_view(const Graph& g, ValueId v) {
  auto view = strided_view(g, v);
  if (!view || !view->whole) return std::nullopt;
  const Node& n = g.def(view->source);
  const LiteralPtr* literal = n.attrs.get<LiteralPtr>("value");
  if (!literal || !n.operands.empty()) return std::nullopt;
  const bool plain = (*literal)->form != Literal::Form::splat && !n.attrs.get_or<bool>("trainable", false);
  if (!plain) return std::nullopt;
  return ConstantView{*literal, std::move(view->shape), std::move(view->strides)};
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

  /// The product of `id` with its constant in panels, if it has one that gains by it.
  bool product(NodeId id) {
    const Node& n = g_.node(id);
    auto view = constant_view(g_, n.operands[1]);
    if (!view || !is_float(view->literal->dtype) || is_storage(view->literal->dtype)) return false;
    const auto [batch, contract, free] = right_axes(g_, n, static_cast<int>(view->shape.size()));
    if (contract.empty()) return false;
    if (free.empty()) return false;
    auto at = [](const Ints& from, Int i) { return from[static_cast<std::size_t>(i)]; };
    Int columns = at(view->shape, free.back()), step = at(view->strides, free.back()), depth = 1, elements = 1;
    for (Int d : contract) depth *= at(view->shape, d);
    for (Int s : view->shape) elements *= s;
    if (columns < 2 || depth < 2 || elements < min_elements) return false;
    const ContractionSizes sizes = product_sizes(g_, n, target_);
    Int width = pick_tile(sizes, target_).registers * sizes.lanes;  // that of the tile that the schedule will choose
    if (step == 1 && columns <= width) return false;  // one panel as it lies
    Ints outer = batch;
    outer.insert(outer.end(), free.begin(), free.end() - 1);
    ValueId panels = constant_panels(*view, outer, contract, free.back(), width);
    b_.set_origin(n.locs, n.grad_of ? map_[n.grad_of.index] : ValueId{});
    ValueId z = product_of_panels(b_, g_, id, map_[n.operands[0].index], panels);
    map_[n.result().index] = z;
    const std::string& name = g_.value(n.result()).name;
    if (!name.empty() && out_.value(z).name.empty() && !out_.find(name)) out_.set_name(z, name);
    return true;
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
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (context.target.kind != TargetSpec::Kind::cpu) return copy_if(g, [](NodeId) { return true; });
  return Packer(g, context.target).run();
}

}  // namespace

const Pass pack_constants = {
    .name = "pack_constants", .summary = "lay constant operands of products out in panels", .on_graph = run};

}  // namespace ag::passes
