#include "frontend/onnx/legalise.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "frontend/onnx/legalise_ops.hpp"
#include "ir/check.hpp"
#include "ir/rebuild.hpp"

namespace ag::onnx {
using namespace ops;
namespace {

constexpr int max_rounds = 64;    ///< of decomposition
constexpr int max_depth = 64;     ///< of regions

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Expr expand_to_shape(Expr x, const Dims& shape) {
  if (x.type().shape == shape) return x;
  return onnx(x.builder(), "Expand", {x, size_vector(x.builder(), shape)});
}

}  // namespace

Expr onnx(Builder& b, std::string_view type, std::vector<ValueId> operands, Attrs attrs) {
  const OpInfo* found = op_table().find_onnx("", type, std::max(least_opset, b.graph().opset));
  AG_CHECK(found, "an operator of ONNX that is not in the table");
  return {b, b.add_op(found->name, std::move(operands), std::move(attrs))};
}

/// ONNX's Reshape takes 0 for "as it was" unless allowzero is set.
Expr reshape_to(Expr x, const Dims& shape) {
  if (x.type().shape == shape) return x;
  bool zero = std::ranges::any_of(shape, [](const Dim& d) { return !d.is_const() || d.is(0); });
  Attrs attrs;
  if (zero) attrs.set("allowzero", std::int64_t{1});
  return onnx(x.builder(), "Reshape", {x, size_vector(x.builder(), shape)}, std::move(attrs));
}
Expr permute(Expr x, const Ints& perm) {
  if (std::ranges::is_sorted(perm)) return x;
  return onnx(x.builder(), "Transpose", {x}, {{"perm", perm}});
}

/// Operand axes in the order of the result's, ones where the result has new axes, then Expand.
Expr broadcast(Expr x, const Dims& shape, const Ints& dims) {
  Ints order = iota_ints(static_cast<std::int64_t>(dims.size()));
  std::ranges::sort(order, {}, [&](std::int64_t i) { return dims[at(i)]; });
  Dims with_ones(shape.size(), Dim(1));
  for (std::size_t i = 0; i < dims.size(); ++i) with_ones[at(dims[i])] = x.type().shape[i];
  return expand_to_shape(reshape_to(permute(x, order), with_ones), shape);
}
Expr slice_of(Expr x, const Dims& start, const Dims& limit, const Ints& stride) {
  Builder& b = x.builder();
  Ints axes = iota_ints(static_cast<std::int64_t>(start.size()));
  return onnx(b, "Slice", {x, size_vector(b, start), size_vector(b, limit), b.ints(axes), b.ints(stride)});
}
Expr ramp(Builder& b, const Dim& n) {
  return onnx(b, "Range", {b.scalar_int(DType::i64, 0), size_value(b, n, DType::i64), b.scalar_int(DType::i64, 1)});
}
namespace {

std::vector<ValueId> reshape(Builder& b, const View& n) { return {reshape_to(Expr(b, n.operand(0)), n.out().shape)}; }

std::vector<ValueId> broadcast_in_dim(Builder& b, const View& n) {
  return {broadcast(Expr(b, n.operand(0)), Dims(n.out().shape), attr_ints(n.attrs(), "dims"))};
}

std::vector<ValueId> slice(Builder& b, const View& n) {
  return {slice_of(Expr(b, n.operand(0)), attr_dims(n.attrs(), "start"), attr_dims(n.attrs(), "limit"),
                   attr_ints(n.attrs(), "stride"))};
}

std::vector<ValueId> reverse(Builder& b, const View& n) {
  Ints axes = attr_ints(n.attrs(), "axes"), last(axes.size(), -1), step(axes.size(), -1),
       first(axes.size(), std::numeric_limits<std::int64_t>::min());
  return {onnx(b, "Slice", {n.operand(0), b.ints(last), b.ints(first), b.ints(axes), b.ints(step)})};
}

/// Interior padding is an axis of its own: a column of elements, then columns of the value, read row by row.
Expr pad_between(Expr x, ValueId value, const Ints& interior) {
  Builder& b = x.builder();
  for (std::size_t d = 0; d < interior.size(); ++d) {
    if (interior[d] == 0) continue;
    Dims shape = x.type().shape, apart = with_unit_axis(shape, d + 1);
    Ints pads(2 * apart.size(), 0);
    pads[apart.size() + d + 1] = interior[d];
    Expr wide = onnx(b, "Pad", {reshape_to(x, apart), b.ints(pads), value});
    Dims joined = shape, limit = shape;
    joined[d] = shape[d] * Dim(interior[d] + 1);
    limit[d] = max(joined[d] - Dim(interior[d]), Dim(0));
    x = slice_of(
        reshape_to(wide, joined), Dims(shape.size(), Dim(0)),
        [&] {
          Dims l = joined;
          l[d] = limit[d];
          return l;
        }(),
        Ints(shape.size(), 1));
  }
  return x;
}
std::vector<ValueId> pad(Builder& b, const View& n) {
  ValueId value = n.operand(1);
  Expr x = pad_between(Expr(b, n.operand(0)), value, attr_ints(n.attrs(), "interior"));
  Dims pads = attr_dims(n.attrs(), "low"), high = attr_dims(n.attrs(), "high");
  pads.insert(pads.end(), high.begin(), high.end());
  if (std::ranges::all_of(pads, [](const Dim& d) { return d.is(0); })) return {x};
  return {onnx(b, "Pad", {x, size_vector(b, pads), value})};
}

std::vector<ValueId> iota(Builder& b, const View& n) {
  std::int64_t axis = attr_int(n.attrs(), "axis", 0);
  Type t = n.out();
  return {broadcast(ramp(b, t.shape[at(axis)]).to(t.dtype), t.shape, {axis})};
}

template <const char* type>
std::vector<ValueId> reduction(Builder& b, const View& n) {
  Ints axes = attr_ints(n.attrs(), "axes");
  if (axes.empty()) return {onnx(b, "Identity", {n.operand(0)})};
  return {onnx(b, type, {n.operand(0), b.ints(axes)}, {{"keepdims", std::int64_t{0}}})};
}
constexpr char sum_name[] = "ReduceSum", max_name[] = "ReduceMax", min_name[] = "ReduceMin", prod_name[] = "ReduceProd";

/// all and any: the least and the greatest of 0 and 1.
template <const char* type>
std::vector<ValueId> reduce_bools(Builder& b, const View& n) {
  Ints axes = attr_ints(n.attrs(), "axes");
  if (axes.empty()) return {onnx(b, "Identity", {n.operand(0)})};
  Expr whole = Expr(b, n.operand(0)).to(DType::i32);
  // Of no elements the extremum is the least or the greatest number, neither of which a mere conversion would tell.
  Expr best = onnx(b, type, {whole, b.ints(axes)}, {{"keepdims", std::int64_t{0}}});
  return {onnx(b, "Greater", {best, b.scalar_int(DType::i32, 0)})};
}

/// The axes that are summed follow from the sizes, at run time where these are symbols.
std::vector<ValueId> sum_to_shape(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  Dims from = x.type().shape, to = n.out().shape;
  std::size_t extra = from.size() - to.size();
  Ints axes = iota_ints(static_cast<std::int64_t>(extra));
  bool known = true;
  for (std::size_t d = 0; d < to.size(); ++d) {
    if (from[extra + d] == to[d]) continue;
    known = known && to[d].is(1);
    axes.push_back(static_cast<std::int64_t>(extra + d));
  }
  Attrs keep{{"keepdims", std::int64_t{1}}, {"noop_with_empty_axes", std::int64_t{1}}};
  ValueId which = b.ints(axes);
  if (!known) {
    Dims aligned(extra, Dim(1));
    aligned.insert(aligned.end(), to.begin(), to.end());
    Expr differ = onnx(b, "Not", {onnx(b, "Equal", {size_vector(b, from), size_vector(b, aligned)})});
    which = onnx(b, "Squeeze", {onnx(b, "NonZero", {differ}), b.ints(Ints{0})});
  } else if (axes.empty()) {
    return {onnx(b, "Identity", {x})};
  }
  return {reshape_to(onnx(b, "ReduceSum", {x, which}, keep), to)};
}

/// MatMul for two matrices, else Einsum: result axes are batch, free left, free right.
std::vector<ValueId> dot_general(Builder& b, const View& n) {
  Ints lc = attr_ints(n.attrs(), "lhs_contract"), rc = attr_ints(n.attrs(), "rhs_contract"),
       lb = attr_ints(n.attrs(), "lhs_batch"), rb = attr_ints(n.attrs(), "rhs_batch");
  Expr x(b, n.operand(0)), y(b, n.operand(1));
  auto rank = [](Expr e) { return at(e.type().rank()); };
  if (lb.empty() && lc.size() == 1 && rank(x) == 2 && rank(y) == 2) {
    if (lc[0] == 0) x = permute(x, {1, 0});
    if (rc[0] == 1) y = permute(y, {1, 0});
    return {onnx(b, "MatMul", {x, y})};
  }
  std::string left(rank(x), '\0'), right(rank(y), '\0'), out;
  char next = 'a';
  for (std::size_t i = 0; i < lb.size(); ++i) out += left[at(lb[i])] = right[at(rb[i])] = next++;
  for (std::size_t i = 0; i < lc.size(); ++i) left[at(lc[i])] = right[at(rc[i])] = next++;
  for (std::string* side : {&left, &right})
    for (char& c : *side)
      if (!c) out += c = next++;
  return {onnx(b, "Einsum", {x, y}, {{"equation", left + "," + right + "->" + out}})};
}

// ---- gather and scatter: flat operand, flat places ------------------------------------------------------------

struct Windows {
  Ints offset, collapsed, batching, indices_batching, index_map;
  std::int64_t vector_dim;
};

/// The flat place in the operand of every element of the windowed value (gather's result, scatter's updates).
Expr flat_places(Builder& b, const Dims& operand, Expr indices, const Windows& w, const Dims& windowed) {
  Dims strides(operand.size(), Dim(1));
  for (std::size_t d = operand.size(); d-- > 1;) strides[d - 1] = strides[d] * operand[d];
  Ints batch;  // axes of `windowed` that are axes of the indices
  for (std::size_t d = 0; d < windowed.size(); ++d)
    if (!contains(w.offset, static_cast<std::int64_t>(d))) batch.push_back(static_cast<std::int64_t>(d));
  Expr places = broadcast(Expr(b, b.scalar_int(DType::i64, 0)), windowed, {});
  auto add = [&](Expr part, std::size_t operand_axis, const Ints& axes) {
    Expr scaled = onnx(b, "Mul", {part, size_value(b, strides[operand_axis], DType::i64)});
    places = onnx(b, "Add", {places, broadcast(scaled, windowed, axes)});
  };
  Dims rest = indices.type().shape;
  bool vectors = w.vector_dim < indices.type().rank();
  for (std::size_t k = 0; k < w.index_map.size(); ++k) {
    Expr one = indices;
    if (vectors) {
      one = onnx(b, "Gather", {indices, b.scalar_int(DType::i64, static_cast<std::int64_t>(k))},
                 {{"axis", w.vector_dim}});
    }
    add(one.to(DType::i64), at(w.index_map[k]), batch);
  }
  for (std::size_t k = 0; k < w.batching.size(); ++k) {
    std::int64_t axis = w.indices_batching[k];
    std::int64_t position = axis - (w.vector_dim < axis ? 1 : 0);
    add(ramp(b, operand[at(w.batching[k])]), at(w.batching[k]), {batch[at(position)]});
  }
  std::size_t next = 0;
  for (std::size_t d = 0; d < operand.size(); ++d) {
    auto axis = static_cast<std::int64_t>(d);
    if (contains(w.collapsed, axis) || contains(w.batching, axis)) continue;
    std::int64_t in = w.offset[next++];
    add(ramp(b, windowed[at(in)]), d, {in});
  }
  return places;
}

std::vector<ValueId> gather(Builder& b, const View& n) {
  const Attrs& a = n.attrs();
  Windows w{attr_ints(a, "offset_dims"),           attr_ints(a, "collapsed_slice_dims"),
            attr_ints(a, "operand_batching_dims"), attr_ints(a, "start_indices_batching_dims"),
            attr_ints(a, "start_index_map"),       attr_int(a, "index_vector_dim", 0)};
  Expr x(b, n.operand(0)), indices(b, n.operand(1));
  Dims from = x.type().shape, to = n.out().shape;
  // Whole slices along one axis are ONNX's Gather.
  Dims sizes = attr_dims(a, "slice_sizes");
  std::int64_t q = indices.type().rank();
  bool simple = w.index_map.size() == 1 && w.collapsed == w.index_map && w.batching.empty() && w.vector_dim == q;
  std::int64_t axis = simple ? w.index_map[0] : 0;
  Ints offset;
  for (std::int64_t d = 0; d < x.type().rank(); ++d)
    if (d != axis) offset.push_back(d < axis ? d : d - 1 + q);
  for (std::size_t d = 0; d < from.size() && simple; ++d)
    simple = static_cast<std::int64_t>(d) == axis || sizes[d] == from[d];
  if (simple && w.offset == offset) return {onnx(b, "Gather", {x, indices}, {{"axis", axis}})};
  Expr places = flat_places(b, from, indices, w, to);
  return {onnx(b, "Gather", {reshape_to(x, {product(from)}), places}, {{"axis", std::int64_t{0}}})};
}

std::vector<ValueId> scatter(Builder& b, const View& n) {
  const Attrs& a = n.attrs();
  Windows w{attr_ints(a, "update_window_dims"),           attr_ints(a, "inserted_window_dims"),
            attr_ints(a, "input_batching_dims"),          attr_ints(a, "scatter_indices_batching_dims"),
            attr_ints(a, "scatter_dims_to_operand_dims"), attr_int(a, "index_vector_dim", 0)};
  Expr x(b, n.operand(0)), updates(b, n.operand(2));
  Dims shape = x.type().shape, windowed = updates.type().shape;
  Expr places = flat_places(b, shape, Expr(b, n.operand(1)), w, windowed);
  std::string kind = attr_string(a, "kind", "set");
  Attrs attrs{{"axis", std::int64_t{0}}};
  if (kind != "set") attrs.set("reduction", kind);
  Dims flat{product(windowed)};
  Expr out = onnx(b, "ScatterElements",
                  {reshape_to(x, {product(shape)}), reshape_to(places, flat), reshape_to(updates, flat)}, attrs);
  return {reshape_to(out, shape)};
}

// ---- Elementwise ----------------------------------------------------------------------------------------------

std::vector<ValueId> cumulative_sum(Builder& b, const View& n) {
  ValueId axis = b.scalar_int(DType::i64, attr_int(n.attrs(), "axis", 0));
  auto flag = [&](std::string_view name) { return std::int64_t{n.attrs().get_or<bool>(name, false)}; };
  return {onnx(b, "CumSum", {n.operand(0), axis}, {{"reverse", flag("reverse")}, {"exclusive", flag("exclusive")}})};
}

using Formula = Expr (*)(Expr x, Expr y);
template <Formula f>
std::vector<ValueId> formula(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  return {f(x, n.operand_count() > 1 ? Expr(b, n.operand(1)) : x)};
}
Expr mul(Expr x, Expr y) { return onnx(x.builder(), "Mul", {x, y}); }
Expr add(Expr x, Expr y) { return onnx(x.builder(), "Add", {x, y}); }
Expr sub(Expr x, Expr y) { return onnx(x.builder(), "Sub", {x, y}); }
Expr un(std::string_view type, Expr x) { return onnx(x.builder(), type, {x}); }
Expr bi(std::string_view type, Expr x, Expr y) { return onnx(x.builder(), type, {x, y}); }

Expr truncated(Expr x) { return mul(un("Sign", x), un("Floor", un("Abs", x))); }
Expr remainder(Expr x, Expr y) { return onnx(x.builder(), "Mod", {x, y}, {{"fmod", std::int64_t{1}}}); }
Expr cube_root(Expr x) { return mul(un("Sign", x), bi("Pow", un("Abs", x), x.lit(1.0 / 3))); }
/// The angle from atan(y/x), moved by pi to the left half plane; 0 in the origin.
Expr angle(Expr y, Expr x) {
  constexpr double pi = 3.14159265358979323846;
  auto pick = [](Expr c, Expr p, Expr q) { return onnx(c.builder(), "Where", {c, p, q}); };
  Expr zero = x.lit(0), base = un("Atan", bi("Div", y, x));
  Expr half = pick(bi("Less", y, zero), x.lit(-pi / 2), pick(bi("Greater", y, zero), x.lit(pi / 2), zero));
  Expr turn = pick(bi("Less", y, zero), x.lit(-pi), x.lit(pi));
  Expr left = pick(bi("Less", x, zero), add(base, turn), base);
  return pick(bi("Equal", x, zero), half, left);
}
Expr shifted(Expr x, Expr y, const char* direction) {
  return onnx(x.builder(), "BitShift", {x, y}, {{"direction", std::string(direction)}});
}

const std::pair<std::string_view, Rewrite> rewrites[] = {
    {"reshape", reshape},
    {"broadcast_in_dim", broadcast_in_dim},
    {"slice", slice},
    {"rev", reverse},
    {"pad", pad},
    {"iota", iota},
    {"reduce_sum", reduction<sum_name>},
    {"reduce_max", reduction<max_name>},
    {"reduce_min", reduction<min_name>},
    {"reduce_prod", reduction<prod_name>},
    {"reduce_and", reduce_bools<min_name>},
    {"reduce_or", reduce_bools<max_name>},
    {"sum_to_shape", sum_to_shape},
    {"dot_general", dot_general},
    {"gather", gather},
    {"scatter", scatter},
    {"cumulative_sum", cumulative_sum},
    {"square", formula<[](Expr x, Expr) { return mul(x, x); }>},
    {"rsqrt", formula<[](Expr x, Expr) { return un("Reciprocal", un("Sqrt", x)); }>},
    {"cbrt", formula<[](Expr x, Expr) { return cube_root(x); }>},
    {"exp2", formula<[](Expr x, Expr) { return bi("Pow", x.lit(2), x); }>},
    {"expm1", formula<[](Expr x, Expr) { return sub(un("Exp", x), x.lit(1)); }>},
    {"log2", formula<[](Expr x, Expr) { return mul(un("Log", x), x.lit(1.4426950408889634)); }>},
    {"log1p", formula<[](Expr x, Expr) { return un("Log", add(x, x.lit(1))); }>},
    {"erfc", formula<[](Expr x, Expr) { return sub(x.lit(1), un("Erf", x)); }>},
    {"trunc", formula<[](Expr x, Expr) { return truncated(x); }>},
    {"ne", formula<[](Expr x, Expr y) { return un("Not", bi("Equal", x, y)); }>},
    {"rem", formula<[](Expr x, Expr y) { return remainder(x, y); }>},
    {"pow", formula<[](Expr x, Expr y) { return bi("Pow", x, y); }>},
    {"max", formula<[](Expr x, Expr y) { return bi("Max", x, y); }>},
    {"min", formula<[](Expr x, Expr y) { return bi("Min", x, y); }>},
    {"atan2", formula<[](Expr y, Expr x) { return angle(y, x); }>},
    {"shift_left", formula<[](Expr x, Expr y) { return shifted(x, y, "LEFT"); }>},
    {"shift_right", formula<[](Expr x, Expr y) { return shifted(x, y, "RIGHT"); }>},
    {"materialize", formula<[](Expr x, Expr) { return un("Identity", x); }>},
    {"unfold", rewrite_unfold},
    {"fold", rewrite_fold},
    {"window_gather", rewrite_window_gather},
    {"window_scatter", rewrite_window_scatter},
    {"conv", rewrite_conv},
    {"argsort", rewrite_argsort},
    {"searchsorted", rewrite_searchsorted},
    {"cumulative_prod", rewrite_scan},
    {"cumulative_max", rewrite_scan},
    {"cumulative_min", rewrite_scan},
    {"linear_recurrence", rewrite_scan},
    {"StopGradient", formula<[](Expr x, Expr) { return un("Identity", x); }>},
};

Rewrite find_rewrite(const OpInfo& op) {
  for (const auto& [name, rewrite] : rewrites)
    if (name == op.name) return rewrite;
  return nullptr;
}

/// Inputs, constants and sizes are no nodes of ONNX; the writer knows them.
bool is_source(const OpInfo& op) { return op.name == "input" || op.name == "constant" || op.name == "dims"; }

bool is_legal(const Graph& g, int opset, int depth = 0) {
  if (depth > max_depth) return true;
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    if (!is_source(*n.op) && !is_spelled(*n.op, opset)) return false;
    for (const GraphPtr& r : n.regions)
      if (!is_legal(*r, opset, depth + 1)) return false;
  }
  return true;
}

/// One round: every node that is not spelled is replaced once; what replaces it may need a round of its own.
class Round {
 public:
  Round(const Graph& from, int opset, int depth) : from_(from), opset_(opset), depth_(depth) {}

  Result<Graph> run() {
    out_ = empty_like(from_);
    out_.opset = opset_;
    out_.grads.clear();
    map_.resize(from_.value_count());
    std::vector<bool> live = live_nodes();
    for (NodeId id : from_.node_ids())
      if (live[id.index]) AG_TRY_(node(id));
    out_.inputs.clear();
    for (ValueId v : from_.inputs) out_.inputs.push_back(map_[v.index]);
    for (const Output& o : from_.outputs) out_.outputs.push_back({o.name, map_[o.value.index], o.loc});
    return std::move(out_);
  }

 private:
  std::vector<bool> live_nodes() const {
    std::vector<bool> live(from_.node_count());
    for (ValueId v : from_.inputs) live[from_.value(v).node.index] = true;
    for (const Output& o : from_.outputs) live[from_.value(o.value).node.index] = true;
    for (std::size_t i = from_.node_count(); i-- > 0;)
      if (live[i])
        for (ValueId v : from_.node(NodeId(i)).operands)
          if (v) live[from_.value(v).node.index] = true;
    return live;
  }

  Status node(NodeId id) {
    const Node& old = from_.node(id);
    NodeId copied;
    if (old.regions.empty()) {
      copied = b_.copy(from_, id, [&](ValueId v) { return map_[v.index]; });
    } else {
      AG_TRY(copied, with_regions(old));
    }
    if (is_source(*old.op) || is_spelled(*old.op, opset_)) return take(old, copied);
    Rewrite rewrite = find_rewrite(*old.op);
    if (!rewrite && !old.op->decompose)
      return fail(
          Code::AG0024, from_.loc(old.result()),
          fmt::format("`{}` cannot be written as ONNX: no operator of opset {} expresses it", old.op->name, opset_));
    b_.set_origin(old.locs, {});
    // The copy's own name goes to what replaces it.
    for (std::uint32_t r = 0; r < old.result_count; ++r) out_.set_name(out_.node(copied).result(r), "");
    std::size_t first_new = out_.node_count();
    std::vector<ValueId> results = (rewrite ? rewrite : old.op->decompose)(b_, NodeView{out_, copied});
    b_.set_origin({}, {});
    for (std::uint32_t r = 0; r < old.result_count && r < results.size(); ++r) {
      if (!results[r]) continue;
      map_[old.result(r).index] = results[r];
      const std::string& name = from_.value(old.result(r)).name;
      Value& v = out_.value(results[r]);
      if (!name.empty() && v.name.empty() && v.node.index >= first_new && !out_.find(name))
        out_.set_name(results[r], name);
    }
    return {};
  }

  Status take(const Node& old, NodeId copied) {
    for (std::uint32_t r = 0; r < old.result_count; ++r) map_[old.result(r).index] = out_.node(copied).result(r);
    return {};
  }

  Result<NodeId> with_regions(const Node& old);

  const Graph& from_;
  int opset_, depth_;
  Graph out_;
  GraphBuilder b_{out_};
  std::vector<ValueId> map_;
};

Result<Graph> legalise_to(const Graph& g, int opset, int depth) {
  if (depth > max_depth) return fail(Code::AG1108, {}, "regions are nested too deeply");
  AG_TRY(Graph out, Round(g, opset, depth).run());
  for (int round = 0; round < max_rounds; ++round) {
    if (is_legal(out, opset)) return out;
    AG_TRY(out, Round(out, opset, depth).run());
  }
  return fail(Code::AG9001, {}, "decomposition does not end");
}

Result<NodeId> Round::with_regions(const Node& old) {
  GraphBuilder::NodeArgs args;
  for (ValueId v : old.operands) args.operands.push_back(v ? map_[v.index] : ValueId());
  args.attrs = old.attrs;
  args.name = old.name;
  args.locs = old.locs;
  args.result_count = old.result_count;
  for (const GraphPtr& r : old.regions) {
    AG_TRY(Graph inner, legalise_to(*r, opset_, depth_ + 1));
    args.regions.push_back(std::make_shared<const Graph>(std::move(inner)));
  }
  AG_TRY(NodeId id, b_.try_add(*old.op, std::move(args)));
  for (std::uint32_t r = 0; r < old.result_count; ++r) {
    const std::string& name = from_.value(old.result(r)).name;
    if (!name.empty() && !out_.find(name)) out_.set_name(out_.node(id).result(r), name);
  }
  return id;
}

}  // namespace

bool is_spelled(const OpInfo& op, int opset) {
  if (op.onnx.empty() || op.domain == "ag") return false;
  return !op.domain.empty() || op_table().find_onnx("", op.onnx, opset) == &op;
}

Result<Graph> legalise(const Graph& graph) {
  if (is_legal(graph, graph.opset)) return graph;
  return legalise_to(graph, std::max(graph.opset, least_opset), 0);
}

}  // namespace ag::onnx
