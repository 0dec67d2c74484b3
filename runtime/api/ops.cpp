// Elementwise functions, reductions and products: types are settled as torch settles them, then a recipe is recorded.
#include <algorithm>
#include <cmath>

#include "frontend/trace/recipes.hpp"
#include "runtime/api/tensor_impl.hpp"

namespace ag::api {
namespace {

namespace r = rec::r;
using lazy::Arg;
using lazy::ir;
using lazy::Promotion;
using lazy::raise;
using lazy::value_of;
using lazy::ValueRef;
using rec::bits;
using rec::Recipe;

std::int64_t par(ag::DType t) { return static_cast<std::int64_t>(t); }
int rank_of(const Tensor& t, const Place& p) { return value_of(t, "an operation", p).type->type.rank(); }
ag::DType type_of(const Tensor& t, const Place& p) { return value_of(t, "an operation", p).dtype(); }
/// Functions of the reals take integers as f32.
ag::DType real_type(ag::DType t) { return is_float(t) ? t : ag::DType::f32; }

Place place_of(const Operand& a, const Operand& b) { return a.tensor() ? a.place() : b.place(); }

enum class Numbers : std::uint8_t { any, real, integers };

/// A function of two operands, at least one of them a tensor.
Tensor binary(const Recipe& recipe, const Operand& a, const Operand& b, Numbers numbers = Numbers::any,
              bool swap_number = false) {
  const Place place = place_of(a, b);
  Promotion meet;
  const Operand* both[] = {&a, &b};
  if (swap_number && !a.tensor() && b.tensor()) std::swap(both[0], both[1]);  // torch keeps the tensor in front
  for (const Operand* o : both) {
    if (!o->tensor()) {
      meet.scalar(o->scalar().kind());
      continue;
    }
    const auto& t = value_of(*o->tensor(), recipe.name, place).type->type;
    meet.tensor(t.dtype, t.rank() > 0);
  }
  ag::DType t = meet.result();
  if (numbers == Numbers::real) t = real_type(t);
  if (numbers == Numbers::integers && is_float(t))
    raise(Code::AG2101, "\"" + std::string(recipe.name) + "\" not implemented for '" + lazy::type_name(t) + "'", place);
  ValueRef numbers_made[2];
  Arg args[2];
  for (int i = 0; i < 2; ++i) {
    if (both[i]->tensor()) {
      args[i] = lazy::arg_of(*both[i]->tensor(), place);
    } else {
      const Scalar s = both[i]->scalar();
      numbers_made[i] = lazy::Value::scalar(t, s.real(), s.integer());
      args[i] = {nullptr, numbers_made[i].get()};
    }
  }
  const std::int64_t params[] = {par(t)};
  return lazy::apply(recipe, args, params, place);
}

Tensor unary(const Recipe& recipe, const Tensor& x, bool real, const Place& place) {
  const ag::DType t = type_of(x, place);
  return lazy::apply(recipe, {&x}, {par(real ? real_type(t) : t)}, place);
}

Tensor logical(const Tensor& x, const Place& place) {
  return type_of(x, place) == ag::DType::boolean ? x : x.to(boolean, place);
}

/// Parameters of a reduction: keepdim, axes.
Tensor reduce(const Recipe& recipe, const Tensor& x, std::vector<std::int64_t> lead, const IntList& axes,
              const Place& place) {
  lead.insert(lead.end(), axes.values().begin(), axes.values().end());
  const Arg a = lazy::arg_of(x, place);
  return lazy::apply(recipe, std::span(&a, 1), lead, place);
}
/// torch sums integers and bools as i64.
Tensor summable(const Tensor& x, const Place& place) {
  const ag::DType t = type_of(x, place);
  return is_float(t) || t == ag::DType::i64 ? x : x.to(i64, place);
}
Tensor need_float(const Tensor& x, std::string_view what, const Place& place) {
  if (!is_float(type_of(x, place)))
    raise(Code::AG2101,
          std::string(what) +
              "(): could not infer output dtype. Input dtype must be either a floating "
              "point or complex dtype. Got: " +
              lazy::type_name(type_of(x, place)),
          place);
  return x;
}

}  // namespace

Tensor add(Operand a, Operand b) { return binary(r::add, a, b, Numbers::any, true); }
/// With a number in front the tensor still is the first operand, as in torch.
Tensor sub(Operand a, Operand b) {
  static const Recipe rsub{"rsub", "RsubBackward1", [](rec::Emit& e, std::span<const ag::ValueId> in, rec::Params p) {
                             const ag::ValueId swapped[] = {in[1], in[0]};
                             return r::sub.build(e, std::span<const ag::ValueId>(swapped, 2), p);
                           }};
  if (!a.tensor() && b.tensor()) return binary(rsub, b, a);
  return binary(r::sub, a, b);
}
Tensor mul(Operand a, Operand b) { return binary(r::mul, a, b, Numbers::any, true); }
/// A number over a tensor is the number times its reciprocal, as in torch.
Tensor div(Operand a, Operand b) {
  if (!a.tensor() && b.tensor()) return mul(Operand(b.tensor()->reciprocal(b.place()), b.place()), a);
  return binary(r::div, a, b, Numbers::real);
}
Tensor remainder(Operand a, Operand b) { return binary(r::remainder, a, b); }
Tensor fmod(Operand a, Operand b) { return binary(r::fmod, a, b); }
Tensor floor_divide(Operand a, Operand b) { return binary(r::floor_div, a, b); }
Tensor maximum(Operand a, Operand b) { return binary(r::maximum, a, b); }
Tensor minimum(Operand a, Operand b) { return binary(r::minimum, a, b); }
Tensor atan2(Operand a, Operand b) { return binary(r::atan2, a, b, Numbers::real); }
Tensor eq(Operand a, Operand b) { return binary(r::eq, a, b); }
Tensor ne(Operand a, Operand b) { return binary(r::ne, a, b); }
Tensor lt(Operand a, Operand b) { return binary(r::lt, a, b); }
Tensor le(Operand a, Operand b) { return binary(r::le, a, b); }
Tensor gt(Operand a, Operand b) { return binary(r::gt, a, b); }
Tensor ge(Operand a, Operand b) { return binary(r::ge, a, b); }

/// Exponents that recur are part of the structure; others are operands, so that a changing one compiles nothing.
Tensor pow(Operand a, Operand b) {
  static const Recipe of_number{"pow", "PowBackward2", r::pow.build};
  if (!a.tensor() || b.tensor()) return binary(a.tensor() ? r::pow : of_number, a, b);
  const double n = b.scalar().real();
  static constexpr double known[] = {0, 1, 2, 3, 4, -1, -2, 0.5, -0.5};
  const ag::DType t = type_of(*a.tensor(), a.place());
  Promotion meet;
  meet.tensor(t, rank_of(*a.tensor(), a.place()) > 0);
  meet.scalar(b.scalar().kind());
  const ag::DType wide = meet.result();
  if (std::find(std::begin(known), std::end(known), n) != std::end(known) && (is_float(wide) || n >= 0)) {
    if (is_float(wide) || n <= 4) return lazy::apply(r::pow_const, {a.tensor()}, {bits(n), par(wide)}, a.place());
  }
  static const Recipe by_number{"pow", "PowBackward0", r::pow.build};
  return binary(by_number, a, b);
}

Tensor operator+(Operand a, Operand b) { return add(a, b); }
Tensor operator-(Operand a, Operand b) { return sub(a, b); }
Tensor operator*(Operand a, Operand b) { return mul(a, b); }
Tensor operator/(Operand a, Operand b) { return div(a, b); }
Tensor operator%(Operand a, Operand b) { return remainder(a, b); }
Tensor operator==(Operand a, Operand b) { return eq(a, b); }
Tensor operator!=(Operand a, Operand b) { return ne(a, b); }
Tensor operator<(Operand a, Operand b) { return lt(a, b); }
Tensor operator<=(Operand a, Operand b) { return le(a, b); }
Tensor operator>(Operand a, Operand b) { return gt(a, b); }
Tensor operator>=(Operand a, Operand b) { return ge(a, b); }

namespace {
Tensor bitwise(const Recipe& words, const Recipe& truths, const Operand& a, const Operand& b) {
  const Place place = place_of(a, b);
  if (a.tensor() && b.tensor() && type_of(*a.tensor(), place) == ag::DType::boolean &&
      type_of(*b.tensor(), place) == ag::DType::boolean)
    return lazy::apply(truths, {a.tensor(), b.tensor()}, {}, place);
  return binary(words, a, b, Numbers::integers);
}
}  // namespace
Tensor operator&(Operand a, Operand b) { return bitwise(r::bitwise_and, r::logical_and, a, b); }
Tensor operator|(Operand a, Operand b) { return bitwise(r::bitwise_or, r::logical_or, a, b); }
Tensor operator^(Operand a, Operand b) { return bitwise(r::bitwise_xor, r::logical_xor, a, b); }
Tensor operator-(Operand a) { return a.tensor()->neg(a.place()); }
Tensor operator!(const Tensor& a) { return a.logical_not({}); }
Tensor operator~(const Tensor& a) { return a.logical_not({}); }

// Functions of the reals take integers as f32; the others keep the type.
#define AG_REAL(name) \
  Tensor name(const Tensor& x, Place place) { return unary(r::name, x, true, place); } \
  Tensor Tensor::name(Place place) const { return unary(r::name, *this, true, place); }
#define AG_SAME(name) \
  Tensor name(const Tensor& x, Place place) { return unary(r::name, x, false, place); } \
  Tensor Tensor::name(Place place) const { return unary(r::name, *this, false, place); }
AG_SAME(neg)
AG_SAME(abs)
AG_SAME(sign)
AG_SAME(square)
AG_SAME(relu)
AG_REAL(reciprocal)
AG_REAL(sqrt)
AG_REAL(rsqrt) AG_REAL(exp) AG_REAL(exp2) AG_REAL(expm1) AG_REAL(log) AG_REAL(log2) AG_REAL(log10) AG_REAL(log1p)
    AG_REAL(sin) AG_REAL(cos) AG_REAL(tan) AG_REAL(asin) AG_REAL(acos) AG_REAL(atan) AG_REAL(sinh) AG_REAL(cosh)
        AG_REAL(tanh) AG_REAL(asinh) AG_REAL(acosh) AG_REAL(atanh) AG_REAL(sigmoid) AG_REAL(erf) AG_REAL(erfc)
            AG_REAL(isnan) AG_REAL(isinf) AG_REAL(isfinite) AG_REAL(silu) AG_REAL(softplus) AG_REAL(mish) AG_REAL(selu)
                AG_REAL(hardsigmoid) AG_REAL(hardswish) AG_REAL(softsign)
#undef AG_REAL
#undef AG_SAME
// Integers are whole already.
#define AG_WHOLE(name) \
  Tensor name(const Tensor& x, Place place) { \
    return is_float(type_of(x, place)) ? unary(r::name, x, false, place) : x; \
  } \
  Tensor Tensor::name(Place place) const { return api::name(*this, place); }
                    AG_WHOLE(floor) AG_WHOLE(ceil) AG_WHOLE(round) AG_WHOLE(trunc)
#undef AG_WHOLE
                        Tensor logical_not(const Tensor& x, Place place) {
  Tensor b = logical(x, place);
  return lazy::apply(r::logical_not, {&b}, {}, place);
}
Tensor Tensor::logical_not(Place place) const { return api::logical_not(*this, place); }
Tensor log_sigmoid(const Tensor& x, Place place) { return unary(r::log_sigmoid, x, true, place); }
Tensor gelu(const Tensor& x, const std::string& approximate, Place place) {
  return lazy::apply(r::gelu, {&x}, {par(real_type(type_of(x, place))), approximate == "tanh"}, place);
}
#define AG_ALPHA(name) \
  Tensor name(const Tensor& x, double alpha, Place place) { \
    return lazy::apply(r::name, {&x}, {par(real_type(type_of(x, place))), bits(alpha)}, place); \
  }
AG_ALPHA(leaky_relu)
AG_ALPHA(elu)
AG_ALPHA(celu)
#undef AG_ALPHA

#define AG_BINARY_METHOD(name) \
  Tensor Tensor::name(Operand o) const { return api::name(Operand(*this, o.place()), o); }
AG_BINARY_METHOD(add)
AG_BINARY_METHOD(sub)
AG_BINARY_METHOD(mul)
AG_BINARY_METHOD(div)
AG_BINARY_METHOD(pow)
AG_BINARY_METHOD(remainder) AG_BINARY_METHOD(fmod) AG_BINARY_METHOD(floor_divide) AG_BINARY_METHOD(maximum)
    AG_BINARY_METHOD(minimum) AG_BINARY_METHOD(eq) AG_BINARY_METHOD(ne) AG_BINARY_METHOD(lt) AG_BINARY_METHOD(le)
        AG_BINARY_METHOD(gt) AG_BINARY_METHOD(ge)
#undef AG_BINARY_METHOD

#define AG_LOGICAL(name) \
  Tensor name(const Tensor& a, const Tensor& b, Place place) { \
    Tensor x = logical(a, place), y = logical(b, place); \
    return lazy::apply(r::name, {&x, &y}, {}, place); \
  }
            AG_LOGICAL(logical_and) AG_LOGICAL(logical_or) AG_LOGICAL(logical_xor)
#undef AG_LOGICAL
                Tensor Tensor::logical_and(const Tensor& o, Place place) const {
  return api::logical_and(*this, o, place);
}
Tensor Tensor::logical_or(const Tensor& o, Place place) const { return api::logical_or(*this, o, place); }

namespace {

/// A recipe of one tensor and further operands, each a tensor or a number of type t.
Tensor mixed(const Recipe& recipe, const Tensor* first, std::initializer_list<Operand> rest,
             std::span<const std::int64_t> params, ag::DType t, const Place& place, bool first_last = false) {
  std::vector<ValueRef> made;
  std::vector<Arg> args;
  if (first && !first_last) args.push_back(lazy::arg_of(*first, place));
  for (const Operand& o : rest) {
    if (o.tensor()) {
      args.push_back(lazy::arg_of(*o.tensor(), place));
    } else {
      made.push_back(lazy::Value::scalar(t, o.scalar().real(), o.scalar().integer()));
      args.push_back({nullptr, made.back().get()});
    }
  }
  return lazy::apply(recipe, args, params, place);
}

ag::DType meet_of(std::initializer_list<Operand> operands, const Place& place) {
  Promotion meet;
  for (const Operand& o : operands) {
    if (!o.tensor()) {
      meet.scalar(o.scalar().kind());
      continue;
    }
    const auto& t = value_of(*o.tensor(), "an operation", place).type->type;
    meet.tensor(t.dtype, t.rank() > 0);
  }
  return meet.result();
}

}  // namespace

Tensor where(const Tensor& condition, Operand a, Operand b) {
  const Place place = place_of(a, b);
  const ag::DType t = meet_of({a, b}, place);
  Tensor c = logical(condition, place);
  const std::int64_t params[] = {par(t)};
  return mixed(r::where, &c, {a, b}, params, t, place);
}
Tensor Tensor::masked_fill(const Tensor& mask, Operand v) const {
  const ag::DType t = type_of(*this, v.place());
  Tensor m = logical(mask, v.place());
  const std::int64_t params[] = {par(t)};
  return mixed(r::masked_fill, this, {Operand(m, v.place()), v}, params, t, v.place());
}
Tensor lerp(const Tensor& a, const Tensor& b, Operand weight) {
  const ag::DType t = type_of(a, weight.place());
  const std::int64_t params[] = {par(t)};
  static const Recipe by_number{"lerp", "LerpBackward0", r::lerp.build};
  return mixed(weight.tensor() ? r::lerp : by_number, &a, {Operand(b, weight.place()), weight}, params, t,
               weight.place());
}
Tensor clamp(const Tensor& x, std::optional<Scalar> low, std::optional<Scalar> high, Place place) {
  if (!low && !high) raise(Code::AG5404, "torch.clamp: At least one of 'min' or 'max' must not be None", place);
  Promotion meet;
  meet.tensor(type_of(x, place), rank_of(x, place) > 0);
  if (low) meet.scalar(low->kind());
  if (high) meet.scalar(high->kind());
  const ag::DType t = meet.result();
  const std::int64_t params[] = {par(t), low.has_value(), high.has_value()};
  if (low && high) return mixed(r::clamp, &x, {Operand(*low, place), Operand(*high, place)}, params, t, place);
  return mixed(r::clamp, &x, {Operand(low ? *low : *high, place)}, params, t, place);
}
Tensor Tensor::clamp(std::optional<Scalar> low, std::optional<Scalar> high, Place place) const {
  return api::clamp(*this, low, high, place);
}
Tensor Tensor::to(DType t, Place place) const {
  if (type_of(*this, place) == ir(t)) return *this;
  return lazy::apply(r::to, {this}, {par(ir(t))}, place);
}
Tensor stop_gradient(const Tensor& x, Place place) { return lazy::apply(r::stop, {&x}, {}, place); }

// ---- Reductions -----------------------------------------------------------------------------------------------------

Tensor Tensor::sum(Place place) const { return reduce(r::sum, summable(*this, place), {0}, {}, place); }
Tensor Tensor::sum(IntList axes, bool keepdim, Place place) const {
  return reduce(r::sum_dim, summable(*this, place), {keepdim}, axes, place);
}
Tensor Tensor::mean(Place place) const { return reduce(r::mean, need_float(*this, "mean", place), {0}, {}, place); }
Tensor Tensor::mean(IntList axes, bool keepdim, Place place) const {
  return reduce(r::mean_dim, need_float(*this, "mean", place), {keepdim}, axes, place);
}
Tensor Tensor::prod(Place place) const { return reduce(r::prod, summable(*this, place), {0}, {}, place); }
Tensor Tensor::prod(std::int64_t axis, bool keepdim, Place place) const {
  return reduce(r::prod_dim, summable(*this, place), {keepdim}, axis, place);
}
Tensor Tensor::max(Place place) const { return reduce(r::amax_all, *this, {0}, {}, place); }
Tensor Tensor::min(Place place) const { return reduce(r::amin_all, *this, {0}, {}, place); }
Tensor Tensor::amax(IntList axes, bool keepdim, Place place) const {
  return reduce(r::amax, *this, {keepdim}, axes, place);
}
Tensor Tensor::amin(IntList axes, bool keepdim, Place place) const {
  return reduce(r::amin, *this, {keepdim}, axes, place);
}
Tensor Tensor::all(Place place) const { return reduce(r::all, logical(*this, place), {0}, {}, place); }
Tensor Tensor::any(Place place) const { return reduce(r::any, logical(*this, place), {0}, {}, place); }
Tensor Tensor::var(IntList axes, bool unbiased, bool keepdim, Place place) const {
  return reduce(r::var, need_float(*this, "var", place), {bits(unbiased), keepdim}, axes, place);
}
Tensor Tensor::std(IntList axes, bool unbiased, bool keepdim, Place place) const {
  return reduce(r::stddev, need_float(*this, "std", place), {bits(unbiased), keepdim}, axes, place);
}
Tensor Tensor::norm(double p, IntList axes, bool keepdim, Place place) const {
  return reduce(r::norm, need_float(*this, "linalg.vector_norm", place), {bits(p), keepdim}, axes, place);
}
Tensor Tensor::logsumexp(IntList axes, bool keepdim, Place place) const {
  return reduce(r::logsumexp, *this, {keepdim}, axes, place);
}
Tensor Tensor::cumsum(std::int64_t axis, Place place) const {
  Tensor x = summable(*this, place);
  return lazy::apply(r::cumsum, {&x}, {axis}, place);
}
Tensor Tensor::cumprod(std::int64_t axis, Place place) const { return lazy::apply(r::cumprod, {this}, {axis}, place); }

namespace {
std::tuple<Tensor, Tensor> extreme(const Recipe& recipe, const Tensor& x, std::int64_t axis, bool keepdim,
                                   const Place& place) {
  const Arg a = lazy::arg_of(x, place);
  const std::int64_t params[] = {axis, keepdim};
  auto both = lazy::apply_all(&recipe, nullptr, std::span(&a, 1), params, place);
  return {std::move(both[0]), std::move(both[1])};
}
Tensor place_of_extreme(const Recipe& recipe, const Tensor& x, std::optional<std::int64_t> axis, bool keepdim,
                        const Place& place) {
  if (!axis) return lazy::apply(recipe, {&x}, {}, place);
  return lazy::apply(recipe, {&x}, {*axis, keepdim}, place);
}
}  // namespace
std::tuple<Tensor, Tensor> Tensor::max(std::int64_t axis, bool keepdim, Place place) const {
  return extreme(r::max_dim, *this, axis, keepdim, place);
}
std::tuple<Tensor, Tensor> Tensor::min(std::int64_t axis, bool keepdim, Place place) const {
  return extreme(r::min_dim, *this, axis, keepdim, place);
}
Tensor Tensor::argmax(std::optional<std::int64_t> axis, bool keepdim, Place place) const {
  return place_of_extreme(r::argmax, *this, axis, keepdim, place);
}
Tensor Tensor::argmin(std::optional<std::int64_t> axis, bool keepdim, Place place) const {
  return place_of_extreme(r::argmin, *this, axis, keepdim, place);
}

namespace {
std::tuple<Tensor, Tensor> sorted(const Recipe& recipe, const Tensor& x, std::span<const std::int64_t> params,
                                  const Place& place) {
  const Arg a = lazy::arg_of(x, place);
  auto both = lazy::apply_all(&recipe, nullptr, std::span(&a, 1), params, place);
  return {std::move(both[0]), std::move(both[1])};
}
}  // namespace
Tensor Tensor::argsort(std::int64_t axis, bool descending, Place place) const {
  return lazy::apply(r::argsort, {this}, {axis, descending}, place);
}
std::tuple<Tensor, Tensor> Tensor::sort(std::int64_t axis, bool descending, Place place) const {
  return sorted(r::sort, *this, std::array<std::int64_t, 2>{axis, descending}, place);
}
std::tuple<Tensor, Tensor> Tensor::topk(std::int64_t k, std::int64_t axis, bool largest, Place place) const {
  return sorted(r::topk, *this, std::array<std::int64_t, 3>{axis, largest, k}, place);
}
Tensor argsort(const Tensor& x, std::int64_t axis, bool descending, Place place) {
  return x.argsort(axis, descending, place);
}
std::tuple<Tensor, Tensor> sort(const Tensor& x, std::int64_t axis, bool descending, Place place) {
  return x.sort(axis, descending, place);
}
std::tuple<Tensor, Tensor> topk(const Tensor& x, std::int64_t k, std::int64_t axis, bool largest, Place place) {
  return x.topk(k, axis, largest, place);
}

Tensor sum(const Tensor& x, Place place) { return x.sum(place); }
Tensor sum(const Tensor& x, IntList axes, bool keepdim, Place place) { return x.sum(std::move(axes), keepdim, place); }
Tensor mean(const Tensor& x, Place place) { return x.mean(place); }
Tensor mean(const Tensor& x, IntList axes, bool keepdim, Place place) {
  return x.mean(std::move(axes), keepdim, place);
}
Tensor prod(const Tensor& x, Place place) { return x.prod(place); }
Tensor max(const Tensor& x, Place place) { return x.max(place); }
Tensor min(const Tensor& x, Place place) { return x.min(place); }
std::tuple<Tensor, Tensor> max(const Tensor& x, std::int64_t axis, bool keepdim, Place place) {
  return x.max(axis, keepdim, place);
}
std::tuple<Tensor, Tensor> min(const Tensor& x, std::int64_t axis, bool keepdim, Place place) {
  return x.min(axis, keepdim, place);
}
Tensor argmax(const Tensor& x, std::optional<std::int64_t> axis, bool keepdim, Place place) {
  return x.argmax(axis, keepdim, place);
}
Tensor argmin(const Tensor& x, std::optional<std::int64_t> axis, bool keepdim, Place place) {
  return x.argmin(axis, keepdim, place);
}
Tensor norm(const Tensor& x, double p, Place place) { return x.norm(p, {}, false, place); }
Tensor var(const Tensor& x, bool unbiased, Place place) { return x.var({}, unbiased, false, place); }
Tensor std(const Tensor& x, bool unbiased, Place place) { return x.std({}, unbiased, false, place); }
Tensor logsumexp(const Tensor& x, IntList axes, bool keepdim, Place place) {
  return x.logsumexp(std::move(axes), keepdim, place);
}
Tensor cumsum(const Tensor& x, std::int64_t axis, Place place) { return x.cumsum(axis, place); }

bool equal(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  return static_cast<bool>((a == b).all());
}
bool allclose(const Tensor& a, const Tensor& b, double rtol, double atol) {
  NoGradGuard guard;
  Tensor near = (a - b).abs() <= atol + rtol * b.abs();
  return static_cast<bool>(logical_or(near, a == b).all());
}

// ---- Products -------------------------------------------------------------------------------------------------------

namespace {
Tensor product(const Recipe& recipe, const Tensor& a, const Tensor& b, const Place& place) {
  const ag::DType s = type_of(a, place), t = type_of(b, place);
  if (s != t)
    raise(Code::AG2102,
          "expected both tensors to have the same dtype, but got " + lazy::type_name(s) + " and " + lazy::type_name(t),
          place);
  return lazy::apply(recipe, {&a, &b}, {}, place);
}
}  // namespace
Tensor dot(const Tensor& a, const Tensor& b, Place place) { return product(r::dot, a, b, place); }
Tensor mv(const Tensor& a, const Tensor& b, Place place) { return product(r::mv, a, b, place); }
Tensor mm(const Tensor& a, const Tensor& b, Place place) { return product(r::mm, a, b, place); }
Tensor bmm(const Tensor& a, const Tensor& b, Place place) { return product(r::bmm, a, b, place); }
Tensor outer(const Tensor& a, const Tensor& b, Place place) { return product(r::outer, a, b, place); }
Tensor matmul(const Tensor& a, const Tensor& b, Place place) {
  const int ra = rank_of(a, place), rb = rank_of(b, place);
  static const Recipe row_by_matrix{"matmul", "SqueezeBackward4", r::matmul.build};
  const Recipe& recipe = ra == 1 && rb == 1   ? r::dot
                         : ra == 2 && rb == 1 ? r::mv
                         : ra == 2 && rb == 2 ? r::mm
                         : ra == 1 && rb == 2 ? row_by_matrix
                                              : r::matmul;
  return product(recipe, a, b, place);
}
Tensor addmm(const Tensor& bias, const Tensor& a, const Tensor& b, Place place) {
  return lazy::apply(r::addmm, {&bias, &a, &b}, {}, place);
}
Tensor Tensor::dot(const Tensor& o, Place place) const { return api::dot(*this, o, place); }
Tensor Tensor::mv(const Tensor& o, Place place) const { return api::mv(*this, o, place); }
Tensor Tensor::mm(const Tensor& o, Place place) const { return api::mm(*this, o, place); }
Tensor Tensor::bmm(const Tensor& o, Place place) const { return api::bmm(*this, o, place); }
Tensor Tensor::matmul(const Tensor& o, Place place) const { return api::matmul(*this, o, place); }

}  // namespace ag::api
