// Loops over concrete arrays for reference evaluation. Written for clearness; the compiled kernels are the fast ones.
#pragma once
#include <cstring>

#include "ir/op.hpp"

namespace ag::ops {

using Shape = std::vector<std::int64_t>;

inline Shape row_major_strides(const Shape& shape) {
  Shape strides(shape.size(), 1);
  for (std::size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * shape[d];
  return strides;
}

inline std::int64_t flat_index(const Shape& index, const Shape& strides) {
  std::int64_t sum = 0;
  for (std::size_t d = 0; d < index.size(); ++d) sum += index[d] * strides[d];
  return sum;
}

/// f(index, flat) for every index of `shape` in row-major order.
template <class F>
void for_each_index(const Shape& shape, F f) {
  std::int64_t n = 1;
  for (std::int64_t d : shape) n *= d;
  Shape index(shape.size(), 0);
  for (std::int64_t flat = 0; flat < n; ++flat) {
    f(static_cast<const Shape&>(index), flat);
    for (std::size_t d = shape.size(); d-- > 0;) {
      if (++index[d] < shape[d]) break;
      index[d] = 0;
    }
  }
}

/// An array whose element at `index` is element source(index) (flat) of `in`, or `otherwise`'s only element where that
/// is negative.
template <class F>
Array copy_elements(const Array& in, const Shape& shape, F source, const Array* otherwise = nullptr) {
  Array out(in.dtype(), shape);
  std::size_t size = dtype_bytes(in.dtype());
  std::byte* to = out.mutable_bytes().data();
  for_each_index(shape, [&](const Shape& index, std::int64_t flat) {
    std::int64_t from = source(index);
    if (from >= 0)
      std::memcpy(to + flat * size, in.bytes().data() + from * size, size);
    else if (otherwise)
      std::memcpy(to + flat * size, otherwise->bytes().data(), size);
  });
  return out;
}

/// Attribute or type dims as integers; all symbols are bound during evaluation.
inline Shape concrete(const EvalCtx& c, const Dims& dims) {
  Shape out;
  for (const Dim& d : dims) {
    auto v = c.value(d);
    AG_CHECK(v, "a symbol is unbound");
    out.push_back(*v);
  }
  return out;
}

inline Result<std::vector<Array>> one(Array a) {
  std::vector<Array> v;
  v.push_back(std::move(a));
  return v;
}

inline Loc place(const EvalCtx& c) { return c.node.graph.loc(c.node.result()); }

}  // namespace ag::ops
