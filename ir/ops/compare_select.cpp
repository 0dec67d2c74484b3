// Comparisons (results are bool, no gradient) and select. Comparisons with a NaN are false, `ne` is true.
#include <functional>

#include "ir/dtype_sets.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

Types infer_select(const InferCtx& c) {
  AG_TRY(Dims shape, broadcast_operands(c));
  return std::vector<Type>{{c.in(1).dtype, std::move(shape)}};
}

/// The cotangent goes where the value came from.
ValueId select_transpose(Builder& b, const View& n, std::size_t i, ValueId ct) {
  ValueId zero = b.scalar(b.type(ct).dtype, 0);
  return i == 1 ? b.select(n.operand(0), ct, zero) : b.select(n.operand(0), zero, ct);
}

std::optional<Dims> select_known(const View& n) {
  auto c = known_constants(n, 0);
  auto a = known(n, 1), b = known(n, 2);
  if (!c || !a || !b || c->size() != a->size() || a->size() != b->size()) return std::nullopt;
  for (std::size_t i = 0; i < c->size(); ++i)
    if (!(*c)[i]) (*a)[i] = (*b)[i];
  return a;
}

/// Comparisons of known sizes: a constant answer only where both sides are constants or the forms agree.
template <auto holds>
std::optional<Dims> compare_known(const View& n) {
  return zip_known(n, [](const Dim& a, const Dim& b) -> std::optional<Dim> {
    if (a.is_const() && b.is_const()) return Dim(holds(a.value(), b.value()) ? 1 : 0);
    if (a == b) return Dim(holds(0, 0) ? 1 : 0);
    return std::nullopt;
  });
}

OpInfo select_op() {
  OpInfo o{.name = "select",
           .onnx = "Where",
           .lower_class = LowerClass::map,
           .summary = "a where the condition holds, else b; bits are picked, so a NaN not taken does not leak"};
  o.operands = {{.name = "condition", .type_var = "B", .dtypes = bools}, {.name = "a"}, {.name = "b"}};
  o.infer = infer_select;
  o.known_ints = select_known;
  o.linearity = Linearity::joint;
  o.linear_in = 0b110;
  o.transpose = select_transpose;
  o.guards_lanes = true;
  o.scalar = as<L::select>;
  o.samples = [] {
    return std::vector<OpSample>{sample({"bool[2,3]", "f64[2,3]", "f64[2,3]"}),
                                 sample({"bool[3]", "f64[2,1]", "f64[]"}), sample({"bool[2,1]", "i32[3]", "i32[2,3]"}),
                                 sample({"bool[]", "f32[0,2]", "f32[2]"})};
  };
  return o;
}

}  // namespace

std::vector<OpInfo> compare_select_ops() {
  return {
      comparison({.name = "eq",
                  .onnx = "Equal",
                  .since = 7,
                  .summary = "a == b",
                  .known_ints = compare_known<std::equal_to<>{}>,
                  .scalar = as<L::cmp_eq>},
                 computed),
      comparison({.name = "ne",
                  .summary = "a != b",
                  .known_ints = compare_known<std::not_equal_to<>{}>,
                  .scalar = as<L::cmp_ne>},
                 computed),
      comparison({.name = "lt",
                  .onnx = "Less",
                  .since = 7,
                  .summary = "a < b",
                  .known_ints = compare_known<std::less<>{}>,
                  .scalar = as<L::cmp_lt>},
                 numeric),
      comparison({.name = "le",
                  .onnx = "LessOrEqual",
                  .summary = "a <= b",
                  .known_ints = compare_known<std::less_equal<>{}>,
                  .scalar = as<L::cmp_le>},
                 numeric),
      comparison({.name = "gt",
                  .onnx = "Greater",
                  .since = 7,
                  .summary = "a > b",
                  .known_ints = compare_known<std::greater<>{}>,
                  .scalar = as<L::cmp_gt>},
                 numeric),
      comparison({.name = "ge",
                  .onnx = "GreaterOrEqual",
                  .summary = "a >= b",
                  .known_ints = compare_known<std::greater_equal<>{}>,
                  .scalar = as<L::cmp_ge>},
                 numeric),
      select_op(),
  };
}

}  // namespace ag
