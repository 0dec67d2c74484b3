// What is known of indices in a kernel that is being built: multiples, signs, distances.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>

#include "ir/loop/builder.hpp"

namespace ag::passes {

class IndexFacts {
 public:
  explicit IndexFacts(const loop::Builder& b) : b_(b) {}

  /// The index of a loop from `lo` on in steps of `step`.
  void add(loop::ValueId index, loop::ValueId lo, std::int64_t step) { indices_[index] = {lo, step}; }

  /// v modulo n, as far as loops' bounds and constant factors tell.
  std::optional<std::int64_t> residue(loop::ValueId v, std::int64_t n, int depth = 0) const;
  bool not_negative(loop::ValueId v, int depth = 0) const;

  /// hi - lo, as far as it is known.
  struct Extent {
    std::optional<std::int64_t> value;
    std::int64_t divisor = 1;  ///< hi - lo is a multiple of this
  };
  Extent extent(loop::ValueId lo, loop::ValueId hi) const;

 private:
  struct Range {
    loop::ValueId lo;
    std::int64_t step;
  };
  /// A sum of multiples of values.
  struct Linear {
    std::map<loop::ValueId, std::int64_t> terms;
    std::int64_t constant = 0;
  };
  const loop::Builder& b_;
  std::unordered_map<loop::ValueId, Range> indices_;

  bool floor_quotient(const loop::Stmt& s, int depth) const;
  bool at_least(loop::ValueId v, loop::ValueId low, int depth) const;
  bool linear(loop::ValueId v, std::int64_t scale, int depth, Linear& out) const;
};

}  // namespace ag::passes
