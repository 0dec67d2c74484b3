// Which derivatives are finite: 1/sqrt(mean of squares + 1e-5) is, for all that is finite.
#include <algorithm>
#include <cmath>

#include "ir/op.hpp"
#include "passes/autodiff_internal.hpp"

namespace ag::passes::ad {
namespace {

constexpr int max_visits = 200;  // of nodes, for one question

/// A number that no element of `v` is below, for finite operands; nothing if none is known.
std::optional<double> lower_bound(const Graph& g, ValueId v, int& visits) {
  if (--visits < 0) return std::nullopt;
  const Node& n = g.def(v);
  const std::string_view op = n.op->name;
  auto of = [&](std::size_t i) { return lower_bound(g, n.operands[i], visits); };
  auto both = [&](auto combine) -> std::optional<double> {
    const auto a = of(0), b = of(1);
    return a && b ? std::optional(combine(*a, *b)) : std::nullopt;
  };
  if (const LiteralPtr* l = n.attrs.get<LiteralPtr>("value")) {
    const Literal& literal = **l;
    if (literal.form == Literal::Form::random || literal.form == Literal::Form::file) return std::nullopt;
    auto bytes = Array::byte_size(literal.dtype, literal.shape);
    const Array values = literal.form == Literal::Form::dense && bytes && *bytes <= 4096 ? literal.array : Array();
    if (literal.form == Literal::Form::splat) {
      Array one(literal.dtype, {});
      std::copy_n(reinterpret_cast<const std::byte*>(&literal.bits), one.bytes_size(), one.mutable_bytes().data());
      const double x = one.get_double(0);
      return std::isfinite(x) ? std::optional(x) : std::nullopt;
    }
    if (values.elems() == 0) return std::nullopt;
    double least = values.get_double(0);
    for (std::int64_t i = 0; i < values.elems(); ++i) {
      if (!std::isfinite(values.get_double(i))) return std::nullopt;
      least = std::min(least, values.get_double(i));
    }
    return least;
  }
  if (op == "square" || op == "abs" || op == "exp" || op == "sqrt" || op == "rsqrt" || op == "sigmoid") return 0.0;
  if (op == "mul" && n.operands[0] == n.operands[1]) return 0.0;
  if (op == "add") return both([](double a, double b) { return a + b; });
  if (op == "mul" || op == "div") {
    const auto product = both([](double a, double b) { return a >= 0 && b >= 0 ? 0.0 : -1.0; });
    return product && *product == 0 ? product : std::nullopt;
  }
  if (op == "max") {
    const auto a = of(0), b = of(1);
    return a && b ? std::max(*a, *b) : a ? a : b;
  }
  if (op == "reduce_sum" || op == "sum_to_shape") {
    const auto a = of(0);
    return a && *a >= 0 ? std::optional(0.0) : std::nullopt;
  }
  if (op == "reshape" || op == "broadcast_in_dim" || op == "transpose" || op == "reduce_max" || op == "reduce_min" ||
      (op == "convert" && is_float(g.type(n.operands[0]).dtype)))
    return of(0);
  return std::nullopt;
}

}  // namespace

bool unbounded_derivative(const Graph& g, NodeId id) {
  const Node& n = g.node(id);
  if (!n.op->unbounded_derivative) return false;
  const std::string_view op = n.op->name;
  std::size_t from = op == "div" ? 1 : 0;
  if (op != "div" && op != "rsqrt" && op != "sqrt" && op != "log") return true;
  // The steepest of them, x^-1.5, must be representable.
  const double least = g.type(n.operands[from]).dtype == DType::f16 ? 1e-3 : 1e-12;
  int visits = max_visits;
  const auto bound = lower_bound(g, n.operands[from], visits);
  return !bound || *bound < least;
}

}  // namespace ag::passes::ad
