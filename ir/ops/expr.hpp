// Formulas of graph values as C++ expressions: `y * (1 - y)` appends nodes. Numbers take the dtype of the value
// that they meet. For derivative rules and decompositions.
#pragma once
#include "ir/builder.hpp"

namespace ag::ops {

class Expr {
 public:
  Expr() = default;
  Expr(GraphBuilder& b, ValueId id) : b_(&b), id_(id) {}
  operator ValueId() const { return id_; }  // NOLINT: an Expr is a value with its builder at hand
  ValueId id() const { return id_; }
  GraphBuilder& builder() const { return *b_; }
  Type type() const { return b_->type(id_); }  ///< by value: the graph's own is moved by the next node
  DType dtype() const { return b_->type(id_).dtype; }
  Expr lit(double v) const { return {*b_, b_->scalar(dtype(), v)}; }
  Expr with(ValueId id) const { return {*b_, id}; }
  Expr to(DType t) const { return {*b_, b_->convert(id_, t)}; }

 private:
  GraphBuilder* b_ = nullptr;
  ValueId id_;
};

inline Expr call(std::string_view op, Expr a) { return a.with(a.builder().add_op(op, {a.id()})); }
inline Expr call(std::string_view op, Expr a, Expr b) { return a.with(a.builder().add_op(op, {a.id(), b.id()})); }
inline Expr call(std::string_view op, Expr a, double b) { return call(op, a, a.lit(b)); }

inline Expr operator-(Expr a) { return a.with(a.builder().neg(a)); }
#define AG_EXPR_OPERATOR(symbol, make) \
  inline Expr operator symbol(Expr a, Expr b) { return a.with(make); } \
  inline Expr operator symbol(Expr a, double c) { return a symbol a.lit(c); } \
  inline Expr operator symbol(double c, Expr a) { return a.lit(c) symbol a; }
AG_EXPR_OPERATOR(+, a.builder().add(a, b))
AG_EXPR_OPERATOR(-, a.builder().sub(a, b))
AG_EXPR_OPERATOR(*, a.builder().mul(a, b))
AG_EXPR_OPERATOR(/, a.builder().div(a, b))
AG_EXPR_OPERATOR(>, a.builder().compare("gt", a, b))
AG_EXPR_OPERATOR(<, a.builder().compare("lt", a, b))
AG_EXPR_OPERATOR(>=, a.builder().compare("ge", a, b))
AG_EXPR_OPERATOR(<=, a.builder().compare("le", a, b))
AG_EXPR_OPERATOR(==, a.builder().compare("eq", a, b))
AG_EXPR_OPERATOR(!=, a.builder().compare("ne", a, b))
#undef AG_EXPR_OPERATOR

inline Expr exp(Expr a) { return call("exp", a); }
inline Expr log(Expr a) { return call("log", a); }
inline Expr sqrt(Expr a) { return call("sqrt", a); }
inline Expr abs(Expr a) { return call("abs", a); }
inline Expr max(Expr a, Expr b) { return call("max", a, b); }
inline Expr min(Expr a, Expr b) { return call("min", a, b); }
inline Expr both(Expr a, Expr b) { return call("and", a, b); }
inline Expr either(Expr a, Expr b) { return call("or", a, b); }
inline Expr select(Expr c, Expr a, Expr b) { return c.with(c.builder().select(c, a, b)); }
inline Expr select(Expr c, Expr a, double b) { return select(c, a, a.lit(b)); }
inline Expr select(Expr c, double a, Expr b) { return select(c, b.lit(a), b); }
inline Expr reduce(std::string_view op, Expr a, std::vector<std::int64_t> axes, bool keepdims = false) {
  return a.with(a.builder().reduce(op, a, std::move(axes), keepdims));
}

}  // namespace ag::ops
