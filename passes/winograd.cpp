// Chooses Winograd's minimal filtering for 3 x 3 convolutions of stride 1 where it is faster than a direct one. An
// `algorithm` rewrite: F(2x2) is as accurate as a direct sum; F(4x4) is less so and must be asked for.
#include "passes/winograd.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <system_error>
#include <thread>

#include <fmt/format.h>

#include "ir/op.hpp"
#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

/// Bytes a cycle that all cores together read from memory, and one core from the shared cache.
constexpr double memory_bytes = 9, shared_cache_bytes = 20;
/// What a direct convolution reaches of the machine's peak.
constexpr double direct_efficiency = 0.97;
/// Cycles of a register of a tile's transform, for each point: loads, additions and stores.
constexpr double image_cycles = 7, result_cycles = 3;
/// Winograd must win clearly: the model is not the machine.
constexpr double margin = 0.92;
constexpr std::int64_t unknown_size = 1024;
/// For messages: of the machine that the figures were measured on.
constexpr double cycles_per_us = 3680;

double number(const Dim& d) { return static_cast<double>(d.is_const() ? d.value() : unknown_size); }

struct Machine {
  double lanes, threads, l2;
  int rows, columns;
  std::size_t bytes;
  Machine(DType t, const TargetSpec& target)
      : lanes(target.lanes(dtype_bytes(t))),
        threads(std::max(target.threads, 1)),
        l2(static_cast<double>(target.l2_bytes)),
        rows(target.vector_registers >= 32 ? 14 : 6),
        columns(static_cast<int>(std::min<double>(2 * lanes, winograd_panel))),
        bytes(dtype_bytes(t)) {}
};

/// Cycles of all tasks with this blocking; infinite if a task's transformed tiles do not stay in its cache.
double cycles(const WinogradDesc& d, const Machine& m, int rows, std::int64_t blocks_of, std::int64_t shares) {
  const double points = std::pow(static_cast<double>(d.tile + 2), 2), c = number(d.channels),
               panels = std::ceil(number(d.panels()) / static_cast<double>(shares)),
               block = static_cast<double>(rows * blocks_of), tiles = std::ceil(number(d.tiles()) / block);
  const double resident = points * block * (c + 16) * static_cast<double>(m.bytes);
  if (resident > 0.6 * m.l2) return INFINITY;
  const double registers = winograd_panel / m.lanes;
  // A step of the product: an FMA a row and register, and what starting and ending its loop costs.
  const double step = std::max(rows * registers, 6.0) + 0.3 * registers;
  const double product = panels * points * static_cast<double>(blocks_of) * (c * step + 3 * rows * registers);
  const double image = block * points * image_cycles * std::ceil(c / m.lanes);
  const double result = block * points * result_cycles * registers * panels;
  const double filters = panels * points * c * winograd_panel * static_cast<double>(m.bytes);
  const double task = image + result + std::max(product, filters / shared_cache_bytes);
  const double per_thread = std::ceil(tiles * static_cast<double>(shares) / m.threads);
  return std::max(task * per_thread, filters * static_cast<double>(shares) / memory_bytes);
}

}  // namespace

WinogradBlocking winograd_blocking(const WinogradDesc& d, DType t, const TargetSpec& target) {
  const Machine m(t, target);
  WinogradBlocking best;
  best.columns = m.columns;
  best.cycles = INFINITY;
  const double tiles = number(d.tiles());
  for (int rows = 1; rows <= m.rows; ++rows)
    for (std::int64_t blocks = 1; blocks <= 4; ++blocks)
      for (std::int64_t shares = 1; shares <= std::min<double>(number(d.panels()), 2 * m.threads); ++shares) {
        if (blocks > 1 && static_cast<double>(rows * (blocks - 1)) >= tiles) continue;
        double c = cycles(d, m, rows, blocks, shares);
        if (c < best.cycles) best = {rows, m.columns, rows * blocks, shares, c};
      }
  if (best.rows == 1 && tiles > 1) best.rows = 2, best.block = 2;  // too many channels for the cache: it still runs
  return best;
}

double direct_cycles(const WinogradDesc& d, DType t, const TargetSpec& target) {
  const Machine m(t, target);
  const double filters = 9 * number(d.channels) * number(d.filters);
  const double positions = number(d.batch) * number(d.out_height) * number(d.out_width);
  const double columns = std::ceil(number(d.filters) / m.lanes);
  return std::max(positions * 9 * number(d.channels) * columns / m.threads / direct_efficiency,
                  filters * static_cast<double>(m.bytes) / memory_bytes);
}

namespace {

/// Filters that change from run to run are read, transformed and written: as fast as memory is.
double transform_cycles(const WinogradDesc& d) {
  const double points = std::pow(static_cast<double>(d.tile + 2), 2);
  return number(d.channels) * (9 * number(d.filters) + points * winograd_panel * number(d.panels())) * 4 / memory_bytes;
}

/// Bytes of constants that may be transformed while compiling.
constexpr std::size_t max_constant_bytes = 1u << 30;
constexpr std::size_t max_cone = 64;

/// A convolution that the op `winograd` can compute: of x [N,H,W,C] with filters [3,3,C,M], after `turned` if that is
/// an input gradient, whose filters are turned round and exchange their channels.
struct Candidate {
  WinogradDesc desc;
  bool turned = false;
};

class Chooser {
 public:
  Chooser(const Graph& g, PassContext& context) : g_(g), context_(context), out_(empty_like(g)), b_(out_) {}

  Graph run() {
    ValueMap map(g_.value_count());
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      ValueId replaced = n.op->name == "conv" ? choose(id, map) : ValueId{};
      if (!replaced) {
        NodeId copy = b_.copy(g_, id, [&](ValueId v) { return map[v.index]; });
        for (std::uint32_t r = 0; r < n.result_count; ++r) bind(n.result(r), out_.node(copy).result(r), map);
      } else {
        bind(n.result(), replaced, map);
      }
    }
    map_signature(g_, map, out_);
    return std::move(out_);
  }

 private:
  const Graph& g_;
  PassContext& context_;
  Graph out_;
  GraphBuilder b_;
  std::map<std::pair<ValueId, std::int64_t>, ValueId> transformed_;  // filters of the new graph and tile
  std::size_t constant_bytes_ = 0;

  void bind(ValueId from, ValueId to, ValueMap& map) {
    map[from.index] = to;
    const std::string& name = g_.value(from).name;
    if (!name.empty() && out_.value(to).name.empty() && !out_.find(name)) out_.set_name(to, name);
  }

  /// The convolution's numbers, if its window and layout fit and its sizes are known.
  std::optional<Candidate> candidate(NodeId id) const {
    const NodeView n{g_, id};
    const Attrs& a = n.attrs();
    auto all = [](const std::vector<std::int64_t>& v) {
      return v.size() == 2 && std::all_of(v.begin(), v.end(), [](std::int64_t s) { return s == 1; });
    };
    const std::string role = a.get_or<std::string>("role", "output");
    const Dims groups = a.get_or<Dims>("groups", {}), low = a.get_or<Dims>("low", {});
    const Dims &p = n.in(0).shape, &q = n.in(1).shape, &y = n.out().shape;
    if (a.get_or<std::string>("layout", "") != "channels_last" || role == "filter" || n.out().dtype != DType::f32 ||
        p.size() != 4 || !q[0].is(3) || !q[1].is(3) || groups.size() != 1 || !groups[0].is(1) ||
        !all(a.get_or<std::vector<std::int64_t>>("strides", {})) ||
        !all(a.get_or<std::vector<std::int64_t>>("dilations", {})))
      return std::nullopt;
    for (const Dim& d : {p[1], p[2], p[3], y[1], y[2], y[3], low[0], low[1]})
      if (!d.is_const()) return std::nullopt;
    for (const Dim& d : {p[1], p[2], p[3], y[1], y[2], y[3]})
      if (d.value() == 0) return std::nullopt;
    Candidate c{{2, p[0], p[1], p[2], p[3], y[1], y[2], y[3], low}, role == "input"};
    if (c.turned) c.desc.low = {Dim(2) - low[0], Dim(2) - low[1]};
    return c;
  }

  /// The result in the new graph, if Winograd is faster.
  ValueId choose(NodeId id, const ValueMap& map) {
    auto found = candidate(id);
    if (!found) return {};
    WinogradDesc d = found->desc;
    const double direct = direct_cycles(d, DType::f32, context_.target);
    double best = direct * margin;
    std::string note = fmt::format("conv %{}: direct {:.0f} us", g_.node(id).result().index, direct / cycles_per_us);
    const bool constant = constant_cone(map[g_.node(id).operands[1].index]).has_value();
    std::int64_t tile = 0;
    for (std::int64_t t : {2, 4}) {
      if (t > context_.winograd_tile) continue;
      d.tile = t;
      double c = winograd_blocking(d, DType::f32, context_.target).cycles;
      if (!constant) c += transform_cycles(d);
      note += fmt::format(", F({}x{}) {:.0f} us", t, t, c / cycles_per_us);
      if (c < best) best = c, tile = t;
    }
    context_.fusion_notes.push_back(note + (tile ? fmt::format(": F({}x{})", tile, tile) : ": direct"));
    if (!tile) return {};
    const Node& n = g_.node(id);
    b_.set_origin(n.locs, n.grad_of ? map[n.grad_of.index] : ValueId{});
    ValueId u = filters(map[n.operands[1].index], found->turned, tile);
    return b_.add_op(
        "winograd", {map[n.operands[0].index], u},
        {{"tile", tile}, {"size", Dims{d.out_height, d.out_width}}, {"low", d.low}, {"filters", Dims{d.filters}}});
  }

  /// Filters transformed: at compile time if they are constants.
  ValueId filters(ValueId w, bool turned, std::int64_t tile) {
    auto [at, fresh] = transformed_.try_emplace({w, turned ? -tile : tile}, ValueId{});
    if (!fresh) return at->second;
    auto transform = [&](GraphBuilder& b, ValueId v) {
      if (turned) v = b.transpose(b.add_op("rev", {v}, {{"axes", std::vector<std::int64_t>{0, 1}}}), {0, 1, 3, 2});
      return b.add_op("winograd_filter", {v}, {{"tile", tile}});
    };
    auto value = moved_constant(w, turned, tile);
    if (!value) value = constant(w, transform);
    if (value) return at->second = b_.constant(make_literal(*value));
    return at->second = transform(b_, w);
  }

  bool may_keep(const Dims& shape) {
    auto size = static_shape(shape);
    if (!size) return false;
    constant_bytes_ += Array::byte_size(DType::f32, *size).value_or(max_constant_bytes) * 4;
    return constant_bytes_ <= max_constant_bytes;
  }

  /// Transformed filters that are a constant seen through transposes: read where they lie, on all cores.
  std::optional<Array> moved_constant(ValueId w, bool turned, std::int64_t tile) {
    std::vector<std::size_t> axis{0, 1, 2, 3};  // of the constant, by axis of w
    ValueId v = w;
    for (; out_.def(v).op->name == "transpose"; v = out_.def(v).operands[0]) {
      const auto perm = out_.def(v).attrs.get_or<std::vector<std::int64_t>>("perm", {});
      for (std::size_t& a : axis) a = static_cast<std::size_t>(perm[a]);
    }
    const Node& n = out_.def(v);
    const LiteralPtr* literal = n.attrs.get<LiteralPtr>("value");
    if (!literal || (*literal)->form != Literal::Form::dense || n.attrs.get_or<bool>("trainable", false) ||
        !may_keep(out_.type(w).shape))
      return std::nullopt;
    const Array from = (*literal)->materialize();
    FilterView view;
    for (std::size_t d = 0; d < 4; ++d) {
      view.strides[d] = 1;
      for (std::size_t a = axis[d] + 1; a < 4; ++a) view.strides[d] *= from.shape()[a];
    }
    if (turned) {
      view.offset = 2 * (view.strides[0] + view.strides[1]);
      view.strides = {-view.strides[0], -view.strides[1], view.strides[3], view.strides[2]};
      std::swap(axis[2], axis[3]);
    }
    view.channels = from.shape()[axis[2]], view.filters = from.shape()[axis[3]];
    const std::int64_t points = tile + 2, panels = (view.filters + winograd_panel - 1) / winograd_panel;
    Array u(from.dtype(), {panels, points * points, view.channels, winograd_panel});
    u.mutable_bytes();
    const std::int64_t parts = std::clamp<std::int64_t>(context_.target.threads, 1, panels);
    std::vector<std::jthread> others;
    auto part = [&](std::int64_t i) {
      transform_filters(from, view, tile, panels * i / parts, panels * (i + 1) / parts, u);
    };
    for (std::int64_t i = 1; i < parts; ++i) {
      try {
        others.emplace_back(part, i);
      } catch (const std::system_error&) {  // no more threads for this process
        part(i);
      }
    }
    part(0);
    others.clear();  // joins
    return u;
  }

  /// The nodes that w is computed by, in topological order, if they are constants and few ops.
  std::optional<std::set<NodeId>> constant_cone(ValueId w) const {
    std::set<NodeId> cone;
    std::vector<ValueId> work{w};
    while (!work.empty()) {
      NodeId id = out_.value(work.back()).node;
      work.pop_back();
      const Node& n = out_.node(id);
      const LiteralPtr* literal = n.attrs.get<LiteralPtr>("value");
      if (!n.regions.empty() || n.attrs.get_or<bool>("trainable", false) || (n.operands.empty() && !literal))
        return std::nullopt;
      if (!cone.insert(id).second) continue;
      if (cone.size() > max_cone) return std::nullopt;
      for (ValueId v : n.operands)
        if (v) work.push_back(v);
    }
    return cone;
  }

  /// f(w) if w depends on constants only.
  std::optional<Array> constant(ValueId w, const std::function<ValueId(GraphBuilder&, ValueId)>& f) {
    const auto cone = constant_cone(w);
    if (!cone) return std::nullopt;
    if (!may_keep(out_.type(w).shape)) return std::nullopt;
    Graph sub;
    GraphBuilder b(sub);
    std::map<ValueId, ValueId> copied;
    for (NodeId id : *cone) {
      NodeId copy = b.copy(out_, id, [&](ValueId v) { return copied[v]; });
      for (std::uint32_t r = 0; r < out_.node(id).result_count; ++r)
        copied[out_.node(id).result(r)] = sub.node(copy).result(r);
    }
    sub.outputs.push_back({"u", f(b, copied[w]), {}});
    auto values = interpret(sub, {});
    return values ? std::optional(std::move((*values)[0])) : std::nullopt;
  }
};

Result<Graph> run(const Graph& g, PassContext& context) {
  if (context.target.kind != TargetSpec::Kind::cpu || !context.fuse) return copy_if(g, [](NodeId) { return true; });
  return Chooser(g, context).run();
}

}  // namespace

const Pass winograd = {
    .name = "winograd", .summary = "3 x 3 convolutions in fewer multiplications where that is faster", .on_graph = run};

}  // namespace ag::passes
