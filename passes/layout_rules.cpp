// How each op takes a permutation of the axes of its operands. An op without a row gets its operands as they were.
#include <algorithm>

#include "passes/layout_internal.hpp"

namespace ag::passes {
namespace {

using namespace ops;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

bool any_moved(const Layouts& l, const NodeView& n) {
  return std::any_of(n.node().operands.begin(), n.node().operands.end(), [&](ValueId v) { return l.is_moved(v); });
}

/// The order in which most elements of the operands of this rank lie. What any order suits has no say; of equals one
/// that is moved wins.
Order prevailing(const Layouts& l, const NodeView& n, std::size_t rank) {
  std::map<Order, double> votes;
  for (ValueId v : n.node().operands)
    if (v && l.old.type(v).shape.size() == rank && !l.at(v).light)
      votes[l.order(v)] += estimated(l.old.type(v).shape) * (l.is_moved(v) ? 1.01 : 1);
  Order best;
  double most = 0;
  for (const auto& [order, weight] : votes)
    if (weight > most) best = order, most = weight;
  if (best.empty()) best = l.hints[n.result().index];
  if (best.size() != rank) best = iota_ints(static_cast<std::int64_t>(rank));
  return best;
}

// ---- Maps -----------------------------------------------------------------------------------------------------

bool map_rule(Layouts& l, const NodeView& n) {
  Order order = prevailing(l, n, n.out().shape.size());
  if (is_identity(order)) return false;
  std::vector<ValueId> operands;
  for (ValueId v : n.node().operands) operands.push_back(v ? l.take_broadcast(v, order) : v);
  l.put(n, l.add(n, std::move(operands), n.attrs()), order);
  return true;
}

/// One operand, every attribute as it is: the result lies as the operand does.
bool same_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  l.put(n, l.add(n, {l.at(n.operand(0)).id}, n.attrs()), l.order(n.operand(0)));
  return true;
}

// ---- Movement ---------------------------------------------------------------------------------------------------

/// A transpose is only another way to look at what lies there.
bool transpose_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  Ints perm = attr_ints(n.attrs(), "perm");
  if (perm.size() != at(n.out().rank())) return false;
  l.put(n, l.at(n.operand(0)).id, moved(l.order(n.operand(0)), perm));
  return true;
}

template <class T>
void arrange(Attrs& a, std::string_view name, const Order& order) {
  a.set(std::string(name), arranged(a.get_or<std::vector<T>>(name, {}), order));
}

bool slice_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  const Order order = l.order(n.operand(0));
  Attrs a = n.attrs();
  arrange<Dim>(a, "start", order), arrange<Dim>(a, "limit", order), arrange<std::int64_t>(a, "stride", order);
  l.put(n, l.add(n, {l.at(n.operand(0)).id}, a), order);
  return true;
}

bool pad_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  const Order order = l.order(n.operand(0));
  Attrs a = n.attrs();
  arrange<Dim>(a, "low", order), arrange<Dim>(a, "high", order), arrange<std::int64_t>(a, "interior", order);
  l.put(n, l.add(n, {l.at(n.operand(0)).id, l.take(n.operand(1), {})}, a), order);
  return true;
}

bool rev_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  const Order order = l.order(n.operand(0));
  Attrs a = n.attrs();
  a.set("axes", moved(attr_ints(a, "axes"), order));
  l.put(n, l.add(n, {l.at(n.operand(0)).id}, a), order);
  return true;
}

/// Ops that run along one axis of operands of one shape: concat, running sums.
bool along_rule(Layouts& l, const NodeView& n) {
  const auto rank = static_cast<std::int64_t>(n.out().rank());
  const Order order = prevailing(l, n, at(rank));
  std::int64_t axis = attr_int(n.attrs(), "axis", 0);
  if (is_identity(order) || axis < -rank || axis >= rank) return false;
  Attrs a = n.attrs();
  a.set("axis", moved({axis < 0 ? axis + rank : axis}, order)[0]);
  std::vector<ValueId> operands;
  for (ValueId v : n.node().operands) operands.push_back(l.take(v, order));
  l.put(n, l.add(n, std::move(operands), a), order);
  return true;
}

/// The operand is read in its own order; the result lies as its users like.
bool broadcast_rule(Layouts& l, const NodeView& n) {
  const Order wish = l.hints[n.result().index], order = wish.empty() ? iota_ints(n.out().rank()) : wish;
  if (!l.is_moved(n.operand(0)) && is_identity(order)) return false;
  Attrs a = n.attrs();
  a.set("dims", moved(arranged(attr_ints(a, "dims"), l.order(n.operand(0))), order));
  a.set("shape", permuted(n.out().shape, order));
  l.put(n, l.add(n, {l.at(n.operand(0)).id}, a), order);
  return true;
}

/// Axes that a reshape splits or merges with each other, those of size 1 aside: the finest such pieces.
struct Piece {
  Order from, to;
};
std::vector<Piece> pieces(const Dims& from, const Dims& to) {
  std::vector<Piece> out;
  std::size_t i = 0, j = 0;
  while (i < from.size() || j < to.size()) {
    while (i < from.size() && from[i].is(1)) ++i;
    while (j < to.size() && to[j].is(1)) ++j;
    if (i == from.size() && j == to.size()) break;
    if (i == from.size() || j == to.size()) return {};
    Piece p{{static_cast<std::int64_t>(i)}, {static_cast<std::int64_t>(j)}};
    Dim a = from[i++], b = to[j++];
    while (a != b) {
      bool known = a.is_const() && b.is_const();
      if (i == from.size() && j == to.size()) return {};
      if (j == to.size() || (i < from.size() && known && a.value() < b.value()))
        p.from.push_back(static_cast<std::int64_t>(i)), a = a * from[i++];
      else if (i == from.size() || known)
        p.to.push_back(static_cast<std::int64_t>(j)), b = b * to[j++];
      else if (p.from.size() <= p.to.size())  // sizes that cannot be compared: on both sides in turn
        p.from.push_back(static_cast<std::int64_t>(i)), a = a * from[i++];
      else
        p.to.push_back(static_cast<std::int64_t>(j)), b = b * to[j++];
    }
    out.push_back(std::move(p));
  }
  return out;
}

/// Every axis of every piece: pieces as users of the result would like them, or else in the order of those of their
/// axes that lie innermost.
Order together(const std::vector<Piece>& all, const Order& order, const Order& wish) {
  const Order place = inverse(order), wished = inverse(wish);
  std::vector<const Piece*> sorted;
  for (const Piece& p : all) sorted.push_back(&p);
  auto key = [&](const Piece* p) {
    if (!wish.empty()) return wished[at(p->to[0])];
    std::int64_t last = 0;
    for (std::int64_t d : p->from) last = std::max(last, place[at(d)]);
    return last;
  };
  std::sort(sorted.begin(), sorted.end(), [&](auto* p, auto* q) { return key(p) < key(q); });
  Order out;
  for (const Piece* p : sorted) out.insert(out.end(), p->from.begin(), p->from.end());
  return out;
}

/// Whether each piece's axes lie together in memory, in their order.
bool lie_together(const std::vector<Piece>& all, const Order& left) {
  for (std::size_t i = 0; i < left.size();) {
    auto p = std::find_if(all.begin(), all.end(), [&](const Piece& q) { return q.from[0] == left[i]; });
    if (p == all.end()) return false;
    for (std::int64_t d : p->from)
      if (i == left.size() || left[i++] != d) return false;
  }
  return true;
}

/// Pieces are split and merged where they are. If a piece's axes do not lie together in memory, the operand is copied
/// such that they do: the shuffled channels of an image stay its innermost axis. Axes of size 1 of the result stand in
/// front.
bool reshape_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  const Dims &from = n.in(0).shape, &to = n.out().shape;
  for (const Dim& d : to)
    if (d.is(0)) return false;
  const std::vector<Piece> all = pieces(from, to);
  if (all.empty()) return false;
  Order ones, left, result;
  for (std::int64_t d : l.order(n.operand(0))) (from[at(d)].is(1) ? ones : left).push_back(d);
  ValueId x = l.at(n.operand(0)).id;
  if (!lie_together(all, left)) {
    left = together(all, l.order(n.operand(0)), l.hints[n.result().index]);
    if (std::is_sorted(left.begin(), left.end())) return false;
    Order order = ones;
    order.insert(order.end(), left.begin(), left.end());
    x = l.take_in_memory(n.operand(0), order);
  }
  for (std::size_t j = 0; j < to.size(); ++j) {
    auto d = static_cast<std::int64_t>(j);
    bool used = std::any_of(all.begin(), all.end(), [&](const Piece& p) { return contains(p.to, d); });
    if (!used) result.push_back(d);
  }
  for (std::int64_t d : left)
    for (const Piece& p : all)
      if (p.from[0] == d) result.insert(result.end(), p.to.begin(), p.to.end());
  if (result.size() != to.size()) return false;
  l.put(n, l.b.reshape(x, permuted(to, result)), result);
  return true;
}

// ---- Reductions and products --------------------------------------------------------------------------------------

bool reduce_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  const Order order = l.order(n.operand(0));
  const ReduceDesc d = n.node().op->reduce(n);
  Order axes(d.axes.begin(), d.axes.end()), result;
  for (std::int64_t axis : order) {
    if (contains(axes, axis)) continue;
    result.push_back(axis - std::count_if(axes.begin(), axes.end(), [&](std::int64_t x) { return x < axis; }));
  }
  Attrs a = n.attrs();
  Order to = moved(axes, order);
  std::sort(to.begin(), to.end());
  a.set("axes", to);
  l.put(n, l.add(n, {l.at(n.operand(0)).id}, a), result);
  return true;
}

/// A product reads its operands as they lie; the sum runs through the left one as it lies in memory.
bool dot_rule(Layouts& l, const NodeView& n) {
  if (!any_moved(l, n)) return false;
  const ContractionDesc d = n.node().op->contraction(n);
  const Order &left = l.order(n.operand(0)), &right = l.order(n.operand(1));
  auto ints = [](const std::vector<int>& v) { return Order(v.begin(), v.end()); };
  Order lb = ints(d.lhs_batch), rb = ints(d.rhs_batch), lc = moved(ints(d.lhs_contract), left),
        rc = moved(ints(d.rhs_contract), right), result = iota_ints(static_cast<std::int64_t>(lb.size()));
  std::vector<std::pair<std::int64_t, std::int64_t>> summed;
  for (std::size_t i = 0; i < lc.size(); ++i) summed.emplace_back(lc[i], rc[i]);
  std::sort(summed.begin(), summed.end());
  for (std::size_t i = 0; i < summed.size(); ++i) lc[i] = summed[i].first, rc[i] = summed[i].second;
  auto add_free = [&](const Order& order, const std::vector<int>& batch, const std::vector<int>& contract) {
    auto is_free = [&](std::int64_t axis) {
      auto in = [&](const std::vector<int>& v) { return std::find(v.begin(), v.end(), axis) != v.end(); };
      return !in(batch) && !in(contract);
    };
    const auto first = static_cast<std::int64_t>(result.size());
    for (std::int64_t axis : order) {
      if (!is_free(axis)) continue;
      std::int64_t before = 0;
      for (std::int64_t x = 0; x < axis; ++x) before += is_free(x) ? 1 : 0;
      result.push_back(first + before);
    }
  };
  add_free(left, d.lhs_batch, d.lhs_contract);
  add_free(right, d.rhs_batch, d.rhs_contract);
  ValueId y = l.b.dot_general(l.at(n.operand(0)).id, l.at(n.operand(1)).id, lc, rc, moved(lb, left), moved(rb, right));
  l.put(n, y, result);
  return true;
}

// ---- Gather --------------------------------------------------------------------------------------------------------

/// Where an axis was that is indexed, the axes of the indices come; the other axes stay.
bool gather_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  const Order order = l.order(n.operand(0));
  Attrs a = n.attrs();
  const Ints offset = attr_ints(a, "offset_dims"), collapsed = attr_ints(a, "collapsed_slice_dims"),
             batching = attr_ints(a, "operand_batching_dims");
  Order result, batch, places;
  for (std::int64_t d = 0; d < n.out().rank(); ++d)
    if (!contains(offset, d)) batch.push_back(d);
  bool put_batch = collapsed.empty() && batching.empty();
  if (put_batch) result = batch;
  for (std::int64_t axis : order) {
    if (contains(collapsed, axis) || contains(batching, axis)) {
      if (!put_batch) result.insert(result.end(), batch.begin(), batch.end());
      put_batch = true;
      continue;
    }
    std::int64_t which = 0;
    for (std::int64_t x = 0; x < axis; ++x) which += contains(collapsed, x) || contains(batching, x) ? 0 : 1;
    places.push_back(static_cast<std::int64_t>(result.size()));
    result.push_back(offset[at(which)]);
  }
  a.set("offset_dims", places);
  a.set("collapsed_slice_dims", moved(collapsed, order));
  a.set("operand_batching_dims", moved(batching, order));
  a.set("start_index_map", moved(attr_ints(a, "start_index_map"), order));
  arrange<Dim>(a, "slice_sizes", order);
  ValueId indices = l.take(n.operand(1), iota_ints(n.in(1).rank()));
  l.put(n, l.add(n, {l.at(n.operand(0)).id, indices}, a), result);
  return true;
}

// ---- Windows -------------------------------------------------------------------------------------------------------

/// A window over the last axes, where other axes lie behind the first of these in memory: those become axes of the
/// window too, with one tap and as many positions as they have elements.
struct Wider {
  Order lead, rest;  // old axes in front of the window's, and the window's with those between and behind
  Attrs attrs;
  std::size_t leads = 0;  // axes that are not the window's, all together

  /// `order` of a value [lead..., window axes...]. False if the window's axes do not ascend.
  bool read(const NodeView& n, const Order& order, std::size_t axes, const Dims& shape) {
    leads = shape.size() - axes;
    auto is_window = [&](std::int64_t d) { return at(d) >= leads; };
    auto first = std::find_if(order.begin(), order.end(), is_window);
    lead.assign(order.begin(), first), rest.assign(first, order.end());
    std::int64_t last = -1;
    for (std::int64_t d : rest) {
      if (is_window(d) && d < last) return false;
      if (is_window(d)) last = d;
    }
    attrs = n.attrs();
    widen<Dim>("low", 0), widen<std::int64_t>("strides", 1), widen<std::int64_t>("dilations", 1);
    if (attrs.get<Dims>("window")) widen<Dim>("window", 1);
    for (std::string_view sizes : {"count", "space"})
      if (attrs.get<Dims>(sizes)) {
        Dims old = attr_dims(attrs, sizes), wide;
        for (std::int64_t d : rest) wide.push_back(is_window(d) ? old[at(d) - leads] : shape[at(d)]);
        attrs.set(std::string(sizes), wide);
      }
    return true;
  }

  template <class T>
  void widen(std::string_view name, T otherwise) {
    std::vector<T> old = attrs.get_or<std::vector<T>>(name, {}), wide;
    for (std::int64_t d : rest) wide.push_back(at(d) >= leads ? old[at(d) - leads] : otherwise);
    attrs.set(std::string(name), wide);
  }

  Order whole() const {
    Order out = lead;
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
  }
};

bool unfold_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  const std::size_t axes = attr_dims(n.attrs(), "window").size();
  Wider w;
  if (!w.read(n, l.order(n.operand(0)), axes, n.in(0).shape)) return false;
  Order result = w.lead;
  for (std::size_t d = 0; d < axes; ++d) result.push_back(static_cast<std::int64_t>(w.leads + d));
  for (std::int64_t d : w.rest) result.push_back(at(d) >= w.leads ? d + static_cast<std::int64_t>(axes) : d);
  ValueId windows = l.add(n, {l.at(n.operand(0)).id}, w.attrs);
  l.put(n, l.b.reshape(windows, permuted(n.out().shape, result)), result);
  return true;
}

bool fold_rule(Layouts& l, const NodeView& n) {
  if (!l.is_moved(n.operand(0))) return false;
  const std::size_t axes = attr_dims(n.attrs(), "space").size(), leads = n.in(0).shape.size() - 2 * axes;
  Order order;  // of the result: as the positions lie
  for (std::int64_t d : l.order(n.operand(0)))
    if (at(d) < leads || at(d) >= leads + axes)
      order.push_back(at(d) < leads ? d : d - static_cast<std::int64_t>(axes));
  Wider w;
  if (!w.read(n, order, axes, n.out().shape)) return false;
  Order patches = w.lead;
  Dims shape = permuted(n.in(0).shape, w.lead);
  for (std::size_t d = 0; d < axes; ++d) patches.push_back(static_cast<std::int64_t>(leads + d));
  for (std::int64_t d : w.rest) {
    patches.push_back(at(d) >= leads ? d + static_cast<std::int64_t>(axes) : d);
    shape.push_back(at(d) >= leads ? n.in(0).shape[at(d)] : Dim(1));  // the taps
  }
  for (std::int64_t d : w.rest) shape.push_back(n.in(0).shape[at(d) >= leads ? at(d) + axes : at(d)]);
  ValueId x = l.b.reshape(l.take(n.operand(0), patches), shape);
  l.put(n, l.add(n, {x}, w.attrs), w.whole());
  return true;
}

/// window_gather and window_scatter: the number of a tap does not change, since the new axes have one tap each.
bool window_pick_rule(Layouts& l, const NodeView& n) {
  if (!any_moved(l, n)) return false;
  const Order order = prevailing(l, n, n.in(0).shape.size());
  const bool scatter = attr_dims(n.attrs(), "space").size() > 0;
  Wider w;
  if (is_identity(order) ||
      !w.read(n, order, attr_ints(n.attrs(), "strides").size(), scatter ? n.out().shape : n.in(0).shape))
    return false;
  l.put(n, l.add(n, {l.take(n.operand(0), order), l.take(n.operand(1), order)}, w.attrs), w.whole());
  return true;
}

// ---- Convolution ----------------------------------------------------------------------------------------------------

bool conv_rule(Layouts& l, const NodeView& n) {
  if (conv_layout_of(n.attrs()) == ConvLayout::channels_last) return false;
  const ConvRole role = conv_role_of(n.attrs());
  if (!prefers_channels_last(n, l.is_moved(n.operand(0)))) return false;
  std::vector<ValueId> operands;
  for (std::size_t i : {0u, 1u})
    operands.push_back(l.take(n.operand(i), channels_last_perm(conv_value(role, i), n.in(i).rank())));
  Attrs a = n.attrs();
  a.set("layout", std::string("channels_last"));
  l.put(n, l.add(n, std::move(operands), a), channels_last_perm(conv_value(role, 2), n.out().rank()));
  return true;
}

struct Row {
  std::string_view op;
  LayoutRule rule;
};
constexpr Row rows[] = {
    {"conv", conv_rule},
    {"transpose", transpose_rule},
    {"reshape", reshape_rule},
    {"broadcast_in_dim", broadcast_rule},
    {"slice", slice_rule},
    {"rev", rev_rule},
    {"pad", pad_rule},
    {"concat", along_rule},
    {"materialize", same_rule},
    {"dot_general", dot_rule},
    {"gather", gather_rule},
    {"unfold", unfold_rule},
    {"fold", fold_rule},
    {"window_gather", window_pick_rule},
    {"window_scatter", window_pick_rule},
    {"cumulative_sum", along_rule},
    {"cumulative_prod", along_rule},
    {"cumulative_max", along_rule},
    {"cumulative_min", along_rule},
    {"linear_recurrence", along_rule},
};

}  // namespace

LayoutRule layout_rule(const OpInfo& op) {
  if (op.lower_class == LowerClass::map) return map_rule;
  if (op.lower_class == LowerClass::reduce) return op.reduce ? reduce_rule : nullptr;
  for (const Row& row : rows)
    if (row.op == op.name) return row.rule;
  return nullptr;
}

Order hint_for(const NodeView& n, std::size_t i, const Order& order) {
  const OpInfo& op = *n.node().op;
  if (op.name == "conv" && prefers_channels_last(n, false))
    return channels_last_perm(conv_value(conv_role_of(n.attrs()), i), n.in(i).rank());
  bool follows = op.lower_class == LowerClass::map || op.name == "pad" || op.name == "slice" || op.name == "concat";
  return follows && n.in(i).shape.size() == order.size() ? order : Order{};
}

/// Fewer lanes than this are worth it only if the image would have to be transposed otherwise: lanes that are left
/// empty cost more than that from `few_taps` of them on.
constexpr std::int64_t enough_lanes = 8, few_taps = 24, all_lanes = 16;

bool prefers_channels_last(const NodeView& n, bool image_is_moved) {
  const ConvParts c = conv_parts(n);
  if (c.window.rank() == 0 || !c.groups.is_const() || !c.shapes.x[1].is_const() || !c.shapes.y[1].is_const())
    return false;
  const std::int64_t groups = c.groups.value(), in = c.shapes.x[1].value() / groups,
                     out = c.shapes.y[1].value() / groups;
  const std::int64_t lanes = in == 1 && groups > 1 && out <= 4 ? groups : c.role == ConvRole::input ? in : out;
  if (lanes >= enough_lanes) return true;
  return image_is_moved && estimated(c.window.taps) * static_cast<double>(all_lanes - lanes) < few_taps;
}

}  // namespace ag::passes
