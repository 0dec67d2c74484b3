// Dim as text: print and parse.
#include <array>
#include <cctype>
#include <charconv>

#include "ir/base/dim.hpp"

namespace ag {
namespace {

using Atom = Dim::Atom;
constexpr std::array<std::string_view, 6> functions = {"", "floordiv", "mod", "min", "max", "bcast"};
constexpr int max_nesting = 64;

bool name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool name_char(char c) { return name_start(c) || std::isdigit(static_cast<unsigned char>(c)) || c == '.'; }

bool is_identifier(std::string_view s) {
  if (s.empty() || !name_start(s[0])) return false;
  for (char c : s)
    if (!name_char(c)) return false;
  for (std::string_view f : functions)
    if (f == s) return false;
  return true;
}

std::string quoted(std::string_view s) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out = "\"";
  for (char c : s) {
    auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (u < 0x20 || u == 0x7f)
      ((out += "\\x") += digits[u >> 4]) += digits[u & 15];
    else
      out += c;
  }
  return out + '"';
}

/// Recursive descent over `+ - *`, the functions, names, numbers and parentheses.
class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  std::optional<Dim> all() {
    auto d = sum(0);
    skip();
    return d && d->valid() && rest_.empty() ? d : std::nullopt;
  }

 private:
  std::string_view rest_;

  void skip() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\t')) rest_.remove_prefix(1);
  }
  bool eat(char c) {
    skip();
    if (rest_.empty() || rest_[0] != c) return false;
    rest_.remove_prefix(1);
    return true;
  }

  std::optional<Dim> sum(int depth) {
    if (depth > max_nesting) return std::nullopt;
    auto d = product(depth, eat('-'));
    while (d) {
      bool minus = false;
      if (!eat('+')) {
        if (!(minus = eat('-'))) break;
      }
      auto t = product(depth, minus);
      if (!t) return std::nullopt;
      d = *d + *t;
    }
    return d;
  }

  std::optional<Dim> product(int depth, bool negative) {
    auto d = factor(depth, negative);
    while (d && eat('*')) {
      auto f = factor(depth, eat('-'));
      if (!f) return std::nullopt;
      d = *d * *f;
    }
    return d;
  }

  // The sign belongs to the number, so that the least int64 can be written.
  std::optional<Dim> factor(int depth, bool negative) {
    skip();
    if (rest_.empty()) return std::nullopt;
    if (std::isdigit(static_cast<unsigned char>(rest_[0]))) return number(negative);
    auto d = atom(depth);
    return d && negative ? Dim(-1) * *d : d;
  }

  std::optional<Dim> number(bool negative) {
    std::uint64_t v = 0;
    auto [end, err] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), v);
    if (err != std::errc() || v > (std::uint64_t{1} << 63) - (negative ? 0 : 1)) return std::nullopt;
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    if (!rest_.empty() && name_char(rest_[0])) return std::nullopt;
    return Dim(static_cast<std::int64_t>(negative ? 0 - v : v));
  }

  std::optional<Dim> atom(int depth) {
    if (rest_[0] == '"') return quoted_name();
    if (eat('(')) {
      auto d = sum(depth + 1);
      return d && eat(')') ? d : std::nullopt;
    }
    if (!name_start(rest_[0])) return std::nullopt;
    std::size_t n = 1;
    while (n < rest_.size() && name_char(rest_[n])) ++n;
    std::string_view name = rest_.substr(0, n);
    rest_.remove_prefix(n);
    for (std::size_t i = 1; i < functions.size(); ++i)
      if (functions[i] == name) return call(static_cast<Atom>(i), depth);
    return Dim::symbol(std::string(name));
  }

  std::optional<Dim> call(Atom kind, int depth) {
    if (!eat('(')) return std::nullopt;
    auto a = sum(depth + 1);
    if (!a || !eat(',')) return std::nullopt;
    auto b = sum(depth + 1);
    if (!b || !eat(')')) return std::nullopt;
    switch (kind) {
      case Atom::floordiv: return floordiv(*a, *b);
      case Atom::mod: return mod(*a, *b);
      case Atom::min: return min(*a, *b);
      case Atom::max: return max(*a, *b);
      case Atom::bcast: return Dim::bcast(*a, *b);
      case Atom::symbol: break;
    }
    return std::nullopt;
  }

  std::optional<Dim> quoted_name() {
    std::string name;
    for (std::size_t i = 1; i < rest_.size(); ++i) {
      if (rest_[i] == '"') {
        rest_.remove_prefix(i + 1);
        return Dim::symbol(std::move(name));
      }
      if (rest_[i] != '\\') {
        name += rest_[i];
      } else if (i + 1 < rest_.size() && (rest_[i + 1] == '"' || rest_[i + 1] == '\\')) {
        name += rest_[++i];
      } else {
        unsigned v = 0;
        if (i + 3 >= rest_.size() || rest_[i + 1] != 'x') return std::nullopt;
        auto [end, err] = std::from_chars(rest_.data() + i + 2, rest_.data() + i + 4, v, 16);
        if (err != std::errc() || end != rest_.data() + i + 4) return std::nullopt;
        name += static_cast<char>(v);
        i += 3;
      }
    }
    return std::nullopt;
  }
};

}  // namespace

std::string Dim::str() const {
  if (!valid()) return "<invalid>";
  std::string out;
  for (const Term& t : terms()) {
    // The magnitude is printed unsigned: the least int64 has no positive counterpart.
    bool negative = t.coeff < 0;
    std::uint64_t magnitude = negative ? 0 - static_cast<std::uint64_t>(t.coeff) : static_cast<std::uint64_t>(t.coeff);
    out += out.empty() ? (negative ? "-" : "") : (negative ? " - " : " + ");
    if (magnitude != 1 || t.factors.empty()) {
      out += std::to_string(magnitude);
      if (!t.factors.empty()) out += '*';
    }
    for (std::size_t i = 0; i < t.factors.size(); ++i) {
      const Factor& f = t.factors[i];
      if (i) out += '*';
      if (f.kind == Atom::symbol)
        out += is_identifier(f.name) ? f.name : quoted(f.name);
      else
        ((((out += functions[static_cast<std::size_t>(f.kind)]) += '(') += f.args[0].str()) += ", ") +=
            f.args[1].str() + ")";
    }
  }
  return out.empty() ? "0" : out;
}

std::optional<Dim> Dim::parse(std::string_view text) { return Parser(text).all(); }

}  // namespace ag
