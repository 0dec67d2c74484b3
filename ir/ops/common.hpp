// What op families share: makers of elementwise ops, type rules, attribute access, samples.
#pragma once
#include <fmt/format.h>

#include <algorithm>

#include "ir/loop/abi.hpp"
#include "ir/op.hpp"
#include "ir/ops/expr.hpp"

namespace ag::ops {

using Builder = GraphBuilder;
using View = NodeView;
using L = loop::Op;
using LoopValues = std::span<const loop::ValueId>;
using Types = Result<std::vector<Type>>;
using Ints = std::vector<std::int64_t>;

// ---- Type rules -------------------------------------------------------------------------------------------

/// Shape of operands [first, ...) broadcast together as numpy does; AG2201 names the pair that does not fit.
Result<Dims> broadcast_operands(const InferCtx& c, std::size_t first = 0);
Types infer_elementwise(const InferCtx& c);  ///< broadcast shape, dtype of operand 0
Types infer_compare(const InferCtx& c);      ///< broadcast shape, bool
Types infer_same(const InferCtx& c);         ///< the type of operand 0
/// `axis` of operand `i` in [0, rank); AG2202 otherwise.
Result<int> checked_axis(const InferCtx& c, std::int64_t axis, int rank, std::size_t i = 0);
/// Normalised, sorted, no duplicates; AG2202 otherwise.
Result<Ints> checked_axes(const InferCtx& c, const Ints& axes, int rank, std::size_t i = 0);
/// The dims are not invalid (overflow) nor negative constants; AG2209 otherwise.
Result<Dims> checked_shape(const InferCtx& c, Dims shape);
/// The elements of operand i, which decide the result's type; AG2207 if the compiler does not know them.
Result<Dims> required_ints(const InferCtx& c, std::size_t i);
/// The same, as integers.
Result<Ints> required_constants(const InferCtx& c, std::size_t i);
std::string operand_name(const InferCtx& c, std::size_t i);
std::string_view op_title(const InferCtx& c);  ///< the name that users write

// ---- Attributes -------------------------------------------------------------------------------------------

inline std::int64_t attr_int(const Attrs& a, std::string_view name, std::int64_t otherwise) {
  return a.get_or<std::int64_t>(name, otherwise);
}
inline double attr_number(const Attrs& a, std::string_view name, double otherwise) {
  return a.get_or<double>(name, otherwise);
}
inline std::string attr_string(const Attrs& a, std::string_view name, std::string otherwise) {
  return a.get_or<std::string>(name, std::move(otherwise));
}
inline Ints attr_ints(const Attrs& a, std::string_view name) { return a.get_or<Ints>(name, {}); }
inline Dims attr_dims(const Attrs& a, std::string_view name) { return a.get_or<Dims>(name, {}); }

inline AttrSpec int_attr(std::string_view name, std::int64_t fallback, std::string_view doc = {}) {
  return {name, AttrKind::integer, false, doc, AttrValue(fallback)};
}
inline AttrSpec number_attr(std::string_view name, double fallback, std::string_view doc = {}) {
  return {name, AttrKind::number, false, doc, AttrValue(fallback)};
}
inline AttrSpec choice_attr(std::string_view name, std::vector<std::string_view> choices, std::string_view doc = {}) {
  return {name, AttrKind::string, false, doc, AttrValue(std::string(choices[0])), choices};
}

/// Known elements of operand i in a decomposition; the type rule has made sure that they are there.
std::optional<Dims> known(const View& n, std::size_t i);
std::optional<Ints> known_constants(const View& n, std::size_t i);
std::optional<Ints> as_constants(const std::optional<Dims>& dims);

/// Known elements of the results of elementwise ops on known integers; a scalar operand meets all elements.
template <class F>
std::optional<Dims> map_known(const View& n, F f) {
  auto a = known(n, 0);
  if (!a) return std::nullopt;
  for (Dim& d : *a) d = f(d);
  return a;
}
template <class F>
std::optional<Dims> zip_known(const View& n, F f) {
  auto a = known(n, 0), b = known(n, 1);
  if (!a || !b || n.out().rank() > 1 || (a->size() != b->size() && a->size() != 1 && b->size() != 1))
    return std::nullopt;
  Dims out;
  for (std::size_t i = 0; i < std::max(a->size(), b->size()); ++i) {
    if (a->empty() || b->empty()) break;
    std::optional<Dim> d = f((*a)[a->size() == 1 ? 0 : i], (*b)[b->size() == 1 ? 0 : i]);
    if (!d) return std::nullopt;
    out.push_back(std::move(*d));
  }
  return out;
}

inline Ints iota_ints(std::int64_t n, std::int64_t from = 0) {
  Ints r;
  for (std::int64_t i = 0; i < n; ++i) r.push_back(from + i);
  return r;
}
inline bool contains(const Ints& v, std::int64_t x) { return std::find(v.begin(), v.end(), x) != v.end(); }

// ---- Elementwise makers -----------------------------------------------------------------------------------

OpInfo unary(OpInfo o, DTypeSet set);
OpInfo binary(OpInfo o, DTypeSet set);
OpInfo comparison(OpInfo o, DTypeSet set);

/// `scalar` of an op that is one loop statement.
template <L op>
loop::ValueId as(loop::Builder& b, const View&, LoopValues x) {
  return b.op(op, x);
}

/// What a unary derivative is a formula of: operand x, result y.
struct Point {
  Expr x, y;
};
/// `partials` of a unary op from its formula: `d1<[](Point p) { return -p.y * p.y; }>`.
template <auto formula>
void d1(Builder& b, const View& n, Grads& d) {
  d[0] = formula(Point{Expr(b, n.operand(0)), Expr(b, n.result())});
}

/// `partials` of a binary op with operands a, b and result y.
struct Point2 {
  Expr a, b, y;
};
template <auto da, auto db>
void d2(Builder& b, const View& n, Grads& d) {
  Point2 p{Expr(b, n.operand(0)), Expr(b, n.operand(1)), Expr(b, n.result())};
  d[0] = da(p);
  d[1] = db(p);
}

/// A composite with one real operand and one result of the same type, from its formula.
template <auto formula>
std::vector<ValueId> formula1(Builder& b, const View& n) {
  return {formula(n, Expr(b, n.operand(0)))};
}

/// Types for samples: "f64[2,3]".
Type sample_type(std::string_view text);
OpSample sample(std::initializer_list<std::string_view> types, Attrs attrs = {}, double low = -2, double high = 2);
OpSample::Operand sample_ints(const Ints& values, DType t = DType::i64);
OpSample::Operand sample_operand(std::string_view type, double low = -2, double high = 2);

}  // namespace ag::ops
