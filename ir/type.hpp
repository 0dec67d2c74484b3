// Tensor types: an element type and a shape of Dims.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "ir/base/diag.hpp"
#include "ir/base/dim.hpp"
#include "ir/base/dtype.hpp"

namespace ag {

struct Type {
  DType dtype = DType::f32;
  Dims shape;

  int rank() const { return static_cast<int>(shape.size()); }
  Dim elems() const { return product(shape); }
  bool is_static() const;                       ///< every dim is an integer
  Type with(DType t) const { return {t, shape}; }
  std::string str() const;                      ///< "f32[N,4]", "f32[]"
  static std::optional<Type> parse(std::string_view text);
  bool operator==(const Type&) const = default;
};

/// "N, 2*M + 1, 4": what stands between the brackets of a shape; any integers.
std::optional<Dims> parse_dims(std::string_view text);
std::string shape_str(const Dims& shape);       ///< "[N, 4]"

/// numpy's broadcasting of two shapes; nullopt if two constant dims differ and neither is 1. Two different
/// symbols give Dim::bcast, settled at run time.
std::optional<Dims> broadcast_shapes(const Dims& a, const Dims& b);

/// Concrete sizes; nullopt if a symbol is left.
std::optional<std::vector<std::int64_t>> static_shape(const Dims& shape);
/// Axis in [-rank, rank) to [0, rank); nullopt if outside.
std::optional<int> normalize_axis(std::int64_t axis, int rank);

}  // namespace ag
