// How a value lies in the memory of the one that it is a view of.
#pragma once
#include <optional>
#include <vector>

#include "ir/graph.hpp"

namespace ag::passes {

/// A value seen through transposes, reshapes and slices of one that is stored: its elements by strides, in elements.
struct StridedView {
  ValueId source;
  bool whole = true;  ///< no slices: all elements of the source
  std::vector<std::int64_t> shape, strides;
};

/// The view that `v` is, if its sizes are known and one stride an axis says where its elements are.
std::optional<StridedView> strided_view(const Graph& g, ValueId v);

}  // namespace ag::passes
