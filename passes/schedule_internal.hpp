// What the parts of the CPU scheduler share: the nest of loops of one kernel, and the scheduled kernel that grows from
// it.
#pragma once
#include <functional>
#include <vector>

#include "passes/clone.hpp"
#include "passes/contraction_body.hpp"
#include "passes/loop_nest.hpp"
#include "passes/moments.hpp"
#include "passes/pass.hpp"

namespace ag::passes {

/// Elements along a side of the blocks that are turned in registers: larger ones take more instructions an element, and
/// much longer to compile.
constexpr int turned_block = 8;

class CpuNest {
 public:
  CpuNest(const loop::Kernel& kernel, const TargetSpec& target);

  /// Sums of products with columns for lanes, all sizes known.
  bool is_contraction() const;

 protected:
  const loop::Kernel& k_;
  const TargetSpec& target_;
  loop::Builder b_;
  KernelCloner clone_;
  LoopNest nest_;
  const NestLoop *col_ = nullptr, *row_ = nullptr;  // loops of lanes and of rows of a register tile
  std::vector<const NestLoop*> outer_;  // the others, outermost first
  Moments moments_;  // of rows: of a nest without columns

  bool all_sized() const;
  /// Declares buffers, dims, sizes and strides in the new kernel.
  void begin();
  loop::Kernel finish();
  /// Index arithmetic between the loops, then the innermost block.
  void body();
  /// Bytes of the elements that decide how many fit into a register.
  std::size_t element_bytes() const;
  int lanes() const { return target_.lanes(element_bytes()); }
  /// Lanes of a loop: up to `registers` full registers, no more than the size needs.
  int width_for(const std::optional<Dim>& size, int registers) const;
  void vector_loop(loop::ValueId lo, loop::ValueId hi, int width, const std::function<void(loop::ValueId)>& step);
  /// Iterations of the outer loops together.
  Dim outer_size() const;
  /// The kernel's loop over `count` tiles, which threads share.
  void tiles(const Dim& count, const std::function<void(loop::ValueId)>& step);
  /// Sets the outer loops' indices from a flat one, the last loop fastest.
  void decode(loop::ValueId flat);
};

/// A nest around the loops of one contraction.
class ContractionNest : public CpuNest {
 public:
  using CpuNest::CpuNest;

 protected:
  ContractionBody body_;

  /// Declares what `begin` does, and makes loops that threads would share serial wherever they are cloned.
  void begin_contraction();
  /// The nest's index arithmetic and body; with `sum`, that stands for the contracted loops.
  void nest_body(KernelCloner& c, const std::function<void()>& sum);
  /// What stands before the contracted loops.
  void before_sum(KernelCloner& c);
};

/// Sums of products along lanes, where lowering asked for them; nothing otherwise.
std::optional<loop::Kernel> schedule_dots(const loop::Kernel& kernel, const TargetSpec& target);

/// Register tiles and panels for a contraction: a nest of sized loops, rows and columns among them.
loop::Kernel schedule_contraction(const loop::Kernel& kernel, const TargetSpec& target);

/// Passes over rows as a pipeline, where the kernel is such and gains by it.
std::optional<loop::Kernel> schedule_pipeline(const loop::Kernel& kernel, const TargetSpec& target);

}  // namespace ag::passes
