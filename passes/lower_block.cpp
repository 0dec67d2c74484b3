// A depthwise convolution, the product behind it, and what makes its image -> one kernel, scheduled here. A task owns a
// band of output rows of an image. A few of them at a time, all channels, are computed into scratch memory, panel by
// panel (depthwise_rows.hpp), and multiplied by all columns: neither the expanded image nor the convolution's result is
// anywhere in memory, and a thread reads nothing that another one made but the rows around its own.
#include <algorithm>

#include "passes/depthwise.hpp"
#include "passes/depthwise_rows.hpp"
#include "passes/lower_own.hpp"
#include "passes/pixel_product.hpp"

namespace ag::passes {
namespace {

using Int = std::int64_t;
using LV = loop::ValueId;
using LVs = loop::Builder::Values;

class BlockKernel {
 public:
  BlockKernel(const Graph& g, const Plan& plan, GroupId gid, const TargetSpec& target)
      : before_(plan.groups[gid].before),
        at_(depthwise_among(g, before_)),
        k_(g, plan, gid),
        b_(k_.builder()),
        rows_(k_, before_[at_], std::span(before_).first(at_), target),
        product_(k_, target, map_registers(rows_.sizes().map_cost)),
        t_(k_.type().dtype) {
    const auto cut = block_cut(g, k_.view().id, before_, target);
    AG_CHECK(cut.has_value(), "the block was not meant for one kernel");
    cut_ = *cut;
    band_ = (rows_.height() + cut_.bands - 1) / cut_.bands;
  }

  LoweredKernel run() {
    k_.read_before();
    k_.read(1);
    k_.members();
    const bool chunks = band_ > cut_.chunk;
    rows_.allocate(cut_.width, chunks ? (rows_.channels() + cut_.width - 1) / cut_.width : 1);
    scratch_ = b_.alloc(t_, cut_.chunk * rows_.width() * rows_.channels(), loop::Scope::scratch);
    const Dim tasks = rows_.desc().batch * Dim(cut_.bands);
    b_.kernel().tiles = tasks;
    stepped(b_, b_.index(0), b_.dim(tasks), {.mapping = loop::Mapping::tile}, [&](LV task) {
      b_.poll();
      LV band = take_digit(b_, task, cut_.bands), begin = b_.mul(band, b_.index(band_));
      LV end = least(b_.add(begin, b_.index(band_)), b_.index(rows_.height()));
      const DepthwiseRows::Task all{task, begin, end};
      if (!chunks) return rows(all, begin, end, true);
      panels([&](const DepthwiseRows::Panel& p) { rows_.start(p); });
      stepped(b_, begin, end, {.role = loop::AxisRole::batch, .width = static_cast<std::uint16_t>(cut_.chunk)},
              [&](LV first) { rows(all, first, least(b_.add(first, b_.index(cut_.chunk)), end), false); });
    });
    return k_.finish("dot_general", rows_.flops() + product_.flops());
  }

 private:
  const std::vector<NodeId>& before_;
  std::size_t at_;  // of the convolution in `before_`
  PixelKernel k_;
  loop::Builder& b_;
  DepthwiseRows rows_;
  PixelProduct product_;
  DType t_;
  BlockCut cut_{};
  Int band_ = 1;
  loop::BufferId scratch_;

  LV least(LV a, LV b) { return b_.op(loop::Op::min, {a, b}); }

  void panels(const std::function<void(const DepthwiseRows::Panel&)>& body) {
    stepped(b_, b_.index(0), b_.index(rows_.panels()), {}, [&](LV panel) { rows_.with_panel(panel, panel, body); });
  }

  /// Rows [first, end) of the result.
  void rows(const DepthwiseRows::Task& task, LV first, LV end, bool start) {
    panels([&](const DepthwiseRows::Panel& p) {
      if (start) rows_.start(p);
      rows_.rows(task, p, first, end, [&](const LVs& at, LV sum) {
        LV pixel = b_.add(b_.mul(b_.sub(at[1], first), b_.index(rows_.width())), at[2]);
        LV x = k_.element_of(before_[at_], sum, before_.back(), at);
        b_.store(scratch_, b_.add(b_.mul(pixel, b_.index(rows_.channels())), at[3]), x);
      });
    });
    product_.run(scratch_, task.image, first, b_.sub(end, first),
                 PixelProduct::rows_at_a_time(rows_.height(), band_, cut_.chunk), b_.index(0),
                 b_.index(product_.panels()));
  }
};

}  // namespace

std::size_t depthwise_among(const Graph& g, std::span<const NodeId> nodes) {
  const auto it = std::find_if(nodes.begin(), nodes.end(), [&](NodeId n) { return g.node(n).op->name == "depthwise"; });
  return static_cast<std::size_t>(it - nodes.begin());
}

std::optional<BlockCut> block_cut(const Graph& g, NodeId product, std::span<const NodeId> before,
                                  const TargetSpec& target) {
  const std::size_t at = depthwise_among(g, before);
  const Dims& y = g.type(g.node(product).result()).shape;
  return pick_block(depthwise_sizes(g, before[at], before.first(at)), given_width(g, before.first(at)),
                    {y[3].value(), product_panel(g, product, target)}, target);
}

Result<std::vector<LoweredKernel>> lower_block(const Graph& g, const Plan& plan, GroupId gid,
                                               const TargetSpec& target) {
  std::vector<LoweredKernel> kernels;
  kernels.push_back(BlockKernel(g, plan, gid, target).run());
  return kernels;
}

}  // namespace ag::passes
