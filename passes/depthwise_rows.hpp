// Rows of a depthwise convolution's result inside a kernel. The rows of the image that a window needs lie in scratch
// memory, a ring of [rows][pixels][channels of a panel] with zeros where the image ends, so that no tap is ever asked
// whether it lies inside. A row gets there when a window first touches it: copied, or computed there and then by the
// product in front (Group::before). Sums of a tile of neighbours stay in registers over all taps; a loaded pixel serves
// all the taps that it lies under.
//
// Every element is the sum of its terms in the order of taps, however the work is cut.
#pragma once
#include <functional>
#include <span>

#include "passes/depthwise_model.hpp"
#include "passes/own_kernel.hpp"

namespace ag::passes {

/// What the model has to know of a depthwise convolution whose image the nodes `before` make (none: it is in memory),
/// and the width that the columns of the product among them give to panels.
DepthwiseSizes depthwise_sizes(const Graph& g, NodeId id, std::span<const NodeId> before);
std::optional<std::int64_t> given_width(const Graph& g, std::span<const NodeId> before);

/// The first depthwise convolution of these nodes; their number if there is none.
std::size_t depthwise_among(const Graph& g, std::span<const NodeId> nodes);
/// How a product whose image a depthwise convolution among `before` makes is computed in one kernel with those; nothing
/// if that does not pay.
std::optional<BlockCut> block_cut(const Graph& g, NodeId product, std::span<const NodeId> before,
                                  const TargetSpec& target);

class DepthwiseRows {
 public:
  using LV = loop::ValueId;
  using LVs = loop::Builder::Values;
  using Int = std::int64_t;

  /// The convolution `id`, whose image the nodes `before` make.
  DepthwiseRows(OwnKernel& k, NodeId id, std::span<const NodeId> before, const TargetSpec& target);

  const DepthwiseDesc& desc() const { return d_; }
  const DepthwiseSizes& sizes() const { return sizes_; }
  Int height() const { return count_[0]; }  ///< of the result
  Int width() const { return count_[1]; }
  Int channels() const { return channels_; }
  Dim flops() const;

  /// Makes `rings` rings for panels of at most `width` channels.
  void allocate(Int width, Int rings);
  /// What a task makes: rows [begin, end) of the result of an image.
  struct Task {
    LV image, begin, end;
  };
  struct Panel {
    LV from;  ///< its first channel
    Int channels;
    LV ring;  ///< which one
  };
  /// Puts zeros beside the image. Once a task and ring.
  void start(const Panel& panel);
  /// Rows [first, end) of the result, which go on where the task's rows before them in the same ring ended: `sink`
  /// gets the index and the sum of each element.
  using Sink = std::function<void(const LVs& at, LV sum)>;
  void rows(const Task& task, const Panel& panel, LV first, LV end, const Sink& sink);
  /// The loops over a panel's channels, `width` at a time.
  void lanes(Int width, const std::function<void(LV)>& body);
  /// Panels of the ring's width, the last one of less: `body` for the one numbered `panel`.
  void with_panel(LV panel, LV ring, const std::function<void(const Panel&)>& body);
  Int panels() const { return (channels_ + width_ - 1) / width_; }

 private:
  OwnKernel& k_;
  const Graph& g_;
  NodeId id_;
  std::span<const NodeId> before_;
  loop::Builder& b_;
  DepthwiseDesc d_;
  DepthwiseSizes sizes_;
  const TargetSpec& target_;
  DType t_;
  Int lanes_, channels_;
  Int size_[2], count_[2], low_[2], reach_[2];
  Int pitch_;  // pixels of a row of the ring
  Int first_, last_;  // those of them that lie in the image
  Int width_ = 0;  // channels of a panel
  loop::BufferId ring_;
  Int rings_ = 1;
  Task task_;
  Panel panel_;

  LV operand(std::size_t i, std::span<const LV> index);
  void each(Int n, const std::function<void(LV)>& body);
  LV times(LV a, Int n) { return b_.mul(a, b_.index(n)); }
  LV plus(LV a, Int n) { return b_.add(a, b_.index(n)); }
  LV slot_of(LV row) { return b_.op(loop::Op::rem, {row, b_.index(reach_[0])}); }
  LV ring_at(LV slot, LV pixel, LV channel);
  void zeros(LV slot, Int from, Int to);
  void fill(LV row);
  void copy(LV h, LV slot);
  void compute(LV h, LV slot);
  void over(const Pieces& p, Int n, const std::function<void(LV)>& body);
  void sums(LV h, LV at, const Sink& sink);
  void taps(LV slot, LV i, LV pixel, LV c, LVs& sum);
};

}  // namespace ag::passes
