// Register tiles of products inside a kernel's body, where lowering has already blocked the loops.
#pragma once
#include <cstdint>
#include <optional>

namespace ag::passes {

struct InnerTile {
  int rows = 1, registers = 1;  ///< registers of lanes per row
};

/// The tile of a loop over rows around one over columns. With `sums`, each element adds up a product in a register:
/// the tile with the fewest cycles by a model of one multiply-add a cycle, four in flight, and loads of one register a
/// cycle or two single elements. Without, the tile is square where registers allow it, so that it can be transposed.
InnerTile pick_inner_tile(std::optional<std::int64_t> rows, std::optional<std::int64_t> columns, bool sums, int lanes,
                          int vector_registers);

}  // namespace ag::passes
