// reshape: an index map that divides only where axes are split or merged.
#include "ir/ops/reshape.hpp"

#include <algorithm>
#include <tuple>

#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"

namespace ag::ops {
namespace {

using Elements = std::vector<loop::ValueId>;

Types infer_reshape(const InferCtx& c) {
  AG_TRY(Dims shape, checked_shape(c, attr_dims(c.attrs(), "shape")));
  Dim difference = product(shape) - c.in(0).elems();
  if (difference.is_const() && !difference.is(0))
    return c.error(Code::AG2205,
                   fmt::format("cannot reshape {} into {}: {} elements into {}", shape_str(c.in(0).shape),
                               shape_str(shape), c.in(0).elems().str(), product(shape).str()),
                   "a reshape keeps every element", {0});
  return std::vector<Type>{{c.in(0).dtype, std::move(shape)}};
}

/// Whether the value is an index or a size, or made of such without subtracting.
bool never_negative(const loop::Builder& b, loop::ValueId v, int depth = 0) {
  if (auto n = b.int_value(v)) return *n >= 0;
  loop::StmtId def = b.kernel().values[v].def;
  if (!def) return true;  // of a loop
  const loop::Stmt& s = b.kernel().stmts[def];
  if (s.op == L::dim) return true;
  if (s.op != L::add && s.op != L::mul && s.op != L::div && s.op != L::rem) return false;
  return depth < 16 &&
         std::all_of(
             s.operands.begin(), s.operands.end(), [&](loop::ValueId x) { return never_negative(b, x, depth + 1); });
}

/// Quotient and remainder of an index by n. What is a multiple of n needs no division: of k * n + r only r is divided.
std::pair<loop::ValueId, loop::ValueId> divided(loop::Builder& b, loop::ValueId v, const Dim& n) {
  loop::ValueId by = b.dim(n);
  loop::StmtId def = b.kernel().values[v].def;
  if (def && n.is_const() && n.value() > 0 && b.kernel().stmts[def].op == L::add && never_negative(b, v)) {
    const Elements terms = b.kernel().stmts[def].operands;
    for (std::size_t i : {0u, 1u}) {
      loop::StmtId product = b.kernel().values[terms[i]].def;
      if (!product || b.kernel().stmts[product].op != L::mul) continue;
      const Elements factors = b.kernel().stmts[product].operands;
      auto times = b.int_value(factors[1]);
      if (!times || *times % n.value() != 0) continue;
      auto [quotient, remainder] = divided(b, terms[1 - i], n);
      return {b.add(b.mul(factors[0], b.index(*times / n.value())), quotient), remainder};
    }
  }
  return {b.op(L::div, {v, by}), b.op(L::rem, {v, by})};
}

/// Axes [from, from_end) of the operand have as many elements as axes [to, to_end) of the result; axes of size 1 aside.
struct ReshapeGroup {
  std::vector<std::size_t> from, to;
};

/// The finest such pieces, so that an axis that stays costs no arithmetic.
std::vector<ReshapeGroup> reshape_groups(const Dims& from, const Dims& to) {
  auto long_axes = [](const Dims& shape) {
    std::vector<std::size_t> out;
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (!shape[d].is(1)) out.push_back(d);
    return out;
  };
  std::vector<std::size_t> f = long_axes(from), t = long_axes(to);
  std::vector<ReshapeGroup> groups;
  for (std::size_t i = 0, j = 0; i < f.size() || j < t.size();) {
    std::size_t a = f.size() - i, b = t.size() - j;  // all that is left, if no part of it fits
    auto fits = [&](std::size_t x, std::size_t y) {
      Dim p = 1, q = 1;
      for (std::size_t k = 0; k < x; ++k) p = p * from[f[i + k]];
      for (std::size_t k = 0; k < y; ++k) q = q * to[t[j + k]];
      return p == q;
    };
    for (std::size_t total = 2; total < a + b; ++total)
      for (std::size_t x = 1; x < total && x <= a; ++x)
        if (total - x <= b && fits(x, total - x)) b = total - x, a = x;
    ReshapeGroup g;
    g.from.assign(f.begin() + static_cast<std::ptrdiff_t>(i), f.begin() + static_cast<std::ptrdiff_t>(i + a));
    g.to.assign(t.begin() + static_cast<std::ptrdiff_t>(j), t.begin() + static_cast<std::ptrdiff_t>(j + b));
    groups.push_back(std::move(g));
    i += a, j += b;
  }
  return groups;
}

loop::ValueId reshape_element(ElementCtx& c, LoopValues index) {
  loop::Builder& b = c.b();
  Dims from = c.node().in(0).shape, to = c.node().out().shape;
  Elements out(from.size(), b.index(0));
  for (const ReshapeGroup& g : reshape_groups(from, to)) {
    loop::ValueId flat = b.index(0);
    for (std::size_t d : g.to) flat = b.add(b.mul(flat, b.dim(to[d])), index[d]);
    for (std::size_t k = g.from.size(); k-- > 1;) std::tie(flat, out[g.from[k]]) = divided(b, flat, from[g.from[k]]);
    if (!g.from.empty()) out[g.from[0]] = flat;
  }
  return c.operand(0, out);
}

Result<std::vector<Array>> reshape_eval(const EvalCtx& c) {
  std::int64_t n = 1;
  for (std::int64_t d : c.out_shapes[0]) n *= d;
  if (n != c.in[0].elems())
    return fail(Code::AG2205, place(c), fmt::format("cannot reshape {} elements into {}", c.in[0].elems(), n));
  return one(c.in[0].reshaped(c.out_shapes[0]));
}

}  // namespace

OpInfo reshape_op() {
  return {.name = "reshape",
          .lower_class = LowerClass::index,
          .summary = "the same elements in row-major order in another shape",
          .operands = {{.name = "x"}},
          .attrs = {{"shape", AttrKind::dims, true}},
          .infer = infer_reshape,
          .known_ints = [](const View& n) { return known(n, 0); },
          .eval = reshape_eval,
          .linearity = Linearity::each,
          .linear_in = 1,
          .transpose = [](Builder& b, const View& n, std::size_t,
                          ValueId ct) { return b.reshape(ct, Dims(n.in(0).shape)); },
          .batch = [](Builder& b, const View& n, const BatchArgs& a) -> std::vector<ValueId> {
            Dims shape = attr_dims(n.attrs(), "shape");
            shape.insert(shape.begin(), a.size);
            return {b.reshape(a.operands[0], std::move(shape))};
          },
          .element = reshape_element,
          .inlined = true,
          .samples =
              [] {
                return std::vector<OpSample>{
                    sample({"f64[2,6]"}, {{"shape", Dims{3, 4}}}), sample({"f64[]"}, {{"shape", Dims{1, 1}}}),
                    sample({"i32[0,3]"}, {{"shape", Dims{2, 0}}}), sample({"f64[2,3,1]"}, {{"shape", Dims{1, 6}}})};
              }};
}

}  // namespace ag::ops
