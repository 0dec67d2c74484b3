// What a recorded operation is: a name, how it is spelled in the graph, and what its gradient node is called.
//
// A recorded program (a C++ program that ran) is a list of recipes with their parameters. Parameters are plain
// integers, so that two records are compared without building anything; a recipe turns them into graph nodes only when
// a structure is seen for the first time. Values that change from run to run are operands, never parameters.
#pragma once
#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ir/builder.hpp"

namespace ag::rec {

using Params = std::span<const std::int64_t>;

/// Thrown by a recipe whose operands do not fit (shapes, element types); the recorder's caller turns it into an error
/// value. Never leaves ag.
struct Rejected {
  Diags diags;
};

/// A checked builder with a place: what a recipe writes to.
class Emit {
 public:
  Emit(Graph& graph, Loc loc, std::uint32_t remat = 0) : b_(graph), loc_(std::move(loc)), remat_(remat) {
    if (loc_.known()) b_.set_origin({loc_});
  }
  GraphBuilder& b() { return b_; }
  const Type& type(ValueId v) const { return b_.type(v); }
  int rank(ValueId v) const { return type(v).rank(); }
  /// Adds a node of the op table. Throws Rejected if the operands do not fit.
  ValueId op(std::string_view name, std::vector<ValueId> operands, Attrs attrs = {});
  std::vector<ValueId> ops(std::string_view name, std::vector<ValueId> operands, Attrs attrs = {});
  [[noreturn]] void reject(Code code, std::string message) const;
  /// Axis in [-rank, rank) to [0, rank); rejected otherwise, in torch's words.
  std::int64_t axis(std::int64_t axis, int rank) const;

 private:
  GraphBuilder b_;
  Loc loc_;
  std::uint32_t remat_;
};

struct Recipe {
  std::string_view name;                     ///< "mul", as in torch
  std::string_view grad;                     ///< "MulBackward0"; empty if no gradient passes
  std::vector<ValueId> (*build)(Emit&, std::span<const ValueId> operands, Params params);
};

/// A double as a parameter.
inline std::int64_t bits(double v) { return std::bit_cast<std::int64_t>(v); }
inline double real(std::int64_t p) { return std::bit_cast<double>(p); }

}  // namespace ag::rec
