// Sorting as permutations: argsort gives places, everything else gathers through them, gradients included. Searching
// in what is sorted; ONNX's TopK.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "ir/dtype_sets.hpp"
#include "ir/ops/along.hpp"
#include "ir/ops/data_sizes.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/lowering.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

bool descending(const Attrs& a) { return a.get_or<bool>("descending", false); }

/// Elements of an array by the order of sorting: numbers, then NaN; -0 equals 0.
struct KeyOrder {
  const Array& keys;
  bool operator()(std::int64_t i, std::int64_t j) const {
    if (!is_float(keys.dtype())) {
      std::int64_t a = keys.get_int(i), b = keys.get_int(j);
      return keys.dtype() == DType::u64 ? static_cast<std::uint64_t>(a) < static_cast<std::uint64_t>(b) : a < b;
    }
    double a = keys.get_double(i), b = keys.get_double(j);
    return std::isnan(b) ? !std::isnan(a) : a < b;
  }
};

// ---- argsort ----------------------------------------------------------------------------------------------

Types infer_argsort(const InferCtx& c) {
  std::int64_t axis = attr_int(c.attrs(), "axis", 0);
  if (axis < 0 || axis >= c.in(0).rank())
    return c.error(Code::AG2202, fmt::format("`argsort` of {} has no axis {}", c.in(0).str(), axis), {}, {0});
  Type t = c.in(0).with(DType::i64);
  if (const Dims* count = c.attrs().get<Dims>("count")) {
    Dim room = count->size() == 1 ? t.shape[at(axis)] - (*count)[0] : Dim::invalid();
    if (!room.valid() || (room.is_const() && room.value() < 0))
      return c.error(Code::AG2206, fmt::format("`argsort` of {} keeps {}", c.in(0).str(), shape_str(*count)),
                     "one number, at most the axis's size", {0});
    t.shape[at(axis)] = (*count)[0];
    AG_TRY_(checked_shape(c, t.shape));
  }
  return std::vector<Type>{std::move(t)};
}

Result<std::vector<Array>> argsort_eval(const EvalCtx& c) {
  const Array& x = c.in[0];
  auto axis = at(attr_int(c.node.attrs(), "axis", 0));
  const bool down = descending(c.node.attrs());
  Shape strides = row_major_strides(x.shape()), rows = x.shape();
  const std::int64_t n = x.shape()[axis], stride = strides[axis];
  rows[axis] = 1;
  Array out(DType::i64, c.out_shapes[0]);
  const std::int64_t kept = out.shape()[axis];
  const Shape out_strides = row_major_strides(out.shape());
  if (kept > n) return c.error(Code::AG2206, fmt::format("keeps {} of {}", kept, n));
  std::vector<std::int64_t> order(at(n));
  if (n == 0) return one(std::move(out));
  for_each_index(rows, [&](const Shape& row, std::int64_t) {
    const std::int64_t base = flat_index(row, strides);
    std::iota(order.begin(), order.end(), 0);
    KeyOrder less{x};
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
      std::int64_t a = base + i * stride, b = base + j * stride;
      return down ? less(b, a) : less(a, b);
    });
    const std::int64_t to = flat_index(row, out_strides);
    for (std::int64_t i = 0; i < kept; ++i) out.set_int(to + i * out_strides[axis], order[at(i)]);
  });
  return one(std::move(out));
}

std::vector<ValueId> argsort_batch(Builder& b, const View& n, const BatchArgs& args) {
  Attrs attrs = n.attrs();
  attrs.set("axis", attr_int(attrs, "axis", 0) + 1);
  return {b.add_op("argsort", {args.operands[0]}, attrs)};
}

std::vector<OpSample> argsort_samples() {
  auto with = [](std::string_view type, std::int64_t axis, bool down, double high) {
    return sample({type}, {{"axis", axis}, {"descending", down}}, is_unsigned_int(sample_type(type).dtype) ? 0 : -high,
                  high);
  };
  auto first = [&](std::string_view type, std::int64_t axis, std::int64_t count) {
    OpSample s = with(type, axis, true, 2);
    s.attrs.set("count", Dims{count});
    return s;
  };
  return in_dtypes({with("f32[5,3]", 0, true, 2), with("i8[2,5,2]", 1, true, 3), with("u64[40]", 0, false, 9),
                    with("bool[9]", 0, false, 1), with("bf16[6]", 0, true, 1), with("f32[0,3]", 1, false, 1),
                    with("f32[3,0]", 1, true, 1), with("i64[1]", 0, false, 9), first("f32[3,40]", 1, 3),
                    first("f16[20,2]", 0, 1), first("i32[2,9]", 1, 7), first("f64[2,3]", 1, 0)},
                   with("f64[3,7]", 1, false, 3), any_dtype);
}

// ---- argsort_rows -----------------------------------------------------------------------------------------

Types infer_argsort_rows(const InferCtx& c) {
  const Dims& shape = c.in(0).shape;
  if (shape.size() < 2)
    return c.error(Code::AG2204, "`argsort_rows` sorts the rows of matrices, not " + c.in(0).str(), {}, {0});
  return std::vector<Type>{{DType::i64, Dims(shape.begin(), shape.end() - 1)}};
}

Result<std::vector<Array>> argsort_rows_eval(const EvalCtx& c) {
  const Array& x = c.in[0];
  const std::int64_t rank = static_cast<std::int64_t>(x.shape().size()), n = x.shape()[at(rank - 2)],
                     m = x.shape()[at(rank - 1)];
  Array out(DType::i64, c.out_shapes[0]);
  std::vector<std::int64_t> order(at(n));
  KeyOrder less{x};
  for (std::int64_t base = 0; base < out.elems(); base += n) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
      for (std::int64_t k = 0; k < m; ++k) {
        std::int64_t p = (base + i) * m + k, q = (base + j) * m + k;
        if (less(p, q)) return true;
        if (less(q, p)) return false;
      }
      return false;
    });
    for (std::int64_t i = 0; i < n; ++i) out.set_int(base + i, order[at(i)]);
  }
  return one(std::move(out));
}

// ---- searchsorted -----------------------------------------------------------------------------------------

Types infer_searchsorted(const InferCtx& c) {
  const Type &a = c.in(0), &v = c.in(1);
  if (a.rank() < 1 || a.rank() != v.rank())
    return c.error(
        Code::AG2204,
        fmt::format("`searchsorted` needs values of the rank of what is searched: {} and {}", a.str(), v.str()), {},
        {0, 1});
  for (std::size_t d = 0; d + 1 < a.shape.size(); ++d)
    if (a.shape[d] != v.shape[d])
      return c.error(Code::AG2208, fmt::format("`searchsorted`: axis {} of {} and of {} differ", d, a.str(), v.str()),
                     {}, {0, 1});
  return std::vector<Type>{v.with(DType::i64)};
}

Result<std::vector<Array>> searchsorted_eval(const EvalCtx& c) {
  const Array &a = c.in[0], &v = c.in[1];
  const bool right = c.node.attrs().get_or<bool>("right", false);
  const std::int64_t n = a.shape().back(), m = v.shape().back();
  Array out(DType::i64, v.shape());
  for (std::int64_t i = 0; i < v.elems(); ++i) {
    const std::int64_t base = i / m * n;
    std::int64_t low = 0, length = n;
    auto passes = [&](std::int64_t k) {
      if (is_float(a.dtype())) {
        double x = a.get_double(base + k), y = v.get_double(i);
        return right ? x <= y : x < y;
      }
      std::int64_t x = a.get_int(base + k), y = v.get_int(i);
      if (a.dtype() != DType::u64) return right ? x <= y : x < y;
      auto p = static_cast<std::uint64_t>(x), q = static_cast<std::uint64_t>(y);
      return right ? p <= q : p < q;
    };
    for (; length > 1; length -= length / 2)
      if (passes(low + length / 2 - 1)) low += length / 2;
    out.set_int(i, n > 0 && passes(low) ? low + 1 : low);
  }
  return one(std::move(out));
}

/// Halving whose trips depend on the size alone, so that it goes to lanes.
loop::ValueId searchsorted_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  const Dim n = c.node().in(0).shape.back();
  const L before = c.node().attrs().get_or<bool>("right", false) ? L::cmp_le : L::cmp_lt;
  loop::ValueId zero = b.index(0), one = b.index(1), two = b.index(2), value = c.operand(1, index);
  std::vector<loop::ValueId> place(index.begin(), index.end());
  if (n.is(0)) return zero;
  auto passes = [&](loop::ValueId k) {
    place.back() = k;
    return b.op(before, {c.operand(0, place), value});
  };
  auto halved = b.while_(
      {zero, b.dim(n)}, [&](const loop::Builder::Values& v) { return std::pair{b.op(L::cmp_gt, {v[1], one}), v}; },
      [&](const loop::Builder::Values& v) {
        loop::ValueId half = b.op(L::div, {v[1], two}), next = b.add(v[0], half);
        return loop::Builder::Values{b.select(passes(b.sub(next, one)), next, v[0]), b.sub(v[1], half)};
      });
  loop::ValueId low = halved[0];
  if (n.is_const()) return b.select(passes(low), b.add(low, one), low);
  return b.if_(
      b.op(L::cmp_gt, {b.dim(n), zero}),
      [&] { return loop::Builder::Values{b.select(passes(low), b.add(low, one), low)}; },
      [&] { return loop::Builder::Values{zero}; })[0];
}

std::vector<OpSample> searchsorted_samples() {
  auto sorted = [](std::string_view type, const Ints& values) {
    Type t = sample_type(type);
    return OpSample::Operand{t, make_literal(Array::of<std::int64_t>(t.dtype, *static_shape(t.shape), values))};
  };
  auto with = [&](OpSample::Operand a, std::string_view values, bool right) {
    return OpSample{{std::move(a), sample_operand(values, 0, 9)}, {{"right", right}}};
  };
  std::vector<OpSample> out{with(sorted("i64[6]", {0, 1, 1, 3, 5, 5}), "i64[12]", true),
                            with(sorted("f32[2,3]", {1, 4, 8, 0, 2, 5}), "f32[2,20]", false),
                            with(sorted("i32[1]", {4}), "i32[5]", true), with(sorted("i64[0]", {}), "i64[3]", false)};
  for (int i = 0; i < dtype_count; ++i)
    if (auto t = static_cast<DType>(i); numeric.has(t)) {
      std::string name(dtype_name(t));
      out.push_back(with(sorted(name + "[7]", {0, 1, 1, 3, 5, 5, 9}), name + "[12]", false));
    }
  return out;
}

// ---- TopK -------------------------------------------------------------------------------------------------

/// How many elements are wanted: an attribute (opset 1), or an operand.
Result<Dim> wanted(const InferCtx& c) {
  if (c.op().operands.size() == 1) return Dim(attr_int(c.attrs(), "k", 0));
  if (!c.in(1).elems().is(1)) return c.error(Code::AG2204, "`K` of `TopK` is one number", {}, {1});
  auto k = c.ints(1);
  return k ? (*k)[0] : c.unbacked(0);
}

Types infer_top_k(const InferCtx& c) {
  AG_TRY(int axis, checked_axis(c, attr_int(c.attrs(), "axis", -1), c.in(0).rank()));
  AG_TRY(Dim k, wanted(c));
  Type t = c.in(0);
  Dim room = t.shape[at(axis)] - k;
  if ((k.is_const() && k.value() < 0) || (room.is_const() && room.value() < 0))
    return c.error(Code::AG2206, fmt::format("`TopK` of {} along axis {} of {}", k.str(), axis, c.in(0).str()),
                   "0 to the axis's size", {0});
  t.shape[at(axis)] = k;
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{t, t.with(DType::i64)};
}

std::vector<ValueId> top_k(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  std::int64_t axis = *normalize_axis(attr_int(n.attrs(), "axis", -1), n.in(0).rank());
  bool largest = attr_int(n.attrs(), "largest", 1) != 0;
  Dim k = n.out().shape[at(axis)];
  if (n.has(1) && (!known(n, 1) || names_sizes(n))) define_sizes(b, as_sizes(b, n.operand(1)), {k});
  Expr best(b, b.add_op("argsort", {x.id()}, {{"axis", axis}, {"descending", largest}, {"count", Dims{k}}}));
  return {take_along(x, best, axis), best};
}

OpInfo top_k_op(std::string_view name, int since, int until, bool operand, bool flags) {
  OpInfo o = composite({.name = name,
                        .onnx = "TopK",
                        .since = since,
                        .until = until,
                        .summary = "the largest or smallest elements along an axis, of equal ones the first"});
  o.operands = {{.name = "X", .dtypes = flags ? numeric : floats}};
  if (operand) o.operands.push_back(int_operand("K"));
  o.results = {{"Values"}, {"Indices", "I"}};
  o.attrs = {int_attr("axis", -1)};
  if (!operand) o.attrs.push_back({"k", AttrKind::integer, true});
  if (flags) o.attrs.insert(o.attrs.end(), {int_attr("largest", 1), int_attr("sorted", 1)});
  o.infer = infer_top_k;
  o.decompose = top_k;
  return o;
}

template <bool flags>
std::vector<OpSample> top_k_samples() {
  auto with = [](std::string_view type, std::int64_t k, Attrs attrs) {
    OpSample s = sample({type}, std::move(attrs));
    s.operands.push_back(sample_ints({k}));
    return s;
  };
  std::vector<OpSample> out = in_dtypes({with("f64[4,3]", 4, {{"axis", std::int64_t{0}}}), with("f32[2,3]", 0, {})},
                                        with("f64[3,5]", 2, {}), flags ? numeric : floats);
  if (flags) {
    out.push_back(with("f64[6]", 3, {{"largest", std::int64_t{0}}}));
    out.push_back(with("i32[2,8]", 3, {{"axis", std::int64_t{1}}, {"sorted", std::int64_t{0}}}));
  }
  return out;
}

}  // namespace

loop::ValueId sort_key(loop::Builder& b, loop::ValueId x, bool down) {
  const DType t = b.type(x).elem;
  DType wide = DType::u8;
  switch (dtype_bytes(t)) {
    case 8: wide = DType::u64; break;
    case 4: wide = DType::u32; break;
    case 2: wide = DType::u16; break;
    default: break;
  }
  const auto bits = static_cast<std::int64_t>(8 * dtype_bytes(t));
  loop::ValueId top = b.constant_bits({wide, 1, 1}, std::uint64_t{1} << (bits - 1)), key;
  if (is_float(t)) {
    loop::ValueId zero = b.constant(t, 0.0), nan = b.op(L::cmp_ne, {x, x});
    loop::ValueId raw = b.bitcast(b.select(b.op(L::cmp_eq, {x, zero}), zero, x), wide);
    loop::ValueId negative = b.op(L::cmp_ge, {raw, top});
    key = b.select(negative, b.op(L::not_, {raw}), b.op(L::xor_, {raw, top}));
    key = b.select(nan, b.constant_int(wide, -1), key);
  } else if (is_signed_int(t)) {
    key = b.op(L::xor_, {b.bitcast(x, wide), top});
  } else {
    key = t == DType::boolean ? b.cast(x, wide) : x;
  }
  return down ? b.op(L::not_, {key}) : key;
}

std::vector<OpInfo> sort_ops() {
  OpInfo argsort{.name = "argsort",
                 .lower_class = LowerClass::sort,
                 .summary = "the places of the elements in sorted order along an axis; stable, NaN above all numbers"};
  argsort.operands = {{.name = "x", .dtypes = computed}};
  argsort.results = {{"order", "I"}};
  argsort.attrs = {{"axis", AttrKind::integer, true},
                   {"descending", AttrKind::boolean, false, "largest first", AttrValue(false)},
                   {"count", AttrKind::dims, false, "how many of the order are wanted; all if left out"}};
  argsort.infer = infer_argsort;
  argsort.eval = argsort_eval;
  argsort.zero_gradient = true;
  argsort.batch = argsort_batch;
  argsort.samples = argsort_samples;

  OpInfo rows{.name = "argsort_rows",
              .lower_class = LowerClass::sort,
              .summary = "the places of the rows of matrices in lexicographic order; stable"};
  rows.operands = {{.name = "x", .dtypes = computed}};
  rows.results = {{"order", "I"}};
  rows.infer = infer_argsort_rows;
  rows.eval = argsort_rows_eval;
  rows.batch = batch_in_front;
  rows.zero_gradient = true;
  rows.samples = [] {
    return in_dtypes(
        {sample({"f32[5,3]"}, {}), sample({"f64[4,0]"}), sample({"i64[0,2]"}), sample({"u8[3,7,2]"}, {}, 0, 1)},
        sample({"i32[9,2]"}, {}, 0, 2), any_dtype);
  };

  OpInfo search{.name = "searchsorted",
                .lower_class = LowerClass::index,
                .summary = "how many elements of a sorted last axis are below each value (not above it: `right`)"};
  search.operands = {{.name = "sorted", .dtypes = numeric}, {.name = "values", .dtypes = numeric}};
  search.results = {{"places", "I"}};
  search.attrs = {{"right", AttrKind::boolean, false, "count what is equal too", AttrValue(false)}};
  search.infer = infer_searchsorted;
  search.eval = searchsorted_eval;
  search.zero_gradient = true;
  search.element = searchsorted_element;
  search.batch = batch_in_front;
  search.cost = 40;
  search.samples = searchsorted_samples;

  OpInfo oldest = top_k_op("TopK_1", 1, 9, false, false), older = top_k_op("TopK_10", 10, 10, true, false),
         current = top_k_op("TopK", 11, 1 << 20, true, true);
  oldest.samples = [] { return in_dtypes({}, sample({"f64[3,5]"}, {{"k", std::int64_t{2}}}), floats); };
  older.samples = top_k_samples<false>;
  current.samples = top_k_samples<true>;
  return {argsort, rows, search, oldest, older, current};
}

}  // namespace ag
