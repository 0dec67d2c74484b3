// Einsum of any number of operands: one product after another, each sum taken as soon as no later operand needs it.
#include <map>

#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

using Labels = std::vector<int>;  ///< letters; an ellipsis' axes are negative, -1 the last

struct Equation {
  std::vector<Labels> operands;
  Labels result;
};

bool has(const Labels& l, int x) { return std::find(l.begin(), l.end(), x) != l.end(); }

/// One term; `ellipsis` axes stand for "...". nullopt for a character that means nothing.
std::optional<Labels> parse_term(std::string_view term, int ellipsis) {
  Labels out;
  for (std::size_t i = 0; i < term.size(); ++i) {
    char ch = term[i];
    if (ch == ' ') continue;
    if (term.substr(i, 3) == "...") {
      for (int k = ellipsis; k > 0; --k) out.push_back(-k);
      i += 2;
    } else if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')) {
      out.push_back(ch);
    } else {
      return std::nullopt;
    }
  }
  return out;
}

/// Labels of each axis, given the operands' ranks.
std::optional<Equation> parse(std::string_view text, const std::vector<int>& ranks) {
  std::size_t arrow = text.find("->");
  std::string_view left = text.substr(0, arrow);
  Equation e;
  int widest = 0;
  for (int rank : ranks) {
    std::size_t comma = left.find(',');
    std::string_view term = left.substr(0, comma);
    auto letters = parse_term(term, 0);
    if (!letters || (comma == left.npos) != (e.operands.size() + 1 == ranks.size())) return std::nullopt;
    int spare = rank - static_cast<int>(letters->size());
    bool dots = term.find("...") != term.npos;
    if (spare < 0 || (spare > 0 && !dots)) return std::nullopt;
    widest = std::max(widest, spare);
    e.operands.push_back(*parse_term(term, spare));
    left = comma == left.npos ? std::string_view() : left.substr(comma + 1);
  }
  if (arrow != text.npos) {
    auto result = parse_term(text.substr(arrow + 2), widest);
    if (!result) return std::nullopt;
    e.result = *result;
  } else {  // implicit: the ellipsis, then the letters that occur once, in order
    std::map<int, int> count;
    for (const Labels& l : e.operands)
      for (int x : l) ++count[x];
    for (int k = widest; k > 0; --k) e.result.push_back(-k);
    for (auto [x, n] : count)
      if (x > 0 && n == 1) e.result.push_back(x);
  }
  for (std::size_t i = 0; i < e.result.size(); ++i) {
    bool known = false;
    for (const Labels& l : e.operands) known = known || has(l, e.result[i]);
    if (!known || std::count(e.result.begin(), e.result.end(), e.result[i]) != 1) return std::nullopt;
  }
  return e;
}

template <class Node>
std::optional<Equation> equation_of(const Node& n) {
  std::vector<int> ranks;
  for (std::size_t i = 0; i < n.operand_count(); ++i) ranks.push_back(n.in(i).rank());
  return parse(attr_string(n.attrs(), "equation", ""), ranks);
}

Types infer_einsum(const InferCtx& c) {
  auto e = equation_of(c);
  if (!e)
    return c.error(
        Code::AG2206,
        fmt::format("`Einsum`: the equation \"{}\" does not fit the operands", attr_string(c.attrs(), "equation", "")),
        "letters or `...` for each axis, `,` between operands");
  std::map<int, Dim> sizes;
  for (std::size_t i = 0; i < e->operands.size(); ++i)
    for (std::size_t d = 0; d < e->operands[i].size(); ++d) {
      const Dim& size = c.in(i).shape[d];
      auto [it, fresh] = sizes.emplace(e->operands[i][d], size);
      if (fresh || it->second == size || size.is(1)) continue;
      if (it->second.is(1))
        it->second = size;
      else if (it->second.is_const() && size.is_const())
        return c.error(
            Code::AG2203,
            fmt::format("`Einsum` \"{}\": axis {} of {} is {}, elsewhere it is {}",
                        attr_string(c.attrs(), "equation", ""), d, operand_name(c, i), size.str(), it->second.str()),
            "sizes differ", {i});
      else if (size.is_const())
        it->second = size;
    }
  Type t{c.in(0).dtype, {}};
  for (int x : e->result) t.shape.push_back(sizes[x]);
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

/// A value whose axes have labels.
struct Term {
  Expr x;
  Labels labels;

  std::int64_t axis(int label) const { return std::find(labels.begin(), labels.end(), label) - labels.begin(); }
  Dim size(int label) const { return x.type().shape[static_cast<std::size_t>(axis(label))]; }
  void sum(const Labels& gone) {
    Ints axes;
    Labels left;
    for (std::size_t d = 0; d < labels.size(); ++d) {
      if (has(gone, labels[d]))
        axes.push_back(static_cast<std::int64_t>(d));
      else
        left.push_back(labels[d]);
    }
    x = reduce("reduce_sum", x, axes);
    labels = left;
  }
  /// A label that stands on two axes: only the diagonal counts.
  void take_diagonals() {
    for (std::size_t d = 0; d < labels.size(); ++d)
      for (std::size_t e = d + 1; e < labels.size(); ++e) {
        if (labels[e] != labels[d]) continue;
        Type places = x.type().with(DType::i64);
        Builder& b = x.builder();
        Expr same = x.with(b.iota(places, static_cast<std::int64_t>(d))) ==
                    x.with(b.iota(places, static_cast<std::int64_t>(e)));
        x = reduce("reduce_sum", select(same, x, 0), {static_cast<std::int64_t>(e)});
        labels.erase(labels.begin() + static_cast<std::ptrdiff_t>(e));
        e = d;
      }
  }
};

/// Sums what neither `kept` nor the other operand needs, then multiplies.
Term product(Term a, Term b, const Labels& kept) {
  for (auto [self, other] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    Labels gone;
    for (int x : self->labels) {
      bool alone = !has(other->labels, x);
      // A size of 1 that broadcasts against a larger one is dropped.
      if ((alone && !has(kept, x)) || (!alone && self->size(x).is(1) && !other->size(x).is(1))) gone.push_back(x);
    }
    self->sum(gone);
  }
  Ints ac, bc, ab, bb;
  Term r;
  for (int x : a.labels) {
    if (!has(b.labels, x)) continue;
    bool keep = has(kept, x);
    (keep ? ab : ac).push_back(a.axis(x));
    (keep ? bb : bc).push_back(b.axis(x));
    if (keep) r.labels.push_back(x);
  }
  for (const Term* t : {&a, &b})
    for (int x : t->labels)
      if (!has(a.labels, x) || !has(b.labels, x)) r.labels.push_back(x);
  r.x = a.x.with(a.x.builder().dot_general(a.x, b.x, ac, bc, ab, bb));
  return r;
}

std::vector<ValueId> einsum(Builder& b, const View& n) {
  Equation e = *equation_of(n);
  Term total{Expr(b, n.operand(0)), e.operands[0]};
  total.take_diagonals();
  for (std::size_t i = 1; i < e.operands.size(); ++i) {
    Term next{Expr(b, n.operand(i)), e.operands[i]};
    next.take_diagonals();
    Labels kept = e.result;
    for (std::size_t k = i + 1; k < e.operands.size(); ++k)
      kept.insert(kept.end(), e.operands[k].begin(), e.operands[k].end());
    total = product(total, next, kept);
  }
  Labels gone;
  for (int x : total.labels)
    if (!has(e.result, x)) gone.push_back(x);
  total.sum(gone);
  Ints perm;
  for (int x : e.result) perm.push_back(total.axis(x));
  return {b.transpose(total.x, perm)};
}

OpSample equation(std::initializer_list<std::string_view> types, std::string text) {
  return sample(types, {{"equation", std::move(text)}});
}

}  // namespace

std::vector<OpInfo> einsum_ops() {
  OpInfo o = composite({.name = "Einsum", .since = 12, .summary = "sums of products over labelled axes"});
  o.operands = {{.name = "Inputs", .dtypes = numeric, .variadic = true}};
  o.attrs = {{"equation", AttrKind::string, true}};
  o.infer = infer_einsum;
  o.decompose = einsum;
  o.samples = [] {
    return std::vector<OpSample>{equation({"f64[2,3]", "f64[3,4]"}, "ij,jk->ik"),
                                 equation({"f64[2,3,4]", "f64[2,4,5]"}, "bij, bjk -> bik"),
                                 equation({"f64[3,3]"}, "ii->i"),
                                 equation({"f64[3,3]"}, "ii"),
                                 equation({"f64[2,3]"}, "ij->ji"),
                                 equation({"f64[2,1,3,4]", "f64[5,4,2]"}, "...ij,...jk->...ik"),
                                 equation({"f64[2,3]", "f64[3]", "f64[2]"}, "ij,j,i->"),
                                 equation({"f64[3]", "f64[2]"}, "i,j->ij"),
                                 equation({"f64[2,3]", "f64[2,3]"}, "ij,ij->ij")};
  };
  return {o};
}

}  // namespace ag
