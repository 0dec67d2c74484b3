// Constants that passes compute from other constants: folded, transformed, laid out anew. Each large one is noted with
// its recipe, so that a program can be kept without the values of its weights: they are computed again from those of
// the graph (runtime/program_cache), by the same functions.
#pragma once
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "ir/graph.hpp"

namespace ag::passes {

struct PassContext;

/// Panels [outer.., columns / width, contract.., width] of a constant seen by strides; the last panel of a place in
/// `outer` is filled up with zeros. `outer`, `contract` and `column` are axes of `shape`.
struct PanelLayout {
  std::vector<std::int64_t> shape, strides, outer, contract;
  std::int64_t column = 0, width = 1;
  bool operator==(const PanelLayout&) const = default;
  auto operator<=>(const PanelLayout&) const = default;
  /// Shape of the panels; nullopt if the layout reads beyond `elements` or is none.
  std::optional<std::vector<std::int64_t>> result_shape(std::int64_t elements) const;
};

struct Recipe;
using RecipePtr = std::shared_ptr<const Recipe>;
/// How a constant follows from others: panels of operand 0, or its product with factors, or the first output of
/// `graph`, whose inputs are the operands.
struct Recipe {
  struct Operand {
    std::weak_ptr<const Literal> literal;  ///< of the graph that was compiled, or
    RecipePtr made;
  };
  std::vector<Operand> operands;
  GraphPtr graph;
  std::optional<PanelLayout> panels;
  std::optional<Array> factors;  ///< f64, of the operand's rank, each extent the operand's or 1
};

/// What the recipe gives of operands of these types; nullopt if it does not fit them.
std::optional<Type> recipe_type(const Recipe& recipe, const std::vector<Type>& operands);
/// Operands in order. Errors: those of the interpreter; AG9001 if the recipe does not fit them or a factor takes an
/// element beyond its type.
Result<Array> evaluate(const Recipe& recipe, std::span<const Array> operands, int threads);

/// What one compilation notes of the constants it makes.
class ConstantRecipes {
 public:
  void note(const LiteralPtr& made, RecipePtr recipe);
  RecipePtr find(const LiteralPtr& literal) const;
  /// Elements of a program's constant lie at `data`: those of the literal.
  void placed(const void* data, LiteralPtr literal) { placed_[data] = std::move(literal); }
  LiteralPtr at(const void* data) const;

 private:
  struct Made {
    std::weak_ptr<const Literal> literal;  // keeps the address from being used anew
    RecipePtr recipe;
  };
  std::unordered_map<const Literal*, Made> made_;
  std::unordered_map<const void*, LiteralPtr> placed_;
};

/// The outputs of a graph without inputs; nullopt if it cannot be evaluated.
std::optional<std::vector<LiteralPtr>> evaluate_constants(const Graph& graph, PassContext& context);
/// A constant (f32 or f64) times `factors` (as in Recipe), computed in f64 and rounded once; null if that takes an
/// element beyond its type.
LiteralPtr make_scaled(const LiteralPtr& from, Array factors, PassContext& context);
LiteralPtr make_panels(const LiteralPtr& from, const PanelLayout& layout, PassContext& context);

}  // namespace ag::passes
