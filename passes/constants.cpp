#include "passes/constants.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <system_error>
#include <thread>

#include <fmt/format.h>

#include "ir/op.hpp"
#include "ir/ops/winograd.hpp"
#include "passes/pass.hpp"
#include "passes/rebuild.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using Ints = std::vector<std::int64_t>;

/// Elements from which work on a constant is shared among threads.
constexpr Int parallel_elements = 1 << 20;
/// Bytes from which a constant has a recipe; smaller ones are kept as they are.
constexpr std::size_t recipe_bytes = 4096;

/// f(first, last) for parts of [0, n), on some threads.
template <class F>
void in_parts(Int n, int threads, F f) {
  const Int parts = std::clamp<Int>(threads, 1, std::max<Int>(n, 1));
  std::vector<std::jthread> others;
  for (Int i = 1; i < parts; ++i) {
    try {
      others.emplace_back([=] { f(n * i / parts, n * (i + 1) / parts); });
    } catch (const std::system_error&) {  // no more threads
      f(n * i / parts, n * (i + 1) / parts);
    }
  }
  f(Int{0}, n / parts);
}

// -- panels ------------------------------------------------------------------------------------------------------

/// Offsets of all positions over some axes, the last fastest.
Ints offsets(const PanelLayout& v, const Ints& axes) {
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

Array panels_of(const Array& from, const PanelLayout& v, Ints shape, int threads) {
  Array to(from.dtype(), std::move(shape));
  const auto column = static_cast<std::size_t>(v.column);
  const PanelSource source{offsets(v, v.outer), offsets(v, v.contract), v.shape[column], v.strides[column], v.width};
  const Int panels = static_cast<Int>(source.outer.size()) * source.panels();
  auto copy = [&]<class T>(T) {
    T* out = reinterpret_cast<T*>(to.mutable_bytes().data());
    const T* in = reinterpret_cast<const T*>(from.bytes().data());
    in_parts(panels, to.elems() < parallel_elements ? 1 : threads,
             [&source, in, out](Int lo, Int hi) { copy_panels(in, out, source, lo, hi); });
  };
  switch (dtype_bytes(from.dtype())) {
    case 1: copy(std::uint8_t{}); break;
    case 2: copy(std::uint16_t{}); break;
    case 4: copy(std::uint32_t{}); break;
    default: copy(std::uint64_t{}); break;
  }
  return to;
}

// -- factors -----------------------------------------------------------------------------------------------------

/// Axes of a constant, and how far the factor moves along each: those of one element dropped, neighbours along which it
/// stays merged.
struct FactorAxes {
  Ints extent, step;
};

FactorAxes factor_axes(const Ints& shape, const Ints& factors) {
  FactorAxes out;
  Int step = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    const Int s = factors[d] == 1 ? 0 : step;
    step *= factors[d];
    if (shape[d] == 1) continue;
    if (s == 0 && !out.step.empty() && out.step[0] == 0) {
      out.extent[0] *= shape[d];
      continue;
    }
    out.extent.insert(out.extent.begin(), shape[d]);
    out.step.insert(out.step.begin(), s);
  }
  if (out.extent.empty()) out.extent = {1}, out.step = {0};
  return out;
}

/// Rows [lo, hi) along the last axis; false if a finite element became none.
template <class T>
bool scale_rows(const T* from, T* to, const double* factors, const FactorAxes& axes, Int lo, Int hi) {
  const Int n = axes.extent.back(), step = axes.step.back();
  bool finite = true;
  for (Int row = lo; row < hi; ++row) {
    const double* f = factors;
    Int rest = row;
    for (std::size_t d = axes.extent.size() - 1; d-- > 0; rest /= axes.extent[d])
      f += rest % axes.extent[d] * axes.step[d];
    const T* x = from + row * n;
    T* y = to + row * n;
    for (Int i = 0; i < n; ++i) {
      y[i] = static_cast<T>(static_cast<double>(x[i]) * f[i * step]);
      finite = finite && (std::isfinite(y[i]) || !std::isfinite(x[i]));
    }
  }
  return finite;
}

/// Nullopt if a finite element became none.
std::optional<Array> scaled(const Array& from, const Array& factors, int threads) {
  Array to(from.dtype(), from.shape());
  const FactorAxes axes = factor_axes(from.shape(), factors.shape());
  const auto* f = reinterpret_cast<const double*>(factors.bytes().data());
  std::atomic<bool> finite = true;
  auto scale = [&]<class T>(T) {
    const T* in = reinterpret_cast<const T*>(from.bytes().data());
    T* out = reinterpret_cast<T*>(to.mutable_bytes().data());
    in_parts(from.elems() / axes.extent.back(), from.elems() < parallel_elements ? 1 : threads,
             [&axes, &finite, in, out, f](Int lo, Int hi) {
               if (!scale_rows(in, out, f, axes, lo, hi)) finite = false;
             });
  };
  if (from.elems() > 0) from.dtype() == DType::f32 ? scale(float{}) : scale(double{});
  return finite ? std::optional(std::move(to)) : std::nullopt;
}

// -- graphs ------------------------------------------------------------------------------------------------------

/// Filters that a graph transforms after turning their axes: read where they lie, on all threads.
std::optional<Array> transformed_filters(const Graph& g, std::span<const Array> operands, int threads) {
  const Node& last = g.def(g.outputs[0].value);
  if (last.op->name != "winograd_filter" || operands.size() != 1) return std::nullopt;
  std::vector<const Node*> moves;  // from the transform back to the input
  ValueId v = last.operands[0];
  for (; v != g.inputs[0]; v = g.def(v).operands[0]) {
    if (g.def(v).op->name != "transpose" && g.def(v).op->name != "rev") return std::nullopt;
    moves.push_back(&g.def(v));
  }
  const Array& from = operands[0];
  if (from.shape().size() != 4 || (from.dtype() != DType::f32 && from.dtype() != DType::f64)) return std::nullopt;
  FilterView view;
  Ints shape = from.shape(), strides(4, 1);
  for (std::size_t d = 3; d-- > 0;) strides[d] = strides[d + 1] * shape[d + 1];
  for (std::size_t i = moves.size(); i-- > 0;) {
    const Attrs& a = moves[i]->attrs;
    if (moves[i]->op->name == "rev") {
      for (Int axis : a.get_or<Ints>("axes", {})) {
        const auto d = static_cast<std::size_t>(axis);
        view.offset += strides[d] * (shape[d] - 1);
        strides[d] = -strides[d];
      }
      continue;
    }
    Ints to_shape, to_strides;
    for (Int axis : a.get_or<Ints>("perm", {})) {
      to_shape.push_back(shape[static_cast<std::size_t>(axis)]);
      to_strides.push_back(strides[static_cast<std::size_t>(axis)]);
    }
    shape = std::move(to_shape), strides = std::move(to_strides);
  }
  std::copy(strides.begin(), strides.end(), view.strides.begin());
  view.channels = shape[2], view.filters = shape[3];
  auto result = static_shape(g.type(last.result()).shape);
  if (!result) return std::nullopt;
  const Int tile = last.attrs.get_or<Int>("tile", 2);
  Array u(from.dtype(), *result);
  u.mutable_bytes();
  in_parts((*result)[0], threads, [&](Int lo, Int hi) { transform_filters(from, view, tile, lo, hi, u); });
  return u;
}

class Timer {
 public:
  explicit Timer(double& ms) : ms_(ms) {}
  ~Timer() { ms_ += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& ms_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

bool is_large(const Literal& l) {
  return l.form != Literal::Form::splat && Array::byte_size(l.dtype, l.shape).value_or(0) >= recipe_bytes;
}

/// The graph of output `o` with its large constants as inputs.
Graph opened(const Graph& given, std::size_t o, std::vector<LiteralPtr>& operands) {
  Graph out;
  GraphBuilder b(out);
  std::vector<ValueId> map(given.value_count());
  for (NodeId id : given.node_ids()) {
    const Node& n = given.node(id);
    const LiteralPtr* l = n.attrs.get<LiteralPtr>("value");
    if (l && n.operands.empty() && n.op->name == "constant" && is_large(**l)) {
      map[n.result().index] = b.input("i" + std::to_string(operands.size()), given.type(n.result()));
      operands.push_back(*l);
      continue;
    }
    NodeId copy = b.copy(given, id, [&](ValueId v) { return map[v.index]; });
    Node& made = out.node(copy);
    made.locs.clear(), made.name.clear(), made.grad_of = {};
    for (std::uint32_t r = 0; r < n.result_count; ++r) map[n.result(r).index] = made.result(r);
  }
  out.outputs.push_back({"value", map[given.outputs[o].value.index], {}});
  return out;
}

}  // namespace

std::optional<Ints> PanelLayout::result_shape(Int elements) const {
  const std::size_t rank = shape.size();
  std::vector<int> used(rank);
  auto uses = [&](Int axis) {
    return axis >= 0 && axis < static_cast<Int>(rank) && used[static_cast<std::size_t>(axis)]++ == 0;
  };
  bool fits = strides.size() == rank && width > 0 && uses(column);
  for (Int a : outer) fits = fits && uses(a);
  for (Int a : contract) fits = fits && uses(a);
  if (!fits || outer.size() + contract.size() + 1 != rank) return std::nullopt;
  Int last = 0;
  for (std::size_t d = 0; d < rank; ++d) {
    if (shape[d] < 1 || strides[d] < 0) return std::nullopt;
    auto step = checked_mul(shape[d] - 1, strides[d]);
    auto sum = step ? checked_add(last, *step) : std::nullopt;
    if (!sum) return std::nullopt;
    last = *sum;
  }
  if (last >= elements) return std::nullopt;
  auto at = [&](Int axis) { return shape[static_cast<std::size_t>(axis)]; };
  Ints out;
  for (Int a : outer) out.push_back(at(a));
  out.push_back((at(column) - 1) / width + 1);
  for (Int a : contract) out.push_back(at(a));
  out.push_back(width);
  return out;
}

std::optional<Type> recipe_type(const Recipe& recipe, const std::vector<Type>& operands) {
  if (recipe.operands.size() != operands.size()) return std::nullopt;
  for (const Type& t : operands)
    if (!t.is_static()) return std::nullopt;
  if (recipe.panels) {
    if (operands.size() != 1) return std::nullopt;
    auto elements = Array::byte_size(DType::u8, *static_shape(operands[0].shape));
    auto shape = elements ? recipe.panels->result_shape(static_cast<Int>(*elements)) : std::nullopt;
    if (!shape || !Array::byte_size(operands[0].dtype, *shape)) return std::nullopt;
    return Type{operands[0].dtype, Dims(shape->begin(), shape->end())};
  }
  if (recipe.factors) {
    const Ints& shape = recipe.factors->shape();
    if (operands.size() != 1 || recipe.factors->dtype() != DType::f64 || operands[0].shape.size() != shape.size() ||
        (operands[0].dtype != DType::f32 && operands[0].dtype != DType::f64))
      return std::nullopt;
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (shape[d] != 1 && !operands[0].shape[d].is(shape[d])) return std::nullopt;
    return operands[0];
  }
  const Graph* g = recipe.graph.get();
  if (!g || g->inputs.size() != operands.size() || g->outputs.size() != 1) return std::nullopt;
  for (std::size_t i = 0; i < operands.size(); ++i)
    if (g->type(g->inputs[i]) != operands[i]) return std::nullopt;
  const Type& out = g->type(g->outputs[0].value);
  return out.is_static() ? std::optional(out) : std::nullopt;
}

Result<Array> evaluate(const Recipe& recipe, std::span<const Array> operands, int threads) {
  std::vector<Type> types;
  for (const Array& a : operands) types.push_back({a.dtype(), Dims(a.shape().begin(), a.shape().end())});
  auto type = recipe_type(recipe, types);
  if (!type) return fail(Code::AG9001, {}, "the recipe of a constant does not fit its operands");
  if (recipe.panels) return panels_of(operands[0], *recipe.panels, *static_shape(type->shape), threads);
  if (recipe.factors) {
    auto value = scaled(operands[0], *recipe.factors, threads);
    if (!value) return fail(Code::AG9001, {}, "a factor takes an element of a constant beyond its type");
    return std::move(*value);
  }
  if (auto u = transformed_filters(*recipe.graph, operands, threads)) return std::move(*u);
  AG_TRY(std::vector<Array> values, interpret(*recipe.graph, operands));
  return std::move(values[0]);
}

void ConstantRecipes::note(const LiteralPtr& made, RecipePtr recipe) {
  made_[made.get()] = Made{made, std::move(recipe)};
}

RecipePtr ConstantRecipes::find(const LiteralPtr& literal) const {
  auto at = made_.find(literal.get());
  return at != made_.end() && at->second.literal.lock() == literal ? at->second.recipe : nullptr;
}

LiteralPtr ConstantRecipes::at(const void* data) const {
  auto found = placed_.find(data);
  return found == placed_.end() ? nullptr : found->second;
}

namespace {

/// Evaluates and notes. The operands are constants of the graph being compiled or made before.
Result<LiteralPtr> make(Recipe recipe, const std::vector<LiteralPtr>& operands, PassContext& context) {
  Timer timer(context.constants_ms);
  std::vector<Array> values;
  for (const LiteralPtr& l : operands) {
    values.push_back(l->materialize());
    recipe.operands.push_back({l, context.recipes ? context.recipes->find(l) : nullptr});
  }
  AG_TRY(Array value, evaluate(recipe, values, std::max(context.target.threads, 1)));
  LiteralPtr made = make_literal(std::move(value));
  if (context.recipes && is_large(*made))
    context.recipes->note(made, std::make_shared<const Recipe>(std::move(recipe)));
  return made;
}

}  // namespace

std::optional<std::vector<LiteralPtr>> evaluate_constants(const Graph& graph, PassContext& context) {
  std::vector<LiteralPtr> out;
  for (std::size_t o = 0; o < graph.outputs.size(); ++o) {
    std::vector<LiteralPtr> operands;
    Recipe recipe;
    recipe.graph = std::make_shared<const Graph>(opened(graph, o, operands));
    auto made = make(std::move(recipe), operands, context);
    if (!made) return std::nullopt;
    out.push_back(std::move(*made));
  }
  return out;
}

LiteralPtr make_panels(const LiteralPtr& from, const PanelLayout& layout, PassContext& context) {
  Recipe recipe;
  recipe.panels = layout;
  auto made = make(std::move(recipe), {from}, context);
  AG_CHECK(made.has_value(), "panels of a constant");
  return std::move(*made);
}

LiteralPtr make_scaled(const LiteralPtr& from, Array factors, PassContext& context) {
  Recipe recipe;
  recipe.factors = std::move(factors);
  auto made = make(std::move(recipe), {from}, context);
  return made ? std::move(*made) : nullptr;
}

}  // namespace ag::passes
