// What the parts of the CPU scheduler share: the nest of loops of one kernel, and the scheduled kernel that grows from
// it.
#pragma once
#include <functional>
#include <vector>

#include "passes/clone.hpp"
#include "passes/contraction_body.hpp"
#include "passes/contraction_model.hpp"
#include "passes/loop_nest.hpp"
#include "passes/moments.hpp"
#include "passes/pass.hpp"

namespace ag::passes {

/// Additions a tile should be worth: large against the cost of a call (tens of ns), small against a thread's share.
constexpr std::int64_t tile_work = 4096;

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

/// Sums along lanes: `few` rows or columns by `runs`, whose terms lie one after another and are read once. They wait in
/// scratch memory, from where the rest of the kernel takes them with columns along lanes.
class DotNest : public ContractionNest {
 public:
  using ContractionNest::ContractionNest;

 protected:
  /// Lowering asked for sums along lanes, of a known number of terms.
  bool along_lanes() const;
  /// The loops of both operands (no `few`: one row) and how they are cut; a task has `at_most` of the few.
  void begin_dots(const NestLoop* runs, const NestLoop* few, std::int64_t at_most, const DotBlocking& plan);
  /// The sums of runs [lo, hi).
  void add_dots(const KernelCloner& from, loop::ValueId lo, loop::ValueId hi);
  /// What is computed from them, and stored: rows one after the other.
  void rest_of_dots(const KernelCloner& from, loop::ValueId lo, loop::ValueId hi);

 private:
  const NestLoop *runs_ = nullptr, *few_ = nullptr;
  DotBlocking dots_;
  loop::BufferId sums_;  // of a task, [rows][columns]
  std::int64_t at_most_ = 1;

  loop::ValueId place(loop::ValueId run, loop::ValueId few);
  int sum_lanes() const;
  void over_few(const std::function<void(loop::ValueId first, std::int64_t count)>& some);
  loop::Builder::Values dots(const KernelCloner& from, loop::ValueId first, std::int64_t count, loop::ValueId run);
  loop::Builder::Values terms(const std::vector<KernelCloner>& cells, loop::ValueId k,
                              const loop::Builder::Values& carried);
};

/// Sums of products along lanes, where lowering asked for them; nothing otherwise.
std::optional<loop::Kernel> schedule_dots(const loop::Kernel& kernel, const TargetSpec& target);

/// Long sums that share operands, some side by side; nothing where the kernel is no such sum.
std::optional<loop::Kernel> schedule_sums(const loop::Kernel& kernel, const TargetSpec& target);

/// Register tiles and panels for a contraction: a nest of sized loops, rows and columns among them.
loop::Kernel schedule_contraction(const loop::Kernel& kernel, const TargetSpec& target);

/// Passes over rows as a pipeline, where the kernel is such and gains by it.
std::optional<loop::Kernel> schedule_pipeline(const loop::Kernel& kernel, const TargetSpec& target);

}  // namespace ag::passes
