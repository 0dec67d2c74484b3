// Tensors made from numbers. Their arrays are filled at once: there is nothing to compile.
#include <algorithm>
#include <cmath>

#include "frontend/trace/recipes.hpp"
#include "ir/random.hpp"
#include "runtime/api/tensor_impl.hpp"

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
Tensor random(Distribution d, double scale, const IntList& sizes, DType t) {
  lazy::ValueRef v = fresh(t, sizes);
  Array a(ir(t), sizes.values());
  fill_random(a, d, scale, lazy::Session::current().next_key());
  if (v->type->bytes) std::memcpy(v->data, a.bytes().data(), v->type->bytes);
  return lazy::make_tensor(std::move(v));
}
/// Bits i of the generator's next key.
class Stream {
 public:
  Stream() : key_(lazy::Session::current().next_key()) {}
  std::uint64_t operator()(std::uint64_t i) const {
    const auto w = philox4x32(key_, i);
    return std::uint64_t{w[1]} << 32 | w[0];
  }
  /// In [0, n), without bias that matters: n is far below 2^64.
  std::int64_t below(std::uint64_t i, std::int64_t n) const {
    return static_cast<std::int64_t>(static_cast<unsigned __int128>((*this)(i)) * static_cast<std::uint64_t>(n) >> 64);
  }

 private:
  std::uint64_t key_;
};
}  // namespace

Tensor randn(IntList sizes, TensorOptions o) {
  Tensor t = random(Distribution::normal, 1, sizes, o.type.value_or(f32));
  return o.grad ? t.requires_grad_() : t;
}
Tensor rand(IntList sizes, TensorOptions o) {
  const Stream bits;
  const DType t = o.type.value_or(f32);
  // 24 (53) bits: below one after rounding.
  if (t == f64)
    return generate(t, sizes, o, [&](std::int64_t i) {
      return static_cast<double>(bits(static_cast<std::uint64_t>(i)) >> 11) * 0x1p-53;
    });
  return generate(t, sizes, o, [&](std::int64_t i) {
    return static_cast<double>(bits(static_cast<std::uint64_t>(i)) >> 40) * 0x1p-24;
  });
}
Tensor randn_like(const Tensor& x, TensorOptions o) { return randn(x.sizes(), o.type ? o : o.dtype(x.dtype())); }
Tensor rand_like(const Tensor& x, TensorOptions o) { return rand(x.sizes(), o.type ? o : o.dtype(x.dtype())); }
Tensor randint(std::int64_t low, std::int64_t high, IntList sizes, TensorOptions o) {
  if (low >= high)
    raise(Code::AG5404,
          "random_ expects 'from' to be less than 'to', but got from=" + std::to_string(low) +
              " >= to=" + std::to_string(high),
          {});
  const Stream bits;
  return generate(o.type.value_or(i64), sizes, o,
                  [&](std::int64_t i) { return low + bits.below(static_cast<std::uint64_t>(i), high - low); });
}
Tensor randint(std::int64_t high, IntList sizes, TensorOptions o) { return randint(0, high, std::move(sizes), o); }
Tensor randperm(std::int64_t n, TensorOptions o) {
  const Stream bits;
  std::vector<std::int64_t> p(static_cast<std::size_t>(std::max<std::int64_t>(0, n)));
  for (std::size_t i = 0; i < p.size(); ++i) p[i] = static_cast<std::int64_t>(i);
  for (std::size_t i = p.size(); i > 1; --i)
    std::swap(p[i - 1], p[static_cast<std::size_t>(bits.below(i, static_cast<std::int64_t>(i)))]);
  return generate(o.type.value_or(i64), n, o, [&](std::int64_t i) { return p[static_cast<std::size_t>(i)]; });
}
Tensor normal(double mean, double std, IntList sizes, TensorOptions o) {
  Tensor t = random(Distribution::normal, std, sizes, o.type.value_or(f32));
  if (mean != 0) t = (t + mean).eval();
  return o.grad ? t.requires_grad_() : t;
}
Tensor bernoulli(const Tensor& p) {
  NoGradGuard guard;
  return rand_like(p).lt(p).to(p.dtype());
}

}  // namespace ag::api
