// Rules about elements that only move: what need not be gathered, padded or added to zeros.
#include <algorithm>

#include "passes/rewrite/pattern.hpp"

namespace ag::passes {
namespace {

using Ints = std::vector<std::int64_t>;

const Node* producer(GraphBuilder& b, ValueId v, std::string_view name) {
  const Node& n = b.graph().def(v);
  return n.op->name == name ? &n : nullptr;
}

/// A gather at one known place is a slice: of what it would copy, a view.
ValueId gather_to_slice(GraphBuilder& b, const Candidate& n) {
  auto ints = [&](const char* name) { return n.attrs.get_or<Ints>(name, {}); };
  const Type &x = b.type(n.operands[0]), &indices = b.type(n.operands[1]);
  Ints map = ints("start_index_map");
  if (map.size() != 1 || !indices.elems().is(1) || !ints("operand_batching_dims").empty()) return {};
  auto place = b.splat_value(n.operands[1]);
  Dims sizes = n.attrs.get_or<Dims>("slice_sizes", {}), start(sizes.size(), 0), limit = sizes;
  auto axis = static_cast<std::size_t>(map[0]);
  if (!place || sizes.size() != x.shape.size()) return {};
  const Dim last = x.shape[axis] - sizes[axis];
  if (!last.is_const() || *place < 0 || *place > static_cast<double>(last.value())) return {};
  start[axis] = Dim(static_cast<std::int64_t>(*place));
  limit[axis] = start[axis] + sizes[axis];
  return b.reshape(b.slice(n.operands[0], start, limit), n.type.shape);
}

/// What a scatter at one known place adds to zeros is padded with zeros: the gradient of such a gather. Exact but for
/// zeros' signs.
ValueId scatter_to_pad(GraphBuilder& b, const Candidate& n) {
  auto ints = [&](const char* name) { return n.attrs.get_or<Ints>(name, {}); };
  const Type &indices = b.type(n.operands[1]), &updates = b.type(n.operands[2]);
  const Ints map = ints("scatter_dims_to_operand_dims"), inserted = ints("inserted_window_dims");
  const std::string* kind = n.attrs.get<std::string>("kind");
  if (!kind || *kind != "add" || b.splat_value(n.operands[0]) != 0) return {};
  if (map.size() != 1 || !indices.elems().is(1) || !ints("input_batching_dims").empty()) return {};
  Dims window;  // the updates' axes of the window, in order, and an axis of one element for each inserted
  const Ints window_axes = ints("update_window_dims");
  auto next = window_axes.begin();
  for (std::size_t d = 0; d < n.type.shape.size(); ++d) {
    const bool one = std::find(inserted.begin(), inserted.end(), d) != inserted.end();
    if (!one && next == window_axes.end()) return {};
    window.push_back(one ? Dim(1) : updates.shape[static_cast<std::size_t>(*next++)]);
  }
  const auto place = b.splat_value(n.operands[1]);
  const auto axis = static_cast<std::size_t>(map[0]);
  const Dim last = n.type.shape[axis] - window[axis];
  if (!place || !last.is_const() || *place < 0 || *place > static_cast<double>(last.value())) return {};
  Dims low(window.size(), 0), high = low;
  low[axis] = Dim(static_cast<std::int64_t>(*place));
  high[axis] = last - low[axis];
  for (std::size_t d = 0; d < window.size(); ++d)
    if (d != axis && window[d] != n.type.shape[d]) return {};
  return b.add_op("pad", {b.reshape(n.operands[2], window), b.scalar(n.type.dtype, 0)},
                  {{"low", low}, {"high", high}, {"interior", Ints(window.size(), 0)}});
}

/// How far a `pad` node pads with zeros along its one padded axis; none if it does anything else.
struct Band {
  ValueId x;
  std::size_t axis = 0;
  Dim low, high;
};
std::optional<Band> band_of(GraphBuilder& b, const Node& n) {
  Dims low = n.attrs.get_or<Dims>("low", {}), high = n.attrs.get_or<Dims>("high", {});
  Ints interior = n.attrs.get_or<Ints>("interior", {});
  auto value = b.splat_value(n.operands[1]);
  if (!value || *value != 0 || std::any_of(interior.begin(), interior.end(), [](auto i) { return i != 0; })) return {};
  Band band{n.operands[0], low.size(), 0, 0};
  for (std::size_t d = 0; d < low.size(); ++d) {
    if (low[d].is(0) && high[d].is(0)) continue;
    if (band.axis != low.size() || !low[d].is_const() || !high[d].is_const()) return {};
    if (low[d].value() < 0 || high[d].value() < 0) return {};
    band.axis = d, band.low = low[d], band.high = high[d];
  }
  if (band.axis == low.size()) return {};
  return band;
}

ValueId drop_pad(GraphBuilder&, const Candidate& n) {
  Dims low = n.attrs.get_or<Dims>("low", {}), high = n.attrs.get_or<Dims>("high", {});
  Ints interior = n.attrs.get_or<Ints>("interior", {});
  auto none = [](const Dims& dims) {
    return std::all_of(dims.begin(), dims.end(), [](const Dim& d) { return d.is(0); });
  };
  bool plain = none(low) && none(high) && std::all_of(interior.begin(), interior.end(), [](auto i) { return i == 0; });
  return plain ? n.operands[0] : ValueId{};
}

/// Parts of an array, each padded with zeros and all added up, are one after another: gradients of slices. Exact but
/// for zeros' signs.
ValueId pads_to_concat(GraphBuilder& b, const Candidate& n) {
  constexpr std::size_t most = 64;
  std::vector<Band> bands;
  std::vector<ValueId> work(n.operands.begin(), n.operands.end());
  while (!work.empty()) {
    ValueId v = work.back();
    work.pop_back();
    if (b.type(v) != n.type || bands.size() > most) return {};
    if (const Node* sum = producer(b, v, "add")) {
      work.insert(work.end(), sum->operands.begin(), sum->operands.end());
    } else if (const Node* pad = producer(b, v, "pad")) {
      auto band = band_of(b, *pad);
      if (!band || (!bands.empty() && band->axis != bands[0].axis)) return {};
      bands.push_back(*band);
    } else {
      return {};
    }
  }
  std::sort(bands.begin(), bands.end(), [](const Band& x, const Band& y) { return x.low.value() < y.low.value(); });
  std::vector<ValueId> parts;
  Dim at = 0;
  const std::size_t axis = bands[0].axis;
  for (const Band& band : bands) {
    if (band.low != at) return {};
    parts.push_back(band.x);
    at = at + b.type(band.x).shape[axis];
  }
  if (at != n.type.shape[axis]) return {};
  return b.concat(parts, static_cast<std::int64_t>(axis));
}

}  // namespace

std::vector<RewriteRule> movement_rules() {
  auto rule = [](std::string_view name, Exactness e, std::string_view op,
                 ValueId (*apply)(GraphBuilder&, const Candidate&)) {
    RewriteRule r{.name = name, .exactness = e, .from = {}, .to = {}};
    r.from.kind = Pattern::Kind::op;
    r.from.op = std::string(op);
    r.apply = apply;
    return r;
  };
  return {rule("gather-to-slice", Exactness::exact, "gather", gather_to_slice),
          rule("scatter-to-pad", Exactness::algorithm, "scatter", scatter_to_pad),
          rule("drop-pad", Exactness::exact, "pad", drop_pad),
          rule("pads-to-concat", Exactness::algorithm, "add", pads_to_concat)};
}

}  // namespace ag::passes
