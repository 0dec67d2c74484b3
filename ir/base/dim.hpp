// Sizes: integers, symbols, and exact integer expressions of them. Used by tensor shapes and by the
// sizes, offsets and trip counts of lowered programs.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace ag {

/// An integer expression over named symbols, in canonical form: a sum of products of atoms with
/// integer coefficients. An atom is a symbol or one of floordiv, mod, min, max, bcast of two
/// expressions. Equal canonical forms mean equal values; different forms may still be equal.
/// Arithmetic that overflows int64, a division by the constant 0, bcast of two constants that do not
/// broadcast, and expressions of unreasonable size (some 2000 atoms) yield an invalid Dim (`!valid()`),
/// which poisons its users. Simplification may lose a division by zero, never a failing bcast of symbols.
class Dim {
 public:
  enum class Atom : std::uint8_t { symbol, floordiv, mod, min, max, bcast };

  Dim() = default;                               ///< 0
  Dim(std::int64_t value) : constant_(value) {}  // NOLINT: integers are sizes
  static Dim symbol(std::string name);
  /// `a` if b == 1, `b` if a == 1, else both must be equal: numpy's rule, settled at run time.
  static Dim bcast(const Dim& a, const Dim& b);
  static Dim invalid();

  bool valid() const;
  bool is_const() const;
  std::int64_t value() const;                    ///< only if is_const()
  bool is(std::int64_t v) const { return is_const() && value() == v; }
  std::optional<std::string> as_symbol() const;  ///< the name if this is a bare symbol

  friend Dim operator+(const Dim&, const Dim&);
  friend Dim operator-(const Dim&, const Dim&);
  friend Dim operator*(const Dim&, const Dim&);
  friend Dim floordiv(const Dim&, const Dim&);   ///< towards minus infinity; divisor must not be 0
  friend Dim ceildiv(const Dim& a, const Dim& b) { return floordiv(a + b - Dim(1), b); }
  friend Dim mod(const Dim&, const Dim&);
  friend Dim min(const Dim&, const Dim&);
  friend Dim max(const Dim&, const Dim&);
  bool operator==(const Dim&) const;             ///< of canonical forms
  bool operator<(const Dim&) const;              ///< some total order, for maps

  /// "2*N + 1", "floordiv(N, 2)"; a name that is no identifier is quoted. parse(str()) == *this if valid.
  std::string str() const;
  static std::optional<Dim> parse(std::string_view text);

  /// Value under a binding of all symbols; nullopt for an unbound symbol, an overflow, a division by
  /// zero or a bcast of two different sizes that are not 1.
  std::optional<std::int64_t> eval(const std::map<std::string, std::int64_t, std::less<>>& env) const;
  Dim substitute(const std::map<std::string, Dim, std::less<>>& env) const;
  void collect_symbols(std::set<std::string>& out) const;
  std::size_t hash() const;

  /// Structure, for code that emits the expression: sum over terms of coefficient * product of factors.
  struct Factor {
    Atom kind;
    std::string name;          // symbol
    std::vector<Dim> args;     // two, for the other kinds
    bool operator==(const Factor&) const;
    bool operator<(const Factor&) const;
  };
  struct Term {
    std::int64_t coeff;
    std::vector<Factor> factors;  // sorted; with repetition for powers
  };
  /// Terms including the constant one (no factors), which is left out when it is 0.
  std::vector<Term> terms() const;

 private:
  struct Expr;
  friend struct DimRules;
  std::int64_t constant_ = 0;
  std::shared_ptr<const Expr> expr_;  // null for a constant
};

using Dims = std::vector<Dim>;
using DimEnv = std::map<std::string, std::int64_t, std::less<>>;

Dim product(const Dims& dims);
/// a*b, nullopt on overflow. Every size that comes from outside goes through these.
std::optional<std::int64_t> checked_mul(std::int64_t a, std::int64_t b);
std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b);

}  // namespace ag

template <>
struct std::hash<ag::Dim> {
  std::size_t operator()(const ag::Dim& d) const noexcept { return d.hash(); }
};
