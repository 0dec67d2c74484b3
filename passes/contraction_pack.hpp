// Copies of a contraction's columns into scratch memory, in the order in which register tiles read them.
#pragma once
#include <functional>

#include "passes/clone.hpp"
#include "passes/contraction_body.hpp"
#include "passes/contraction_model.hpp"

namespace ag::passes {

/// Steps of depth at work: [lo, hi) of contracted loop `loop`, for one iteration of those around it and all of those
/// inside.
struct DepthRange {
  std::size_t loop;
  loop::ValueId lo, hi;
  std::int64_t multiple = 1;  ///< of which hi - lo is one
};

/// How the operand lies that `loads` read, for panels of `width` columns.
OperandLayout columns_layout(const loop::Kernel& k, const IndexSteps& steps, const std::vector<loop::StmtId>& loads,
                             const NestLoop& col, const ContractionBody& body, int width);

/// Panels of columns, [columns / width][depth][width].
class PackedColumns {
 public:
  void add(const loop::Kernel& k, const std::vector<loop::StmtId>& loads, const IndexSteps& steps, const NestLoop& col,
           const ContractionBody& body, int width, int lanes);
  /// `depth` steps and `panels` panels at a time.
  void allocate(loop::Builder& b, const Dim& depth, std::int64_t panels);

  /// Copies the columns [n_lo, n_hi): whole panels, or less than one.
  void pack(loop::Builder& b, const KernelCloner& c, const DepthRange& range, loop::ValueId n_lo,
            loop::ValueId n_hi) const;
  /// From now on `c` reads the copies. It must outlive its use.
  void read(loop::Builder& b, KernelCloner& c, const DepthRange& range, loop::ValueId n_lo) const;
  /// Asks for the lines of the panel after that at `n_lo` that are row `row`'s: `share` steps of depth. They are
  /// touched by the next copy alone, which waits for the shared cache or memory otherwise.
  void ask_next(loop::Builder& b, const KernelCloner& c, loop::ValueId row, std::int64_t share,
                loop::ValueId n_lo) const;

 private:
  enum class Way : std::uint8_t { contiguous, transposed, scattered };
  struct Panel {
    loop::StmtId load;
    Way way = Way::contiguous;
    Dim column_step;  // elements between columns
    loop::BufferId scratch;
  };
  std::vector<Panel> columns_;
  const loop::Kernel* k_ = nullptr;
  const ContractionBody* body_ = nullptr;
  const NestLoop* col_ = nullptr;
  int width_ = 0, lanes_ = 0;
  Dim depth_;  // steps of a panel of columns that its copy has room for
  std::int64_t panels_ = 1;

  using Innermost = std::function<void(KernelCloner& c, loop::ValueId lo, loop::ValueId hi)>;
  loop::ValueId extent(loop::Builder& b, std::size_t loop) const { return b.dim(body_->extents[loop]); }
  void over_depth(loop::Builder& b, const KernelCloner& c, const DepthRange& range, std::size_t loop,
                  const Innermost& body) const;
  loop::ValueId depth_index(loop::Builder& b, KernelCloner& c, const DepthRange& range) const;
  loop::ValueId column_index(loop::Builder& b, KernelCloner& c, const DepthRange& range, loop::ValueId column) const;
  void ask(loop::Builder& b, const Panel& p, KernelCloner at, loop::ValueId step, loop::ValueId n_lo,
           std::int64_t columns) const;
  void copy(loop::Builder& b, const Panel& p, KernelCloner& c, const DepthRange& range, loop::ValueId n_lo,
            loop::ValueId n_hi, loop::ValueId lo, loop::ValueId hi) const;
  void transpose(loop::Builder& b, const Panel& p, KernelCloner& c, const DepthRange& range, loop::ValueId n_lo,
                 loop::ValueId n_hi, loop::ValueId lo, loop::ValueId hi) const;
  void gather(loop::Builder& b, const Panel& p, KernelCloner& c, const DepthRange& range, loop::ValueId n_lo,
              loop::ValueId n_hi, loop::ValueId lo, loop::ValueId hi) const;
};

}  // namespace ag::passes
