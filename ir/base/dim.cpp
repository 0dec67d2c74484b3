#include "ir/base/dim.hpp"

#include <algorithm>
#include <numeric>

namespace ag {

std::optional<std::int64_t> checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

namespace {

using Factor = Dim::Factor;
using Term = Dim::Term;
using Atom = Dim::Atom;

// Expressions are DAGs of shared parts but are compared and printed as trees, so the tree's size is bounded.
constexpr std::uint32_t max_weight = 2048, max_depth = 64;

std::optional<std::int64_t> floor_quotient(std::int64_t a, std::int64_t b) {
  if (b == 0 || (a == INT64_MIN && b == -1)) return std::nullopt;
  std::int64_t q = a / b;
  return q - (a % b != 0 && (a < 0) != (b < 0));
}

std::optional<std::int64_t> floor_remainder(std::int64_t a, std::int64_t b) {
  if (b == 0) return std::nullopt;
  if (b == -1) return 0;
  std::int64_t r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

// Monomials by falling degree, then lexicographically: an order that multiplication keeps, so that the
// first term of a product is the product of the first terms (exact_quotient relies on it).
bool monomial_before(const Term& a, const Term& b) {
  if (a.factors.size() != b.factors.size()) return a.factors.size() > b.factors.size();
  return a.factors < b.factors;
}

std::size_t mix(std::size_t h, std::size_t v) { return h ^ (v + 0x9e3779b97f4a7c15ull + (h << 6) + (h >> 2)); }

}  // namespace

struct Dim::Expr {
  std::vector<Term> terms;  // without the constant one; sorted by monomial_before; coefficients are not 0
  bool invalid = false;
  std::uint32_t weight = 0, depth = 0;
  std::size_t hash = 0;
};

/// The rewriting behind Dim's operators.
struct DimRules {
  static int compare(const Dim& a, const Dim& b);
  static int compare(const Factor& a, const Factor& b);
  static int compare(const std::vector<Factor>& a, const std::vector<Factor>& b);
  static Dim from_terms(std::vector<Term> terms);
  static Dim from_term(Term term) { return from_terms({std::move(term)}); }
  static Dim atom(Atom kind, Dim a, Dim b) { return from_term({1, {Factor{kind, {}, {std::move(a), std::move(b)}}}}); }
  static std::optional<Dim> exact_quotient(Dim a, const Dim& b);
  static Dim divide_by_constant(const Dim& a, std::int64_t k);
  static Dim remainder_by_constant(const Dim& a, std::int64_t k);
  static Dim divide_by_monomial(const Dim& a, const Dim& b);
  static Dim extremum(Atom kind, const Dim& a, const Dim& b);
  /// The factor if `d` is exactly one atom.
  static const Factor* single(const Dim& d);
  /// The atom `kind(a, b)` of a commutative, associative, idempotent kind, with a's or b's repetition absorbed.
  static Dim lattice(Atom kind, const Dim& a, const Dim& b);
  static std::optional<std::int64_t> eval(const Factor& f, const DimEnv& env);
  static void weigh(const Dim& d, std::uint32_t& weight, std::uint32_t& depth);
};

int DimRules::compare(const std::vector<Factor>& a, const std::vector<Factor>& b) {
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (int c = compare(a[i], b[i])) return c;
  return a.size() == b.size() ? 0 : a.size() < b.size() ? -1 : 1;
}

int DimRules::compare(const Factor& a, const Factor& b) {
  if (a.kind != b.kind) return a.kind < b.kind ? -1 : 1;
  if (int c = a.name.compare(b.name)) return c;
  for (std::size_t i = 0; i < a.args.size() && i < b.args.size(); ++i)
    if (int c = compare(a.args[i], b.args[i])) return c;
  return 0;
}

int DimRules::compare(const Dim& a, const Dim& b) {
  if (a.expr_ != b.expr_) {
    if (!a.expr_ || !b.expr_) return a.expr_ ? 1 : -1;
    if (a.expr_->invalid || b.expr_->invalid)
      return a.expr_->invalid == b.expr_->invalid ? 0 : a.expr_->invalid ? 1 : -1;
    const auto &x = a.expr_->terms, &y = b.expr_->terms;
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (int c = compare(x[i].factors, y[i].factors)) return c;
      if (x[i].coeff != y[i].coeff) return x[i].coeff < y[i].coeff ? -1 : 1;
    }
    if (x.size() != y.size()) return x.size() < y.size() ? -1 : 1;
  }
  return a.constant_ == b.constant_ ? 0 : a.constant_ < b.constant_ ? -1 : 1;
}

bool Dim::Factor::operator==(const Factor& o) const { return DimRules::compare(*this, o) == 0; }
bool Dim::Factor::operator<(const Factor& o) const { return DimRules::compare(*this, o) < 0; }
bool Dim::operator==(const Dim& o) const {
  if (expr_ && o.expr_ && expr_->hash != o.expr_->hash) return false;
  return DimRules::compare(*this, o) == 0;
}
bool Dim::operator<(const Dim& o) const { return DimRules::compare(*this, o) < 0; }

void DimRules::weigh(const Dim& d, std::uint32_t& weight, std::uint32_t& depth) {
  weight += d.expr_ ? d.expr_->weight : 1;
  depth = std::max(depth, d.expr_ ? d.expr_->depth : 0u);
}

/// Sorts, merges equal monomials, drops zeros: the one way by which expressions come about.
Dim DimRules::from_terms(std::vector<Term> terms) {
  std::sort(terms.begin(), terms.end(), monomial_before);
  auto expr = std::make_shared<Dim::Expr>();
  Dim out;
  for (std::size_t i = 0; i < terms.size();) {
    std::int64_t coeff = 0;
    std::size_t first = i;
    for (; i < terms.size() && terms[i].factors == terms[first].factors; ++i) {
      auto sum = checked_add(coeff, terms[i].coeff);
      if (!sum) return Dim::invalid();
      coeff = *sum;
    }
    if (coeff == 0) continue;
    if (terms[first].factors.empty())
      out.constant_ = coeff;
    else
      expr->terms.push_back({coeff, std::move(terms[first].factors)});
  }
  if (expr->terms.empty()) return out;
  std::uint32_t weight = 1, depth = 0;
  std::size_t hash = 17;
  for (const Term& t : expr->terms) {
    hash = mix(hash, std::hash<std::int64_t>()(t.coeff));
    for (const Factor& f : t.factors) {
      weight += 1;
      hash = mix(mix(hash, static_cast<std::size_t>(f.kind)), std::hash<std::string>()(f.name));
      for (const Dim& arg : f.args) {
        if (!arg.valid()) return Dim::invalid();
        weigh(arg, weight, depth);
        hash = mix(hash, arg.hash());
      }
      if (weight > max_weight || depth + 1 > max_depth) return Dim::invalid();
    }
  }
  expr->weight = weight;
  expr->depth = depth + 1;
  expr->hash = hash;
  out.expr_ = std::move(expr);
  return out;
}

Dim Dim::symbol(std::string name) { return DimRules::from_term({1, {Factor{Atom::symbol, std::move(name), {}}}}); }

Dim Dim::invalid() {
  static const auto expr = [] {
    auto e = std::make_shared<Expr>();
    e->invalid = true;
    return e;
  }();
  Dim d;
  d.expr_ = expr;
  return d;
}

bool Dim::valid() const { return !expr_ || !expr_->invalid; }
bool Dim::is_const() const { return !expr_; }
std::int64_t Dim::value() const { return constant_; }
std::size_t Dim::hash() const { return mix(expr_ ? expr_->hash : 0, std::hash<std::int64_t>()(constant_)); }

std::optional<std::string> Dim::as_symbol() const {
  const Factor* f = DimRules::single(*this);
  return f && f->kind == Atom::symbol ? std::optional(f->name) : std::nullopt;
}

std::vector<Dim::Term> Dim::terms() const {
  std::vector<Term> out;
  if (expr_) out = expr_->terms;
  if (constant_ != 0) out.push_back({constant_, {}});
  return out;
}

const Factor* DimRules::single(const Dim& d) {
  if (!d.expr_ || d.expr_->invalid || d.constant_ != 0 || d.expr_->terms.size() != 1) return nullptr;
  const Term& t = d.expr_->terms[0];
  return t.coeff == 1 && t.factors.size() == 1 ? &t.factors[0] : nullptr;
}

Dim operator+(const Dim& a, const Dim& b) {
  if (!a.valid() || !b.valid()) return Dim::invalid();
  if (a.is(0)) return b;
  if (b.is(0)) return a;
  auto terms = a.terms();
  for (Term& t : b.terms()) terms.push_back(std::move(t));
  return DimRules::from_terms(std::move(terms));
}

Dim operator-(const Dim& a, const Dim& b) {
  if (a.is_const() && b.is_const()) {
    std::int64_t r;
    return __builtin_sub_overflow(a.value(), b.value(), &r) ? Dim::invalid() : Dim(r);
  }
  return a + Dim(-1) * b;
}

Dim operator*(const Dim& a, const Dim& b) {
  if (!a.valid() || !b.valid()) return Dim::invalid();
  if (a.is(1)) return b;
  if (b.is(1)) return a;
  auto x = a.terms(), y = b.terms();
  if (x.size() * y.size() > max_weight) return Dim::invalid();
  std::vector<Term> out;
  for (const Term& s : x)
    for (const Term& t : y) {
      auto coeff = checked_mul(s.coeff, t.coeff);
      if (!coeff || s.factors.size() + t.factors.size() > max_weight) return Dim::invalid();
      Term p{*coeff, {}};
      std::merge(s.factors.begin(), s.factors.end(), t.factors.begin(), t.factors.end(), std::back_inserter(p.factors));
      out.push_back(std::move(p));
    }
  return DimRules::from_terms(std::move(out));
}

/// q with a == q*b as polynomials, by long division; nullopt if there is none.
std::optional<Dim> DimRules::exact_quotient(Dim a, const Dim& b) {
  const Term lead = b.terms().front();
  Dim q;
  for (int steps = 0; steps < 64; ++steps) {
    if (!a.valid() || !q.valid()) return std::nullopt;
    if (a.is(0)) return q;
    const Term first = a.terms().front();
    if (lead.coeff == -1 && first.coeff == INT64_MIN) return std::nullopt;
    if (first.coeff % lead.coeff != 0) return std::nullopt;
    if (!std::includes(first.factors.begin(), first.factors.end(), lead.factors.begin(), lead.factors.end()))
      return std::nullopt;
    Term t{first.coeff / lead.coeff, {}};
    std::set_difference(first.factors.begin(), first.factors.end(), lead.factors.begin(), lead.factors.end(),
                        std::back_inserter(t.factors));
    Dim part = from_term(std::move(t));
    q = q + part;
    a = a - part * b;
  }
  return std::nullopt;
}

/// floor(a / k) for k > 1. From a = k*q + r with the coefficients of r in [0, k): floor(a/k) = q + floor(r/k).
Dim DimRules::divide_by_constant(const Dim& a, std::int64_t k) {
  std::vector<Term> whole, rest;
  std::int64_t g = k;
  for (const Term& t : a.terms()) {
    std::int64_t r = *floor_remainder(t.coeff, k);
    whole.push_back({*floor_quotient(t.coeff, k), t.factors});
    rest.push_back({r, t.factors});
    if (!t.factors.empty()) g = std::gcd(g, r);
  }
  // floor((g*x + c) / (g*k')) = floor((x + floor(c/g)) / k')
  for (Term& t : rest) t.coeff = *floor_quotient(t.coeff, g);
  k /= g;
  Dim q = from_terms(std::move(whole)), r = from_terms(std::move(rest));
  if (k == 1) return q + r;
  if (r.is_const()) return q;
  if (const Factor* f = single(r)) {
    if (f->kind == Atom::mod && f->args[1].is_const() && f->args[1].value() > 0 && f->args[1].value() <= k) return q;
    if (f->kind == Atom::floordiv && f->args[1].is_const() && f->args[1].value() > 0)
      if (auto both = checked_mul(k, f->args[1].value())) return q + floordiv(f->args[0], Dim(*both));
  }
  return q + atom(Atom::floordiv, r, Dim(k));
}

/// a mod k for k > 1; multiples of k fall away, a common divisor comes out.
Dim DimRules::remainder_by_constant(const Dim& a, std::int64_t k) {
  std::vector<Term> rest;
  std::int64_t g = k, offset = 0;
  for (const Term& t : a.terms()) {
    std::int64_t r = *floor_remainder(t.coeff, k);
    rest.push_back({r, t.factors});
    if (!t.factors.empty()) g = std::gcd(g, r);
  }
  // (g*x + c) mod (g*k') = g*((x + floor(c/g)) mod k') + c mod g
  for (Term& t : rest) {
    if (t.factors.empty()) offset = t.coeff % g;
    t.coeff /= g;
  }
  k /= g;
  Dim r = from_terms(std::move(rest));
  if (k == 1) return Dim(offset);
  Dim inner;
  const Factor* f = single(r);
  if (r.is_const())
    inner = Dim(*floor_remainder(r.value(), k));
  else if (f && f->kind == Atom::mod && f->args[1].is_const() && f->args[1].value() > 0 && f->args[1].value() <= k)
    inner = r;
  else if (f && f->kind == Atom::mod && f->args[1].is_const() && f->args[1].value() % k == 0)
    inner = mod(f->args[0], Dim(k));
  else
    inner = atom(Atom::mod, r, Dim(k));
  return Dim(g) * inner + Dim(offset);
}

/// floor(a / b) for a one-term b: the terms of `a` that b divides come out.
Dim DimRules::divide_by_monomial(const Dim& a, const Dim& b) {
  std::vector<Term> rest;
  Dim q;
  for (const Term& t : a.terms()) {
    if (auto part = exact_quotient(from_term(t), b))
      q = q + *part;
    else
      rest.push_back(t);
  }
  Dim r = from_terms(std::move(rest));
  return r.is(0) ? q : q + atom(Atom::floordiv, r, b);
}

Dim floordiv(const Dim& a, const Dim& b) {
  if (!a.valid() || !b.valid() || b.is(0)) return Dim::invalid();
  if (a.is_const() && b.is_const()) {
    auto q = floor_quotient(a.value(), b.value());
    return q ? Dim(*q) : Dim::invalid();
  }
  if (a.is(0) || b.is(1)) return a;
  if (b.is(-1)) return Dim(0) - a;
  if (b.is_const()) {
    if (b.value() > 0) return DimRules::divide_by_constant(a, b.value());
    if (b.value() == INT64_MIN) return Dim::invalid();
    return floordiv(Dim(0) - a, Dim(-b.value()));
  }
  if (auto q = DimRules::exact_quotient(a, b)) return *q;
  return b.terms().size() == 1 ? DimRules::divide_by_monomial(a, b) : DimRules::atom(Atom::floordiv, a, b);
}

Dim mod(const Dim& a, const Dim& b) {
  if (!a.valid() || !b.valid() || b.is(0)) return Dim::invalid();
  if (a.is_const() && b.is_const()) return Dim(*floor_remainder(a.value(), b.value()));
  if (a.is(0) || b.is(1) || b.is(-1)) return Dim(0);
  if (b.is_const()) {
    if (b.value() > 0) return DimRules::remainder_by_constant(a, b.value());
    if (b.value() == INT64_MIN) return Dim::invalid();
    return Dim(0) - mod(Dim(0) - a, Dim(-b.value()));
  }
  return DimRules::exact_quotient(a, b) ? Dim(0) : DimRules::atom(Atom::mod, a, b);
}

Dim DimRules::lattice(Atom kind, const Dim& a, const Dim& b) {
  for (auto [whole, part] : {std::pair{&a, &b}, {&b, &a}})
    if (const Factor* f = single(*whole); f && f->kind == kind && (f->args[0] == *part || f->args[1] == *part))
      return *whole;
  return a < b ? atom(kind, a, b) : atom(kind, b, a);
}

Dim DimRules::extremum(Atom kind, const Dim& a, const Dim& b) {
  if (!a.valid() || !b.valid()) return Dim::invalid();
  // N and N + 1 compare whatever N is.
  Dim difference = a - b;
  if (a == b || (difference.valid() && difference.is_const()))
    return (difference.value() < 0) == (kind == Atom::min) ? a : b;
  if (a.is_const() && b.is_const()) return (a.value() < b.value()) == (kind == Atom::min) ? a : b;
  return lattice(kind, a, b);
}

Dim min(const Dim& a, const Dim& b) { return DimRules::extremum(Atom::min, a, b); }
Dim max(const Dim& a, const Dim& b) { return DimRules::extremum(Atom::max, a, b); }

Dim Dim::bcast(const Dim& a, const Dim& b) {
  if (!a.valid() || !b.valid()) return invalid();
  if (b.is(1) || a == b) return a;
  if (a.is(1)) return b;
  if (a.is_const() && b.is_const()) return invalid();
  return DimRules::lattice(Atom::bcast, a, b);
}

std::optional<std::int64_t> DimRules::eval(const Factor& f, const DimEnv& env) {
  if (f.kind == Atom::symbol) {
    auto it = env.find(f.name);
    return it == env.end() ? std::nullopt : std::optional(it->second);
  }
  auto a = f.args[0].eval(env), b = f.args[1].eval(env);
  if (!a || !b) return std::nullopt;
  switch (f.kind) {
    case Atom::floordiv: return floor_quotient(*a, *b);
    case Atom::mod: return floor_remainder(*a, *b);
    case Atom::min: return std::min(*a, *b);
    case Atom::max: return std::max(*a, *b);
    case Atom::bcast: break;
    case Atom::symbol: break;
  }
  if (*b == 1 || *a == *b) return a;
  return *a == 1 ? b : std::nullopt;
}

std::optional<std::int64_t> Dim::eval(const DimEnv& env) const {
  if (!expr_) return constant_;
  if (expr_->invalid) return std::nullopt;
  std::int64_t sum = constant_;
  for (const Term& t : expr_->terms) {
    std::int64_t p = t.coeff;
    for (const Factor& f : t.factors) {
      auto v = DimRules::eval(f, env);
      if (!v || __builtin_mul_overflow(p, *v, &p)) return std::nullopt;
    }
    if (__builtin_add_overflow(sum, p, &sum)) return std::nullopt;
  }
  return sum;
}

Dim Dim::substitute(const std::map<std::string, Dim, std::less<>>& env) const {
  if (!expr_ || expr_->invalid) return *this;
  Dim sum = constant_;
  for (const Term& t : expr_->terms) {
    Dim p = t.coeff;
    for (const Factor& f : t.factors) {
      if (f.kind == Atom::symbol) {
        auto it = env.find(f.name);
        p = p * (it == env.end() ? symbol(f.name) : it->second);
        continue;
      }
      Dim a = f.args[0].substitute(env), b = f.args[1].substitute(env);
      switch (f.kind) {
        case Atom::floordiv: p = p * floordiv(a, b); break;
        case Atom::mod: p = p * mod(a, b); break;
        case Atom::min: p = p * min(a, b); break;
        case Atom::max: p = p * max(a, b); break;
        case Atom::bcast: p = p * bcast(a, b); break;
        case Atom::symbol: break;
      }
    }
    sum = sum + p;
  }
  return sum;
}

void Dim::collect_symbols(std::set<std::string>& out) const {
  if (!expr_) return;
  for (const Term& t : expr_->terms)
    for (const Factor& f : t.factors) {
      if (f.kind == Atom::symbol) out.insert(f.name);
      for (const Dim& arg : f.args) arg.collect_symbols(out);
    }
}

Dim product(const Dims& dims) {
  Dim p = 1;
  for (const Dim& d : dims) p = p * d;
  return p;
}

}  // namespace ag
