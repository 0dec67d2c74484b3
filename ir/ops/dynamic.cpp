// Ops whose results have a size that only the data knows. Each counts first, with ordinary primitives; define_sizes
// makes the count the size, and what follows is gathered: place k of the chosen ones is where the running count
// reaches k + 1 (searchsorted), so that filling is parallel.
#include <cmath>

#include "ir/ops/along.hpp"
#include "ir/ops/data_sizes.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/tfidf.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Expr flat(Expr x) { return x.with(x.builder().reshape(x, {x.type().elems()})); }

/// The chosen among n places, in order: i64[size], where `size` is their number.
struct Chosen {
  Expr running;  ///< i64[n]: how many are chosen up to each place
  Expr count;    ///< i64[1]

  explicit Chosen(Expr mask) {
    Expr marks = mask.to(DType::i64);
    running = marks.with(marks.builder().add_op("cumulative_sum", {marks.id()}, {{"axis", std::int64_t{0}}}));
    count = marks.with(marks.builder().reshape(reduce("reduce_sum", marks, {0}), {1}));
  }
  Expr search(Expr values, bool right) const {
    return values.with(values.builder().add_op("searchsorted", {running.id(), values.id()}, {{"right", right}}));
  }
  Expr numbers(const Dim& size) const {  ///< 1, 2, ..., size
    Expr i(running.builder(), running.builder().iota({DType::i64, {size}}, 0));
    return i + i.with(i.builder().scalar_int(DType::i64, 1));
  }
  Expr places(const Dim& size) const { return search(numbers(size), false); }
};

/// Known at compile time: the places of the nonzero elements of operand i.
std::optional<Ints> known_places(const std::optional<Dims>& values) {
  auto all = as_constants(values);
  if (!all) return std::nullopt;
  Ints out;
  for (std::size_t i = 0; i < all->size(); ++i)
    if ((*all)[i]) out.push_back(static_cast<std::int64_t>(i));
  return out;
}

/// Places of the true elements of mask[n], which is operand i or follows from it; `size` is how many.
Expr chosen_places(Builder& b, const View& n, std::size_t i, Expr mask, const Dim& size) {
  if (auto places = known_places(known(n, i)); places && !names_sizes(n)) return {b, b.ints(*places)};
  Chosen chosen(mask);
  define_sizes(b, chosen.count, {size});
  return chosen.places(size);
}

/// Row-major places as one index vector for each axis of `shape`: [rank, n].
Expr unravelled(Builder& b, Expr places, const Dims& shape) {
  const Dim n = places.type().shape[0];
  std::vector<ValueId> rows(shape.size());
  for (std::size_t d = shape.size(); d-- > 0;) {
    Expr size = size_value(b, shape[d], DType::i64);
    rows[d] = b.reshape(d == 0 ? places : call("rem", places, size), {1, n});
    if (d > 0) places = places / size;
  }
  return {b, b.concat(rows, 0)};
}

// ---- NonZero ----------------------------------------------------------------------------------------------

Types infer_nonzero(const InferCtx& c) {
  auto places = known_places(c.ints(0));
  Dim n = places ? Dim(static_cast<std::int64_t>(places->size())) : c.unbacked(0);
  return std::vector<Type>{{DType::i64, {c.in(0).rank(), n}}};
}

std::vector<ValueId> nonzero(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  Dims shape = x.type().shape;
  const Dim size = n.out().shape[1];
  Expr mask = flat(x.dtype() == DType::boolean ? x : x != 0.0);
  Expr places = chosen_places(b, n, 0, mask, size);
  if (shape.empty()) return {b.zeros({DType::i64, {0, size}})};
  return {unravelled(b, places, shape)};
}

// ---- Compress ---------------------------------------------------------------------------------------------

Types infer_compress(const InferCtx& c) {
  Type t = c.in(0);
  if (c.in(1).rank() != 1)
    return c.error(Code::AG2204, "`condition` of `Compress` is a vector, not " + c.in(1).str(), {}, {1});
  auto places = known_places(c.ints(1));
  Dim size = places ? Dim(static_cast<std::int64_t>(places->size())) : c.unbacked(0);
  Dim whole = t.elems();
  if (const auto* axis = c.attrs().get<std::int64_t>("axis")) {
    AG_TRY(int a, checked_axis(c, *axis, t.rank()));
    whole = t.shape[at(a)];
    t.shape[at(a)] = size;
  } else {
    t.shape = {size};
  }
  if (Dim room = whole - c.in(1).shape[0]; room.is_const() && room.value() < 0)
    return c.error(Code::AG2208,
                   fmt::format("`Compress` of {} has {} conditions", c.in(0).str(), c.in(1).shape[0].str()), {},
                   {0, 1});
  return std::vector<Type>{std::move(t)};
}

std::vector<ValueId> compress(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  std::int64_t axis = 0;
  if (const auto* given = n.attrs().get<std::int64_t>("axis"))
    axis = *normalize_axis(*given, n.in(0).rank());
  else
    x = flat(x);
  return {take(x, chosen_places(b, n, 1, Expr(b, n.operand(1)), n.out().shape[at(axis)]), axis)};
}

// ---- Unique -----------------------------------------------------------------------------------------------

Types infer_unique(const InferCtx& c) {
  Type t = c.in(0);
  Dim size = c.unbacked(0), n = t.elems();
  if (const auto* axis = c.attrs().get<std::int64_t>("axis")) {
    AG_TRY(int a, checked_axis(c, *axis, t.rank()));
    n = t.shape[at(a)];
    t.shape[at(a)] = size;
  } else {
    t.shape = {size};
  }
  return std::vector<Type>{t, {DType::i64, {size}}, {DType::i64, {n}}, {DType::i64, {size}}};
}

/// Whether each of the sorted rows [n, ...] is the first of its kind. NaNs are of one kind.
Expr first_of_kind(Expr sorted) {
  GraphBuilder& b = sorted.builder();
  const Dim n = sorted.type().shape[0];
  Expr i(b, b.iota({DType::i64, {n}}, 0)), zero = i.with(b.scalar_int(DType::i64, 0)),
                                           one = i.with(b.scalar_int(DType::i64, 1));
  Expr before = take(sorted, max(i - one, zero), 0);
  Expr differs = sorted.dtype() == DType::boolean ? call("xor", sorted, before) : sorted != before;
  if (is_float(sorted.dtype()))
    differs = both(differs, call("not", both(call("is_nan", sorted), call("is_nan", before))));
  if (sorted.type().rank() == 2) differs = reduce("reduce_or", differs, {1});
  return either(differs, i == zero);
}

std::vector<ValueId> unique(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  const Dim size = n.out(1 < n.node().result_count ? 1 : 0).shape[0];
  const auto* given = n.attrs().get<std::int64_t>("axis");
  std::int64_t axis = given ? *normalize_axis(*given, n.in(0).rank()) : 0;
  if (!given) x = flat(x);
  Dim kinds = given ? Dim(n.out().shape[at(axis)]) : size;
  Dims shape = x.type().shape;
  const Dim count = shape[at(axis)];
  Expr rows = x;
  if (shape.size() > 1) {  // [n, everything else]
    Ints perm{axis};
    Dim width = 1;
    for (std::int64_t d = 0; d < x.type().rank(); ++d)
      if (d != axis) perm.push_back(d), width = width * shape[at(d)];
    rows = x.with(b.reshape(b.transpose(x, perm), {count, width}));
  }
  Expr order = shape.size() > 1 ? x.with(b.add_op("argsort_rows", {rows.id()}))
                                : x.with(b.add_op("argsort", {rows.id()}, {{"axis", std::int64_t{0}}}));
  Chosen firsts(first_of_kind(take(rows, order, 0)));
  define_sizes(b, firsts.count, {kinds});
  Expr start = firsts.places(kinds), end = firsts.search(firsts.numbers(kinds), true);
  Expr indices = take(order, start, 0), counts = end - start;
  Expr kind = firsts.running - order.with(b.scalar_int(DType::i64, 1));
  Expr inverse = scatter_along(order.with(b.zeros(order.type())), order, kind, 0, "set");
  if (!attr_int(n.attrs(), "sorted", 1)) {  // kinds in the order of their first elements
    Attrs along{{"axis", std::int64_t{0}}};
    Expr by_place(b, b.add_op("argsort", {indices.id()}, along)),
        number(b, b.add_op("argsort", {by_place.id()}, along));
    indices = take(indices, by_place, 0);
    counts = take(counts, by_place, 0);
    inverse = take(number, inverse, 0);
  }
  return {take(x, indices, axis), indices, inverse, counts};
}

// ---- NonMaxSuppression ------------------------------------------------------------------------------------

Types infer_suppress(const InferCtx& c) {
  const Dims &boxes = c.in(0).shape, &wanted = c.in(1).shape;
  if (boxes.size() != 3 || !boxes[2].is(4) || wanted != Dims(boxes.begin(), boxes.end() - 1) || c.in(2).rank() != 0 ||
      c.in(3).rank() != 0)
    return c.error(Code::AG2204,
                   fmt::format("`suppress` needs boxes [rows, n, 4], candidates [rows, n] and two scalars: {}, {}",
                               c.in(0).str(), c.in(1).str()),
                   {}, {0, 1});
  return std::vector<Type>{c.in(1)};
}

/// Intersection over union above the threshold, each step rounded as in the kernel.
bool overlap(const Array& boxes, std::int64_t p, std::int64_t q, double threshold) {
  auto r = [&](double v) { return boxes.dtype() == DType::f64 ? v : static_cast<double>(static_cast<float>(v)); };
  auto box = [&](std::int64_t i, std::int64_t k) { return boxes.get_double(4 * i + k); };
  auto area = [&](double x0, double y0, double x1, double y1) { return r(r(x1 - x0) * r(y1 - y0)); };
  double x0 = std::max(box(p, 0), box(q, 0)), y0 = std::max(box(p, 1), box(q, 1)), x1 = std::min(box(p, 2), box(q, 2)),
         y1 = std::min(box(p, 3), box(q, 3));
  if (!(x1 > x0) || !(y1 > y0)) return false;
  double inside = area(x0, y0, x1, y1), a = area(box(p, 0), box(p, 1), box(p, 2), box(p, 3)),
         b = area(box(q, 0), box(q, 1), box(q, 2), box(q, 3)), all = r(r(a + b) - inside);
  return inside > 0 && a > 0 && b > 0 && all > 0 && r(inside / all) > threshold;
}

Result<std::vector<Array>> suppress_eval(const EvalCtx& c) {
  const Array &boxes = c.in[0], &wanted = c.in[1];
  const std::int64_t rows = wanted.shape()[0], n = wanted.shape()[1], limit = c.in[2].get_int(0);
  Array keep(DType::boolean, wanted.shape());
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < n && count < limit; ++i) {
      bool kept = wanted.get_int(r * n + i) != 0;
      for (std::int64_t j = 0; kept && j < i; ++j)
        kept = !keep.get_int(r * n + j) || !overlap(boxes, r * n + i, r * n + j, c.in[3].get_double(0));
      keep.set_int(r * n + i, kept);
      count += kept;
    }
  }
  return one(std::move(keep));
}

Types infer_nms(const InferCtx& c) {
  const Dims &boxes = c.in(0).shape, &scores = c.in(1).shape;
  auto differ = [](const Dim& a, const Dim& b) { return a.is_const() && b.is_const() && a != b; };
  if (boxes.size() != 3 || !boxes[2].is(4) || scores.size() != 3 || differ(boxes[0], scores[0]) ||
      differ(boxes[1], scores[2]))
    return c.error(Code::AG2204,
                   fmt::format("`NonMaxSuppression` needs boxes [batch, n, 4] and scores [batch, class, n]: {} and {}",
                               c.in(0).str(), c.in(1).str()),
                   {}, {0, 1});
  for (std::size_t i = 2; i < 5; ++i)
    if (c.has(i) && !c.in(i).elems().is(1))
      return c.error(Code::AG2204, fmt::format("`{}` of `NonMaxSuppression` is one number", c.op().operands[i].name),
                     {}, {i});
  return std::vector<Type>{{DType::i64, {c.unbacked(0), 3}}};
}

/// (x0, y0, x1, y1), the smaller corner first.
Expr corners(Expr boxes, bool from_center) {
  auto part = [&](std::int64_t k) { return slice_along(boxes, 2, k, k + 1); };
  std::vector<ValueId> all;
  if (from_center) {
    Expr half_width = part(2) / 2.0, half_height = part(3) / 2.0;
    all = {part(0) - half_width, part(1) - half_height, part(0) + half_width, part(1) + half_height};
  } else {
    all = {min(part(1), part(3)), min(part(0), part(2)), max(part(1), part(3)), max(part(0), part(2))};
  }
  return boxes.with(boxes.builder().concat(all, 2));
}

std::vector<ValueId> nms(Builder& b, const View& n) {
  Expr boxes(b, n.operand(0)), scores(b, n.operand(1));
  Dims shape = scores.type().shape;  // [batch, class, n]
  const Dim rows = shape[0] * shape[1], size = n.out().shape[0];
  DType real = accumulator_dtype(boxes.dtype());
  auto scalar = [&](std::size_t i, DType t) {
    return n.has(i) ? Expr(b, b.reshape(n.operand(i), {})).to(t) : Expr(b, b.scalar(t, 0));
  };
  Expr order(b, b.add_op("argsort", {scores.id()}, {{"axis", std::int64_t{2}}, {"descending", true}}));
  Expr wanted(b, b.ones({DType::boolean, shape}));
  if (n.has(4)) wanted = take_along(scores, order, 2) > scalar(4, scores.dtype());
  Expr sorted(b, b.add_op("gather", {corners(boxes.to(real), attr_int(n.attrs(), "center_point_box", 0) != 0), order},
                          {{"offset_dims", Ints{3}},
                           {"collapsed_slice_dims", Ints{1}},
                           {"operand_batching_dims", Ints{0}},
                           {"start_indices_batching_dims", Ints{0}},
                           {"start_index_map", Ints{1}},
                           {"index_vector_dim", std::int64_t{3}},
                           {"slice_sizes", Dims{1, 1, 4}}}));
  Expr keep(b, b.add_op("suppress", {b.reshape(sorted, {rows, shape[2], 4}), b.reshape(wanted, {rows, shape[2]}),
                                     scalar(2, DType::i64), scalar(3, real)}));
  Chosen chosen(flat(keep));
  define_sizes(b, chosen.count, {size});
  Expr places = chosen.places(size), each = size_value(b, shape[2], DType::i64),
       classes = size_value(b, shape[1], DType::i64), row = places / each;
  auto column = [&](Expr e) { return b.reshape(e, {size, 1}); };
  return {
      b.concat({column(row / classes), column(call("rem", row, classes)), column(take(flat(order), places, 0))}, 1)};
}

// ---- The table --------------------------------------------------------------------------------------------

OpInfo suppress_op() {
  OpInfo o{.name = "suppress",
           .lower_class = LowerClass::sort,
           .summary = "of boxes in order, those candidates that overlap none kept before them; at most `limit` a row",
           .zero_gradient = true};
  o.operands = {{.name = "boxes", .dtypes = set_of(DType::f64) | set_of(DType::f32)},
                {.name = "candidates", .type_var = "B", .dtypes = bools},
                {.name = "limit", .type_var = "I", .dtypes = set_of(DType::i64)},
                {.name = "threshold", .dtypes = floats}};
  o.results = {{"keep", "B"}};
  o.infer = infer_suppress;
  o.eval = suppress_eval;
  o.samples = [] {
    auto boxes = [](std::string_view type, std::string_view wanted, std::string_view t, std::int64_t limit) {
      OpSample s = sample({type, wanted}, {}, 0, 4);
      Array number(DType::i64, {});
      number.set_int(0, limit);
      s.operands.push_back({sample_type("i64[]"), make_literal(number)});
      s.operands.push_back(sample_operand(t, 0.2, 0.4));
      return s;
    };
    return std::vector<OpSample>{boxes("f32[2,9,4]", "bool[2,9]", "f32[]", 4),
                                 boxes("f64[1,12,4]", "bool[1,12]", "f64[]", 100),
                                 boxes("f32[0,3,4]", "bool[0,3]", "f32[]", 1)};
  };
  return o;
}

OpInfo unique_op() {
  OpInfo o = composite({.name = "Unique", .since = 11, .summary = "the distinct elements, or slices along an axis"});
  o.operands = {{.name = "X", .dtypes = any_dtype}};
  o.results = {{"Y"}, {"indices", "I", true}, {"inverse_indices", "I", true}, {"counts", "I", true}};
  o.attrs = {{"axis", AttrKind::integer}, int_attr("sorted", 1)};
  o.infer = infer_unique;
  o.decompose = unique;
  o.samples = [] {
    return in_dtypes(
        {sample({"f32[3,4]"}, {{"sorted", std::int64_t{0}}}), sample({"i64[3,6]"}, {{"axis", std::int64_t{1}}}, 0, 1),
         sample({"bool[5,2]"}, {{"axis", std::int64_t{0}}, {"sorted", std::int64_t{0}}}), sample({"f64[4]"})},
        sample({"i32[12]"}, {}, -2, 2), any_dtype);
  };
  return o;
}

}  // namespace

std::vector<OpInfo> dynamic_ops() {
  OpInfo places = composite({.name = "NonZero", .since = 9, .summary = "index vectors of the elements that are not 0"});
  places.operands = {{.name = "X", .dtypes = any_dtype}};
  places.results = {{"Y", "I"}};
  places.infer = infer_nonzero;
  places.decompose = nonzero;
  places.zero_gradient = true;
  places.samples = [] {
    return in_dtypes({sample({"bool[7]"}), sample({"f32[2,0]"}), sample({"u8[2,2,3]"}, {}, 0, 1)},
                     sample({"i32[3,4]"}, {}, -1, 1), any_dtype);
  };
  OpInfo some = composite({.name = "Compress", .since = 9, .summary = "slices along an axis where a condition holds"});
  some.operands = {{.name = "input"}, {.name = "condition", .type_var = "B", .dtypes = bools}};
  some.attrs = {{"axis", AttrKind::integer}};
  some.infer = infer_compress;
  some.decompose = compress;
  some.samples = [] {
    return in_dtypes({sample({"f64[2,3]", "bool[2]"}, {{"axis", std::int64_t{-1}}}), sample({"i32[2,3]", "bool[5]"})},
                     sample({"f64[4,3]", "bool[4]"}, {{"axis", std::int64_t{0}}}), any_dtype);
  };
  OpInfo boxes =
      composite({.name = "NonMaxSuppression",
                 .since = 10,
                 .summary = "[batch, class, box] of the best boxes that overlap no better one of their class"});
  boxes.operands = {{.name = "boxes", .dtypes = floats},
                    {.name = "scores", .type_var = "S", .dtypes = floats},
                    {.name = "max_output_boxes_per_class", .type_var = "M", .dtypes = ints, .optional = true},
                    {.name = "iou_threshold", .type_var = "F", .dtypes = floats, .optional = true},
                    {.name = "score_threshold", .type_var = "F", .dtypes = floats, .optional = true}};
  boxes.results = {{"selected_indices", "I"}};
  boxes.attrs = {int_attr("center_point_box", 0)};
  boxes.infer = infer_nms;
  boxes.decompose = nms;
  boxes.zero_gradient = true;
  boxes.samples = [] {
    auto with = [](Attrs attrs) {
      return OpSample{{sample_operand("f32[2,9,4]", 0, 4), sample_operand("f32[2,3,9]"), sample_operand("i64[1]", 3, 3),
                       sample_operand("f32[1]", 0.2, 0.4), sample_operand("f32[]", -1, 0)},
                      std::move(attrs)};
    };
    return std::vector<OpSample>{with({}), with({{"center_point_box", std::int64_t{1}}})};
  };
  return {places, some, unique_op(), suppress_op(), boxes, tfidf_op()};
}

}  // namespace ag
