// The cost model of contractions on a CPU: register tiles, and how rows, columns and depth are cut into tasks.
//
// One cell of a tile is rows x registers accumulators. A step of depth costs it a multiply-add a cycle and accumulator,
// a load of each register of columns, and a broadcast of each row. Columns come as panels, `depth` steps of a tile's
// width, which stay in the second-level cache while rows pass by; rows stream from wherever they lie, which needs a
// fraction of any cache's speed. A panel is copied (packed) where its elements are not neighbours or where its steps
// lie so that they compete for few sets of the cache.
//
// Nothing of that changes an answer: every element is the sum of its terms in order, however it is cut. Products of few
// rows may be sums along lanes instead (`few_rows`).
#pragma once
#include <cstdint>
#include <optional>

#include "ir/loop/target.hpp"

namespace ag::passes {

/// Accumulators that stay in registers over the contracted axes: rows x registers of lanes.
struct RegisterTile {
  int rows = 1, registers = 1;
};

/// Sizes are absent where only the run knows them.
struct ContractionSizes {
  std::optional<std::int64_t> rows, cols, depth;
  std::int64_t batch = 1;  ///< products of their own: axes that both operands have
  std::int64_t outer = 1;  ///< further axes of rows
  std::int64_t element_bytes = 4;
  int lanes = 16;  ///< elements of a register
  bool rows_collide = false;  ///< more than 8 rows at once compete for one set of the first-level cache
  int panel = 0;  ///< columns of a panel if the operand lies in panels already, else 0
};

RegisterTile pick_tile(const ContractionSizes& sizes, const TargetSpec& target);

/// How the operand of columns lies.
struct OperandLayout {
  bool present = true;
  enum class Run : std::uint8_t { contiguous, transposed, scattered } run = Run::contiguous;
  std::optional<std::int64_t> step;  ///< bytes between steps of depth
};

/// Whether a product of `rows` by a right operand of `cols` runs of `depth` elements is computed along the runs: no
/// more rows than multiply-adds hide behind reading it, and enough of it.
bool few_rows(std::int64_t rows, std::int64_t cols, std::int64_t depth, std::int64_t element_bytes,
              const TargetSpec& target);

/// The same for few columns by rows that are runs: such columns leave lanes of a register empty, or wait for each
/// other.
bool few_columns(std::int64_t rows, std::int64_t cols, std::int64_t depth, std::int64_t element_bytes,
                 const TargetSpec& target);

/// The most rows that `few_rows` is true of.
constexpr std::int64_t most_few_rows = 32;

/// How such a product is computed: few x runs accumulators of a register each, `task` runs a task.
struct DotBlocking {
  std::int64_t few = 1, runs = 1, task = 1;
  bool few_outside = false;  ///< some of the few stay in the first-level cache while a task's runs pass by
};
DotBlocking pick_dots(std::int64_t few, std::int64_t runs, std::int64_t depth, std::int64_t element_bytes,
                      const TargetSpec& target);

/// A task is one batch, `panels` panels of columns, and rows: `outer` iterations of the outer row axes with all rows
/// each, or one of them with `rows` rows.
struct Blocking {
  bool pack_columns = false;
  std::int64_t pack_from = 0;  ///< fewer rows, whose number the run knows, read columns where they lie
  std::int64_t rows = 0, outer = 1, panels = 1;
  std::int64_t group = 1;  ///< panels that lie in the cache together while rows pass by; at most `panels`
  std::int64_t supers = 1;  ///< parts of the rows that are the slowest index of tasks: threads split rows
  std::int64_t depth = 0;  ///< steps of depth at a time, 0: all
  bool fetch_rows = false, fetch_panel = false;  ///< ask for the next tile's rows, the next panel, ahead of their use
  std::int64_t fetch_copied = 0;  ///< steps of depth of the next columns to be copied that a row asks for
};
Blocking pick_blocking(const ContractionSizes& sizes, const RegisterTile& tile, const OperandLayout& columns,
                       const TargetSpec& target);

}  // namespace ag::passes
