// dot_general: the product of matrices, with any number of batch, free and contracted axes.
#include <cmath>

#include "ir/ops/batching.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

/// The axes of the two operands by role. Free ones ascend.
struct Axes {
  Ints lhs_contract, rhs_contract, lhs_batch, rhs_batch, lhs_free, rhs_free;
};

Ints free_axes(int rank, const Ints& batch, const Ints& contract) {
  Ints out;
  for (int d = 0; d < rank; ++d)
    if (!contains(batch, d) && !contains(contract, d)) out.push_back(d);
  return out;
}

Axes axes_of(const Attrs& a, int lhs_rank, int rhs_rank) {
  Axes x{attr_ints(a, "lhs_contract"),
         attr_ints(a, "rhs_contract"),
         attr_ints(a, "lhs_batch"),
         attr_ints(a, "rhs_batch"),
         {},
         {}};
  x.lhs_free = free_axes(lhs_rank, x.lhs_batch, x.lhs_contract);
  x.rhs_free = free_axes(rhs_rank, x.rhs_batch, x.rhs_contract);
  return x;
}
Axes axes_of(const View& n) { return axes_of(n.attrs(), n.in(0).rank(), n.in(1).rank()); }

const Dim& size(const Type& t, std::int64_t axis) { return t.shape[static_cast<std::size_t>(axis)]; }

Status check_pairs(const InferCtx& c, const Ints& lhs, const Ints& rhs, std::string_view role) {
  for (std::size_t i = 0; i < lhs.size(); ++i) {
    const Dim &l = size(c.in(0), lhs[i]), &r = size(c.in(1), rhs[i]);
    if (l.is_const() && r.is_const() && l != r)
      return c.error(Code::AG2203,
                     fmt::format("`dot_general`: {} axis {} of {} is {}, axis {} of {} is {}", role, lhs[i],
                                 operand_name(c, 0), l.str(), rhs[i], operand_name(c, 1), r.str()),
                     "sizes differ", {0, 1});
  }
  return {};
}

Types infer_dot(const InferCtx& c) {
  Axes a = axes_of(c.attrs(), c.in(0).rank(), c.in(1).rank());
  for (auto [side, batch, contract] :
       {std::tuple(0, &a.lhs_batch, &a.lhs_contract), std::tuple(1, &a.rhs_batch, &a.rhs_contract)}) {
    Ints all = *batch;
    all.insert(all.end(), contract->begin(), contract->end());
    for (std::int64_t d : all)
      if (d < 0) return c.error(Code::AG2202, "`dot_general` takes no negative axes");
    AG_TRY_(checked_axes(c, all, c.in(static_cast<std::size_t>(side)).rank(), static_cast<std::size_t>(side)));
  }
  if (a.lhs_contract.size() != a.rhs_contract.size() || a.lhs_batch.size() != a.rhs_batch.size())
    return c.error(Code::AG2206, "`dot_general` needs as many contracted and batch axes on the left as on the right",
                   {}, {0, 1});
  if (auto lanes = c.attrs().get_or<std::int64_t>("lanes", 1); lanes < 1 || lanes > 64 || (lanes & (lanes - 1)) != 0)
    return c.error(Code::AG2206, "`dot_general`: `lanes` is a power of two, at most 64", {}, {});
  if (c.attrs().get_or<std::int64_t>("lanes_rows", 1) < 1)
    return c.error(Code::AG2206, "`dot_general`: `lanes_rows` is at least 1", {}, {});
  AG_TRY_(check_pairs(c, a.lhs_contract, a.rhs_contract, "contracted"));
  AG_TRY_(check_pairs(c, a.lhs_batch, a.rhs_batch, "batch"));
  Type t{c.in(0).dtype, {}};
  for (std::size_t i = 0; i < a.lhs_batch.size(); ++i) {
    const Dim &l = size(c.in(0), a.lhs_batch[i]), &r = size(c.in(1), a.rhs_batch[i]);
    t.shape.push_back(l.is_const() ? l : r.is_const() ? r : l);
  }
  for (std::int64_t d : a.lhs_free) t.shape.push_back(size(c.in(0), d));
  for (std::int64_t d : a.rhs_free) t.shape.push_back(size(c.in(1), d));
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

/// d/dlhs: ct with rhs, contracted over rhs's free axes, gives [batch, lhs free, lhs contracted (in rhs's order)]; the
/// factors exchanged give [batch, lhs contracted, lhs free], which is taken where it is the order of lhs.
ValueId dot_transpose(Builder& b, const View& n, std::size_t i, ValueId ct) {
  Axes a = axes_of(n);
  std::int64_t batch = static_cast<std::int64_t>(a.lhs_batch.size()),
               lhs_free = static_cast<std::int64_t>(a.lhs_free.size()),
               rhs_free = static_cast<std::int64_t>(a.rhs_free.size());
  bool left = i == 0;
  const Ints &other_batch = left ? a.rhs_batch : a.lhs_batch, &other_free = left ? a.rhs_free : a.lhs_free,
             &other_contract = left ? a.rhs_contract : a.lhs_contract, &own_batch = left ? a.lhs_batch : a.rhs_batch,
             &own_free = left ? a.lhs_free : a.rhs_free, &own_contract = left ? a.lhs_contract : a.rhs_contract;
  Ints ct_other = left ? iota_ints(rhs_free, batch + lhs_free) : iota_ints(lhs_free, batch);
  ValueId other = n.operand(left ? 1 : 0);
  auto source = [&](std::int64_t free_from, std::int64_t contract_from) {
    Ints s(static_cast<std::size_t>(left ? n.in(0).rank() : n.in(1).rank()));
    for (std::size_t k = 0; k < own_batch.size(); ++k)
      s[static_cast<std::size_t>(own_batch[k])] = static_cast<std::int64_t>(k);
    for (std::size_t k = 0; k < own_free.size(); ++k)
      s[static_cast<std::size_t>(own_free[k])] = free_from + static_cast<std::int64_t>(k);
    for (std::size_t k = 0; k < own_contract.size(); ++k) {
      std::int64_t rank = 0;
      for (std::int64_t d : other_contract) rank += d < other_contract[k] ? 1 : 0;
      s[static_cast<std::size_t>(own_contract[k])] = contract_from + rank;
    }
    return s;
  };
  const auto contracted = static_cast<std::int64_t>(own_contract.size());
  if (Ints exchanged = source(batch + contracted, batch);
      exchanged == iota_ints(static_cast<std::int64_t>(exchanged.size())))
    return b.dot_general(other, ct, other_free, ct_other, other_batch, iota_ints(batch));
  ValueId r = b.dot_general(ct, other, ct_other, other_free, iota_ints(batch), other_batch);
  return b.transpose(r, source(batch, batch + static_cast<std::int64_t>(own_free.size())));
}

/// Flat offsets of the index space of some axes, row-major in the order given.
Shape offsets(const Shape& shape, const Ints& axes) {
  Shape strides = row_major_strides(shape), sizes, own, out;
  for (std::int64_t d : axes) {
    sizes.push_back(shape[static_cast<std::size_t>(d)]);
    own.push_back(strides[static_cast<std::size_t>(d)]);
  }
  for_each_index(sizes, [&](const Shape& i, std::int64_t) { out.push_back(flat_index(i, own)); });
  return out;
}

template <class T, class Acc>
Array dot_array(const Array& lhs, const Array& rhs, const Axes& a, const Shape& out_shape, std::size_t lanes) {
  Array out(lhs.dtype(), out_shape);
  Shape lb = offsets(lhs.shape(), a.lhs_batch), lf = offsets(lhs.shape(), a.lhs_free),
        lk = offsets(lhs.shape(), a.lhs_contract);
  Shape rb = offsets(rhs.shape(), a.rhs_batch), rf = offsets(rhs.shape(), a.rhs_free),
        rk = offsets(rhs.shape(), a.rhs_contract);
  const T *x = lhs.as<T>().data(), *y = rhs.as<T>().data();
  T* to = out.as_mutable<T>().data();
  std::vector<Acc> row(rf.size() * lanes);
  for (std::size_t b = 0; b < lb.size(); ++b)
    for (std::int64_t i : lf) {
      std::fill(row.begin(), row.end(), Acc(0));
      for (std::size_t k = 0; k < lk.size(); ++k) {
        Acc left = static_cast<Acc>(x[lb[b] + i + lk[k]]);
        const T* line = y + rb[b] + rk[k];
        Acc* sums = row.data() + k % lanes * rf.size();
        for (std::size_t j = 0; j < rf.size(); ++j) {
          Acc right = static_cast<Acc>(line[rf[j]]);
          if constexpr (std::is_floating_point_v<Acc>)
            sums[j] = std::fma(left, right, sums[j]);
          else
            sums[j] += left * right;
        }
      }
      for (std::size_t n = row.size() / 2; n >= rf.size() && n > 0; n /= 2)  // halves
        for (std::size_t j = 0; j < n; ++j) row[j] += row[j + n];
      for (std::size_t j = 0; j < rf.size(); ++j) *to++ = static_cast<T>(row[j]);
    }
  return out;
}

/// acc = fma(a, b, acc) with k ascending, in f32 for f16 and bf16: the bits of a kernel that does not split k. With
/// the attribute `lanes`, k mod lanes says which of so many sums a term is added to; then halves are added.
Result<std::vector<Array>> dot_eval(const EvalCtx& c) {
  Axes a = axes_of(c.node);
  const Array &l = c.in[0], &r = c.in[1];
  auto differ = [&](const Ints& p, const Ints& q) {
    for (std::size_t i = 0; i < p.size(); ++i)
      if (l.shape()[static_cast<std::size_t>(p[i])] != r.shape()[static_cast<std::size_t>(q[i])]) return true;
    return false;
  };
  if (differ(a.lhs_contract, a.rhs_contract) || differ(a.lhs_batch, a.rhs_batch))
    return fail(Code::AG2203, place(c), "contracted or batch sizes of a matrix product differ");
  std::int64_t rows = 1, lanes = c.node.attrs().get_or<std::int64_t>("lanes", 1);
  for (std::int64_t d : a.lhs_free) rows *= l.shape()[static_cast<std::size_t>(d)];
  if (rows > c.node.attrs().get_or<std::int64_t>("lanes_rows", rows)) lanes = 1;
  return one(dispatch_dtype(l.dtype(), [&]<class T>() {
    using Acc = std::conditional_t<std::is_same_v<T, double>, double,
                                   std::conditional_t<std::is_integral_v<T>, std::uint64_t, float>>;
    return dot_array<T, Acc>(l, r, a, c.out_shapes[0], static_cast<std::size_t>(lanes));
  }));
}

ContractionDesc describe(const View& n) {
  auto narrow = [](const Ints& v) { return std::vector<int>(v.begin(), v.end()); };
  Axes a = axes_of(n);
  return {narrow(a.lhs_batch), narrow(a.rhs_batch), narrow(a.lhs_contract), narrow(a.rhs_contract)};
}

/// Both sides batched: one more batch axis. One side: its batch axis is a free one, brought to the front afterwards.
std::vector<ValueId> dot_batch(Builder& b, const View& n, const BatchArgs& v) {
  Axes a = axes_of(n);
  auto moved = [](Ints axes, bool batched) { return batched ? behind_batch(std::move(axes)) : axes; };
  bool left = v.batched[0], right = v.batched[1];
  Ints lhs_batch = moved(a.lhs_batch, left), rhs_batch = moved(a.rhs_batch, right);
  if (left && right) {
    lhs_batch.insert(lhs_batch.begin(), 0);
    rhs_batch.insert(rhs_batch.begin(), 0);
  }
  ValueId y = b.dot_general(v.operands[0], v.operands[1], moved(a.lhs_contract, left), moved(a.rhs_contract, right),
                            lhs_batch, rhs_batch);
  if (left && right) return {y};
  auto at = static_cast<std::int64_t>(a.lhs_batch.size() + (left ? 0 : a.lhs_free.size()));
  Ints perm = iota_ints(b.type(y).rank());
  perm.erase(perm.begin() + at);
  perm.insert(perm.begin(), at);
  return {b.transpose(y, perm)};
}

std::vector<OpSample> dot_samples() {
  auto dims = [](Ints lc, Ints rc, Ints lb = {}, Ints rb = {}) {
    return Attrs{{"lhs_contract", lc}, {"rhs_contract", rc}, {"lhs_batch", lb}, {"rhs_batch", rb}};
  };
  auto in_lanes = [](Attrs attrs) {
    attrs.set("lanes", std::int64_t{8});
    return attrs;
  };
  auto up_to = [&](Attrs attrs, std::int64_t rows) {
    attrs = in_lanes(std::move(attrs));
    attrs.set("lanes_rows", rows);
    return attrs;
  };
  return {sample({"f64[3,4]", "f64[4,2]"}, dims({1}, {0})),
          sample({"f64[2,3,4]", "f64[2,4,5]"}, dims({2}, {1}, {0}, {0})),
          sample({"f64[4]", "f64[4]"}, dims({0}, {0})),
          sample({"f64[3,2,4]", "f64[4,5,3]"}, dims({0, 2}, {2, 0})),
          sample({"f64[3,4,2]", "f64[5,2,3]"}, dims({2}, {1}, {0}, {2})),
          sample({"f64[2]", "f64[3]"}, dims({}, {})),
          sample({"f32[3,0]", "f32[0,2]"}, dims({1}, {0})),
          sample({"f16[3,4]", "f16[4,2]"}, dims({1}, {0})),
          sample({"i32[2,3]", "i32[3,2]"}, dims({1}, {0}), -9, 9),
          sample({"f32[3,70]", "f32[5,70]"}, in_lanes(dims({1}, {1}))),
          sample({"f64[1,19]", "f64[33,19]"}, in_lanes(dims({1}, {1}))),
          sample({"f32[3,70]", "f32[5,70]"}, up_to(dims({1}, {1}), 3)),
          sample({"f32[4,70]", "f32[5,70]"}, up_to(dims({1}, {1}), 3))};
}

}  // namespace

std::vector<OpInfo> contraction_ops() {
  OpInfo o{.name = "dot_general",
           .lower_class = LowerClass::contraction,
           .summary = "sums of products over contracted axes; result axes: batch, left free, right free"};
  o.operands = {{.name = "lhs", .dtypes = numeric}, {.name = "rhs", .dtypes = numeric}};
  o.attrs = {{"lhs_contract", AttrKind::ints, true}, {"rhs_contract", AttrKind::ints, true},
             {"lhs_batch", AttrKind::ints},          {"rhs_batch", AttrKind::ints},
             {"lanes", AttrKind::integer},  // in how many sums terms are added: a power of two
             {"lanes_rows", AttrKind::integer}};  // up to how many rows `lanes` holds; more are summed in order
  o.infer = infer_dot;
  o.eval = dot_eval;
  o.batch = dot_batch;
  o.linearity = Linearity::each;
  o.linear_in = 3;
  o.transpose = dot_transpose;
  o.contraction = describe;
  o.samples = dot_samples;
  return {o};
}

}  // namespace ag
