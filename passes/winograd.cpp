// Chooses Winograd's minimal filtering for 3 x 3 convolutions of stride 1 where it is faster than a direct one. An
// `algorithm` rewrite: F(2x2) is as accurate as a direct sum; F(4x4) is less so and must be asked for.
#include "passes/winograd.hpp"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "ir/op.hpp"
#include "passes/constants.hpp"
#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

/// Winograd must win clearly: the model is not the machine.
constexpr double margin = 0.92;
/// For messages: of the machine that the figures were measured on.
constexpr double cycles_per_us = 3680;

/// Bytes of constants that may be transformed while compiling.
constexpr std::size_t max_constant_bytes = 1u << 30;
constexpr std::size_t max_cone = 64;

/// A convolution that the ops can compute: of x [N,H,W,C] with filters [3,3,C,M], which are turned round and exchange
/// their channels if it is an input gradient; or their gradient.
struct Candidate {
  WinogradDesc desc;
  enum class Role : std::uint8_t { output, input, filter } role;
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
        copy_node(b_, g_, id, map);
      } else {
        bind(g_, n.result(), out_, replaced, map);
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

  /// The convolution's numbers, if its window and layout fit and its sizes are known.
  std::optional<Candidate> candidate(NodeId id) const {
    const NodeView n{g_, id};
    const Attrs& a = n.attrs();
    auto all = [](const std::vector<std::int64_t>& v) {
      return v.size() == 2 && std::all_of(v.begin(), v.end(), [](std::int64_t s) { return s == 1; });
    };
    const std::string role = a.get_or<std::string>("role", "output");
    const Dims groups = a.get_or<Dims>("groups", {}), low = a.get_or<Dims>("low", {});
    const Dims &p = n.in(0).shape, &q = n.in(1).shape;
    if (a.get_or<std::string>("layout", "") != "channels_last" || n.out().dtype != DType::f32 || p.size() != 4 ||
        groups.size() != 1 || !groups[0].is(1) || !all(a.get_or<std::vector<std::int64_t>>("strides", {})) ||
        !all(a.get_or<std::vector<std::int64_t>>("dilations", {})))
      return std::nullopt;
    using Role = Candidate::Role;
    Candidate c{{}, role == "filter" ? Role::filter : role == "input" ? Role::input : Role::output};
    const Dims &taps = c.role == Role::filter ? n.out().shape : q, &y = c.role == Role::filter ? q : n.out().shape;
    if (!taps[0].is(3) || !taps[1].is(3)) return std::nullopt;
    for (const Dim& d : {p[1], p[2], p[3], y[1], y[2], y[3], low[0], low[1]})
      if (!d.is_const()) return std::nullopt;
    for (const Dim& d : {p[1], p[2], p[3], y[1], y[2], y[3]})
      if (d.value() == 0) return std::nullopt;
    c.desc = {2, p[0], p[1], p[2], p[3], y[1], y[2], y[3], low};
    if (c.role == Role::input) c.desc.low = {Dim(2) - low[0], Dim(2) - low[1]};
    return c;
  }

  /// The result in the new graph, if Winograd is faster.
  ValueId choose(NodeId id, const ValueMap& map) {
    auto found = candidate(id);
    if (!found) return {};
    WinogradDesc d = found->desc;
    const bool gradient = found->role == Candidate::Role::filter;
    const double direct = direct_cycles(d, DType::f32, context_.target);
    double best = direct * margin;
    std::string note = fmt::format("conv %{}: direct {:.0f} us", g_.node(id).result().index, direct / cycles_per_us);
    const bool constant = !gradient && constant_cone(map[g_.node(id).operands[1].index]).has_value();
    Choice choice;
    for (std::int64_t t : {2, 4}) {
      if (t > context_.winograd_tile) continue;
      d.tile = t;
      const Choice c = gradient ? gradient_choice(d) : product_choice(d, found->role, constant);
      note += fmt::format(", F({}x{}) {:.0f} us", t, t, c.cycles / cycles_per_us);
      if (c.cycles < best) best = c.cycles, choice = c;
    }
    const std::int64_t tile = choice.tile;
    context_.fusion_notes.push_back(note + (tile ? fmt::format(": F({}x{})", tile, tile) : ": direct"));
    if (!tile) return {};
    const Node& n = g_.node(id);
    b_.set_origin(n.locs, n.grad_of ? map[n.grad_of.index] : ValueId{});
    const ValueId x = map[n.operands[0].index], w = map[n.operands[1].index];
    if (gradient) {
      const std::int64_t parts = winograd_gradient_parts(d);
      ValueId sums = b_.add_op("winograd_gradient", {x, w}, {{"tile", tile}, {"low", d.low}, {"parts", parts}});
      return parts > 1 ? b_.reduce("reduce_sum", sums, {0}) : b_.reshape(sums, g_.type(n.result()).shape);
    }
    const bool transformed = choice.form == WinogradFilters::transformed;
    return b_.add_op("winograd", {x, transformed ? filters(w, found->role == Candidate::Role::input, tile) : w},
                     {{"tile", tile},
                      {"size", Dims{d.out_height, d.out_width}},
                      {"low", d.low},
                      {"filters", Dims{d.filters}},
                      {"taps", std::string(winograd_filters_name(choice.form))}});
  }

  /// How a convolution is computed; tile 0: as a direct sum.
  struct Choice {
    std::int64_t tile = 0;
    WinogradFilters form = WinogradFilters::transformed;
    double cycles = 0;
  };
  Choice gradient_choice(const WinogradDesc& d) const {
    return {d.tile, {}, winograd_gradient_blocking(d, winograd_gradient_parts(d), DType::f32, context_.target).cycles};
  }
  /// Filters that are no constants are transformed in a kernel of their own, or by each task for itself.
  Choice product_choice(const WinogradDesc& d, Candidate::Role role, bool constant) const {
    const TargetSpec& target = context_.target;
    const bool turned = role == Candidate::Role::input;
    Choice c{d.tile, WinogradFilters::transformed,
             winograd_blocking(d, WinogradFilters::transformed, DType::f32, target).cycles};
    if (constant) return c;
    c.cycles += transform_cycles(d, turned, DType::f32, target);
    const WinogradFilters form = turned ? WinogradFilters::turned : WinogradFilters::plain;
    const double inside = winograd_blocking(d, form, DType::f32, target).cycles;
    return inside < c.cycles ? Choice{d.tile, form, inside} : c;
  }

  /// Filters transformed: at compile time if they are constants.
  ValueId filters(ValueId w, bool turned, std::int64_t tile) {
    auto [at, fresh] = transformed_.try_emplace({w, turned ? -tile : tile}, ValueId{});
    if (!fresh) return at->second;
    auto transform = [&](GraphBuilder& b, ValueId v) {
      const auto form = turned ? WinogradFilters::turned : WinogradFilters::plain;
      return b.add_op("winograd_filter", {v}, {{"tile", tile}, {"taps", std::string(winograd_filters_name(form))}});
    };
    if (LiteralPtr value = constant(w, transform)) return at->second = b_.constant(std::move(value));
    return at->second = transform(b_, w);
  }

  bool may_keep(const Dims& shape) {
    auto size = static_shape(shape);
    if (!size) return false;
    constant_bytes_ += Array::byte_size(DType::f32, *size).value_or(max_constant_bytes) * 4;
    return constant_bytes_ <= max_constant_bytes;
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
  LiteralPtr constant(ValueId w, const std::function<ValueId(GraphBuilder&, ValueId)>& f) {
    const auto cone = constant_cone(w);
    if (!cone || !may_keep(out_.type(w).shape)) return nullptr;
    Graph sub;
    GraphBuilder b(sub);
    std::map<ValueId, ValueId> copied;
    for (NodeId id : *cone) {
      NodeId copy = b.copy(out_, id, [&](ValueId v) { return copied[v]; });
      for (std::uint32_t r = 0; r < out_.node(id).result_count; ++r)
        copied[out_.node(id).result(r)] = sub.node(copy).result(r);
    }
    sub.outputs.push_back({"u", f(b, copied[w]), {}});
    auto values = evaluate_constants(sub, context_);
    return values ? (*values)[0] : nullptr;
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
