#include "ir/ops/tfidf.hpp"

#include "ir/ops/along.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// N-grams of one length out of the pool, and the number of the first.
struct Grams {
  std::int64_t length, count, first;
  Ints items;  ///< [count, length]
};

/// Lengths in order; empty if the attributes do not fit together.
std::optional<std::vector<Grams>> pool_of(const Attrs& a) {
  Ints starts = attr_ints(a, "ngram_counts"), pool = attr_ints(a, "pool_int64s");
  std::vector<Grams> out;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    std::int64_t from = starts[i], to = i + 1 < starts.size() ? starts[i + 1] : static_cast<std::int64_t>(pool.size()),
                 length = static_cast<std::int64_t>(i) + 1;
    if (from < 0 || to < from || to > static_cast<std::int64_t>(pool.size()) || (to - from) % length != 0)
      return std::nullopt;
    out.push_back({length, (to - from) / length, first, Ints(pool.begin() + from, pool.begin() + to)});
    first += out.back().count;
  }
  if (first != static_cast<std::int64_t>(attr_ints(a, "ngram_indexes").size())) return std::nullopt;
  return out;
}

std::int64_t columns_of(const Attrs& a) {
  Ints indexes = attr_ints(a, "ngram_indexes");
  return indexes.empty() ? 0 : *std::max_element(indexes.begin(), indexes.end()) + 1;
}

Types infer(const InferCtx& c) {
  const Type& x = c.in(0);
  if (x.rank() != 1 && x.rank() != 2)
    return c.error(Code::AG2204, "`TfIdfVectorizer` needs [tokens] or [batch, tokens], not " + x.str(), {}, {0});
  if (!x.shape.back().is_const())
    return c.error(Code::AG2211, "`TfIdfVectorizer` of a symbolic number of tokens is not supported: " + x.str(), {},
                   {0});
  auto pool = pool_of(c.attrs());
  Ints indexes = attr_ints(c.attrs(), "ngram_indexes");
  const std::int64_t columns = columns_of(c.attrs());
  const auto weights = c.attrs().get_or<std::vector<double>>("weights", {});
  bool sound = pool && columns > 0 && columns < (std::int64_t{1} << 31) &&
               std::all_of(
                   indexes.begin(), indexes.end(), [](std::int64_t i) { return i >= 0; }) &&
               (weights.empty() || static_cast<std::int64_t>(weights.size()) >= columns) &&
               c.attrs().get_or<std::vector<std::string>>("pool_strings", {}).empty();
  if (!sound)
    return c.error(
        Code::AG2206,
        "`TfIdfVectorizer`: `ngram_counts`, `ngram_indexes`, `pool_int64s` and `weights` do not fit together",
        "pools of strings are not supported");
  Type t{DType::f32, x.shape};
  t.shape.back() = columns;
  return std::vector<Type>{std::move(t)};
}

/// How often each n-gram occurs with its tokens `step` apart: [batch, n-grams].
Expr occurrences(Expr x, const Grams& grams, std::int64_t step) {
  GraphBuilder& b = x.builder();
  Dims shape = x.type().shape;
  const std::int64_t places = shape[1].value() - (grams.length - 1) * step;
  Expr all;
  for (std::int64_t k = 0; k < grams.length; ++k) {
    Array tokens(x.dtype(), {grams.count, 1});
    for (std::int64_t g = 0; g < grams.count; ++g) tokens.set_int(g, grams.items[at(g * grams.length + k)]);
    Expr part = slice_along(x, 1, k * step, k * step + places);
    part = part.with(b.reshape(part, {shape[0], 1, places}));
    Expr hit = part == x.with(b.constant(make_literal(std::move(tokens))));
    all = k == 0 ? hit : both(all, hit);
  }
  return reduce("reduce_sum", all.to(DType::f32), {2});
}

std::vector<ValueId> tfidf(Builder& b, const View& n) {
  const Attrs& a = n.attrs();
  const std::vector<Grams> pool = *pool_of(a);
  const Ints indexes = attr_ints(a, "ngram_indexes");
  const std::int64_t low = attr_int(a, "min_gram_length", 1), high = attr_int(a, "max_gram_length", 1),
                     skips = attr_int(a, "max_skip_count", 0), columns = columns_of(a);
  const std::string mode = attr_string(a, "mode", "TF");
  const auto weights = a.get_or<std::vector<double>>("weights", {});
  const Type out = n.out();
  Expr x(b, n.operand(0));
  if (x.type().rank() == 1) x = x.with(b.reshape(x, {1, x.type().shape[0]}));
  const Dim rows = x.type().shape[0];
  Expr counts(b, b.zeros({DType::f32, {rows, columns}}));
  for (const Grams& grams : pool) {
    if (grams.length < low || grams.length > high || grams.count == 0) continue;
    Expr found;
    for (std::int64_t step = 1; step <= (grams.length == 1 ? 1 : skips + 1); ++step) {
      if (x.type().shape[1].value() <= (grams.length - 1) * step) break;
      Expr more = occurrences(x, grams, step);
      found = step == 1 ? more : found + more;
    }
    if (!found.id()) continue;
    Expr where(b, b.ints(std::span(indexes).subspan(at(grams.first), at(grams.count))));
    where = where.with(b.broadcast_to(where, {rows, grams.count}));
    counts = scatter_along(counts, where, found, 1, "add");
  }
  if (mode == "IDF") counts = (counts > 0.0).to(DType::f32);
  if (mode != "TF" && !weights.empty()) {
    Array w = Array::of<double>(DType::f32, {columns}, std::span(weights).first(at(columns)));
    counts = counts * counts.with(b.constant(make_literal(std::move(w))));
  }
  return {b.reshape(counts, Dims(out.shape))};
}

}  // namespace

OpInfo tfidf_op() {
  OpInfo o = composite({.name = "TfIdfVectorizer",
                        .since = 9,
                        .summary = "how often the n-grams of a pool of integers occur, as counts or weights"});
  o.operands = {{.name = "X", .dtypes = set_of(DType::i32) | set_of(DType::i64)}};
  o.results = {{"Y", "R"}};
  o.attrs = {{"max_gram_length", AttrKind::integer, true},
             {"max_skip_count", AttrKind::integer, true},
             {"min_gram_length", AttrKind::integer, true},
             {"mode", AttrKind::string, true, {}, {}, {"TF", "IDF", "TFIDF"}},
             {"ngram_counts", AttrKind::ints, true},
             {"ngram_indexes", AttrKind::ints, true},
             {"pool_int64s", AttrKind::ints},
             {"pool_strings", AttrKind::strings},
             {"weights", AttrKind::numbers}};
  o.infer = infer;
  o.decompose = tfidf;
  o.zero_gradient = true;
  o.samples = [] {
    auto with = [](std::string_view type, std::string mode, std::int64_t low, std::int64_t skips) {
      return sample({type},
                    {{"max_gram_length", std::int64_t{2}},
                     {"max_skip_count", skips},
                     {"min_gram_length", low},
                     {"mode", std::move(mode)},
                     {"ngram_counts", Ints{0, 3}},
                     {"ngram_indexes", Ints{0, 1, 2, 4, 3}},
                     {"pool_int64s", Ints{0, 1, 2, 0, 1, 2, 2}},
                     {"weights", std::vector<double>{1, 2, 0.5, 3, 0.25}}},
                    0, 2);
    };
    return std::vector<OpSample>{with("i32[9]", "TF", 1, 0), with("i64[2,12]", "TFIDF", 1, 3),
                                 with("i64[2,7]", "IDF", 2, 1)};
  };
  return o;
}

}  // namespace ag
