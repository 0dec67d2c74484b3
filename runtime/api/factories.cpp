// Tensors made from numbers. Their arrays are filled at once: there is nothing to compile.
#include <algorithm>
#include <cmath>

#include "frontend/trace/recipes.hpp"
#include "ir/op.hpp"
#include "runtime/api/tensor_impl.hpp"
#include "runtime/api/trace_frame.hpp"

namespace ag::api {
namespace {

namespace r = rec::r;
using lazy::Buffer;
using lazy::ir;
using lazy::raise;
using lazy::Ref;
using lazy::Value;

/// An array of this type; contents are not initialised.
lazy::ValueRef fresh(DType t, const IntList& sizes) {
  for (std::int64_t d : sizes.values())
    if (d < 0) raise(Code::AG2209, "Trying to create tensor with negative dimension " + std::to_string(d), {});
  auto bytes = Array::byte_size(ir(t), sizes.values());
  if (!bytes) raise(Code::AG2209, "the size of this tensor overflows", {});
  return Value::concrete(rec::TypeInfo::make(ir(t), sizes.values()), Buffer::allocate(*bytes));
}

Tensor finish(lazy::ValueRef v, const TensorOptions& o) {
  Tensor t = lazy::make_tensor(std::move(v));
  return o.grad ? t.requires_grad_(true, {}) : t;
}

/// Element i is f(i), rounded once to the element type.
template <class F>
Tensor generate(DType t, const IntList& sizes, const TensorOptions& o, F f) {
  lazy::ValueRef v = fresh(t, sizes);
  const std::int64_t n = v->type->elems;
  dispatch_dtype(ir(t), [&]<class T>() {
    T* p = static_cast<T*>(v->data);
    for (std::int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<T, ag::f16> || std::is_same_v<T, ag::bf16>)
        p[i] = T(static_cast<float>(f(i)));
      else
        p[i] = static_cast<T>(f(i));
    }
  });
  return finish(std::move(v), o);
}

}  // namespace

Data::Data(std::initializer_list<Data> rows) {
  shape_.push_back(static_cast<std::int64_t>(rows.size()));
  bool first = true;
  for (const Data& row : rows) {
    if (first) {
      dtype_ = row.dtype_;
      shape_.insert(shape_.end(), row.shape_.begin(), row.shape_.end());
    } else if (!std::equal(shape_.begin() + 1, shape_.end(), row.shape_.begin(), row.shape_.end())) {
      raise(Code::AG5404, "the nested lists of ag::tensor have different lengths", {});
    }
    if (row.dtype_ != dtype_) {  // {1, 2.5}: the wider kind
      lazy::Promotion meet;
      meet.tensor(ir(dtype_), true), meet.tensor(ir(row.dtype_), true);
      dtype_ = lazy::pub(meet.result());
    }
    first = false;
    reals_.insert(reals_.end(), row.reals_.begin(), row.reals_.end());
    integers_.insert(integers_.end(), row.integers_.begin(), row.integers_.end());
  }
}

Tensor tensor(const Data& data, TensorOptions o) {
  const DType t = o.type.value_or(data.dtype());
  if (t == boolean)
    return generate(t, data.shape(), o, [&](std::int64_t i) { return data.reals()[static_cast<std::size_t>(i)] != 0; });
  if (is_float(ir(data.dtype())))
    return generate(t, data.shape(), o, [&](std::int64_t i) { return data.reals()[static_cast<std::size_t>(i)]; });
  return generate(t, data.shape(), o, [&](std::int64_t i) { return data.integers()[static_cast<std::size_t>(i)]; });
}

namespace detail {
Tensor copy_of(DType from, const void* data, std::size_t count, IntList sizes, TensorOptions o) {
  lazy::ValueRef v = fresh(from, sizes);
  if (static_cast<std::size_t>(v->type->elems) != count)
    raise(Code::AG5404, std::to_string(count) + " values do not fill a tensor of " + v->type->type.str(), {});
  if (count) std::memcpy(v->data, data, v->type->bytes);
  Tensor t = lazy::make_tensor(std::move(v));
  if (o.type && *o.type != from) t = t.to(*o.type, {}).eval({});
  return o.grad ? t.requires_grad_(true, {}) : t;
}
}  // namespace detail

Tensor from_blob(void* data, IntList sizes, TensorOptions o) {
  const DType t = o.type.value_or(f32);
  if (!Array::byte_size(ir(t), sizes.values())) raise(Code::AG2209, "the size of this tensor overflows", {});
  if (reinterpret_cast<std::uintptr_t>(data) % dtype_bytes(ir(t)))
    raise(Code::AG5404, "the memory of from_blob is not aligned to its element type", {});
  return finish(Value::concrete(rec::TypeInfo::make(ir(t), sizes.values()), Buffer::borrow(data)), o);
}

Tensor arange(Scalar start, Scalar end, Scalar step, TensorOptions o) {
  using Kind = Scalar::Kind;
  const bool whole = start.kind() != Kind::real && end.kind() != Kind::real && step.kind() != Kind::real;
  if (step.real() == 0) raise(Code::AG5404, "step must be nonzero", {});
  const double steps = (end.real() - start.real()) / step.real();
  if (steps < 0) raise(Code::AG5404, "upper bound and lower bound inconsistent with step sign", {});
  if (!(steps < 1e15)) raise(Code::AG2209, "the size of this tensor overflows", {});
  const auto n = static_cast<std::int64_t>(std::ceil(steps));
  const DType t = o.type.value_or(whole ? i64 : f32);
  if (whole) return generate(t, n, o, [&](std::int64_t i) { return start.integer() + i * step.integer(); });
  return generate(t, n, o, [&](std::int64_t i) { return start.real() + static_cast<double>(i) * step.real(); });
}
Tensor arange(Scalar start, Scalar end, TensorOptions o) { return arange(start, end, 1, o); }
Tensor arange(Scalar end, TensorOptions o) { return arange(0, end, 1, o); }
Tensor linspace(Scalar start, Scalar end, std::int64_t steps, TensorOptions o) {
  const double a = start.real(), b = end.real(), h = steps > 1 ? (b - a) / static_cast<double>(steps - 1) : 0;
  // From both ends, as torch does, so that both are exact.
  return generate(o.type.value_or(f32), steps, o, [&](std::int64_t i) {
    return i < steps / 2 ? a + h * static_cast<double>(i) : b - h * static_cast<double>(steps - 1 - i);
  });
}
Tensor full(IntList sizes, Scalar value, TensorOptions o) {
  const DType t = o.type.value_or(value.kind() == Scalar::Kind::real      ? f32
                                  : value.kind() == Scalar::Kind::integer ? i64
                                                                          : boolean);
  if (is_float(ir(t)) || value.kind() == Scalar::Kind::real)
    return generate(t, sizes, o, [&](std::int64_t) { return value.real(); });
  return generate(t, sizes, o, [&](std::int64_t) { return value.integer(); });
}
Tensor zeros(IntList sizes, TensorOptions o) { return full(std::move(sizes), 0, o.type ? o : o.dtype(f32)); }
Tensor ones(IntList sizes, TensorOptions o) { return full(std::move(sizes), 1, o.type ? o : o.dtype(f32)); }
Tensor empty(IntList sizes, TensorOptions o) { return zeros(std::move(sizes), o); }
Tensor eye(std::int64_t n, std::int64_t m, TensorOptions o) {
  return generate(o.type.value_or(f32), {n, m}, o, [&](std::int64_t i) { return i / m == i % m; });
}
Tensor eye(std::int64_t n, TensorOptions o) { return eye(n, n, o); }

Tensor full_like(const Tensor& x, Scalar value, TensorOptions o, Place place) {
  const lazy::Value& v = lazy::value_of(x, "full_like", place);
  const ag::DType t = o.type ? ir(*o.type) : v.dtype();
  Tensor out;
  if (v.type->is_static) {
    std::vector<std::int64_t> params{static_cast<std::int64_t>(t), rec::bits(value.real())};
    params.insert(params.end(), v.type->shape.begin(), v.type->shape.end());
    out = lazy::apply(r::full, std::span<const lazy::Arg>(), params, place);
  } else {
    AutoGradMode off(false);
    out = lazy::apply(r::full_like, {&x}, {static_cast<std::int64_t>(t), rec::bits(value.real())}, place);
  }
  return o.grad ? out.requires_grad_(true, place) : out;
}
Tensor zeros_like(const Tensor& x, TensorOptions o, Place place) { return full_like(x, 0, o, place); }
Tensor ones_like(const Tensor& x, TensorOptions o, Place place) { return full_like(x, 1, o, place); }
Tensor empty_like(const Tensor& x, TensorOptions o, Place place) { return full_like(x, 0, o, place); }

// ---- Random numbers
// ---------------------------------------------------------------------------------------------------

namespace {
using rec::r::Random;

/// The trace that draws, where one is under way: it gets its keys when it runs.
lazy::TraceFrame* drawing_trace() {
  lazy::TraceFrame* f = lazy::Session::current().frame;
  while (f && f->outer()) f = f->outer();
  return f && !f->captures_values() ? f : nullptr;
}

/// The numbers of one draw. In a trace they are an operation of it; otherwise the same operation is evaluated at once.
Tensor draw(Random d, DType t, std::int64_t a, std::int64_t b, const std::vector<std::int64_t>& sizes,
            const Tensor* like = nullptr, const Place& place = Place::current()) {
  lazy::Session& s = lazy::Session::current();
  lazy::TraceFrame* trace = drawing_trace();
  std::vector<std::int64_t> params{trace ? static_cast<std::int64_t>(trace->draws++) : 0,
                                   static_cast<std::int64_t>(ir(t)),
                                   static_cast<std::int64_t>(d),
                                   a,
                                   b,
                                   trace && like ? 1 : 0};
  if (!params.back()) params.insert(params.end(), sizes.begin(), sizes.end());
  if (trace) {
    AutoGradMode off(false);
    Tensors operands{lazy::make_tensor(trace->generator(place))};
    if (like) operands.push_back(*like);
    for (lazy::TraceFrame* f = s.frame; f; f = f->outer())
      if (f->trip) {
        operands.push_back(lazy::make_tensor(f->trip));
        f->trip_used = true;
      }
    std::vector<lazy::Arg> args;
    for (const Tensor& o : operands) args.push_back(lazy::arg_of(o, place));
    return lazy::apply(r::random, args, params, place);
  }
  ag::Graph g;
  rec::Emit e(g, lazy::loc_of(place));
  const std::vector<ag::ValueId> key{e.b().input("key", {ag::DType::u64, {}})};
  g.outputs.push_back({"y", r::random.build(e, key, params)[0], {}});
  Array k(ag::DType::u64, {});
  k.set_int(0, static_cast<std::int64_t>(s.next_key()));
  lazy::ValueRef v = fresh(t, sizes);
  auto values = interpret(g, std::vector<Array>{std::move(k)});
  if (!values) lazy::raise(values.error());
  if (v->type->bytes) std::memcpy(v->data, (*values)[0].bytes().data(), v->type->bytes);
  return lazy::make_tensor(std::move(v));
}
std::vector<std::int64_t> static_sizes(const Tensor& x) {
  return drawing_trace() ? std::vector<std::int64_t>{} : x.sizes();
}
}  // namespace

Tensor randn(IntList sizes, TensorOptions o) {
  Tensor t = draw(Random::normal, o.type.value_or(f32), rec::bits(0), rec::bits(1), sizes.values());
  return o.grad ? t.requires_grad_() : t;
}
Tensor rand(IntList sizes, TensorOptions o) {
  Tensor t = draw(Random::uniform, o.type.value_or(f32), 0, 0, sizes.values());
  return o.grad ? t.requires_grad_() : t;
}
Tensor randn_like(const Tensor& x, TensorOptions o) {
  Tensor t = draw(Random::normal, o.type.value_or(x.dtype()), rec::bits(0), rec::bits(1), static_sizes(x), &x);
  return o.grad ? t.requires_grad_() : t;
}
Tensor rand_like(const Tensor& x, TensorOptions o) {
  Tensor t = draw(Random::uniform, o.type.value_or(x.dtype()), 0, 0, static_sizes(x), &x);
  return o.grad ? t.requires_grad_() : t;
}
Tensor randint(std::int64_t low, std::int64_t high, IntList sizes, TensorOptions o) {
  if (low >= high)
    raise(Code::AG5404,
          "random_ expects 'from' to be less than 'to', but got from=" + std::to_string(low) +
              " >= to=" + std::to_string(high),
          {});
  Tensor t = draw(Random::integers, o.type.value_or(i64), low, high - low, sizes.values());
  return o.grad ? t.requires_grad_() : t;
}
Tensor randint(std::int64_t high, IntList sizes, TensorOptions o) { return randint(0, high, std::move(sizes), o); }
Tensor randperm(std::int64_t n, TensorOptions o) {
  Tensor order = draw(Random::integers, i64, 0, std::int64_t{1} << 62, {std::max<std::int64_t>(0, n)}).argsort(0);
  if (o.type && *o.type != i64) order = order.to(*o.type);
  return lazy::Session::current().frame ? order : order.eval();
}
Tensor normal(double mean, double std, IntList sizes, TensorOptions o) {
  Tensor t = draw(Random::normal, o.type.value_or(f32), rec::bits(mean), rec::bits(std), sizes.values());
  return o.grad ? t.requires_grad_() : t;
}
Tensor bernoulli(const Tensor& p) {
  NoGradGuard guard;
  return rand_like(p).lt(p).to(p.dtype());
}

}  // namespace ag::api
