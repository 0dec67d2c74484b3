// Internal to ir/loop: printing with options, and the lexer that kernel and program texts share.
#pragma once
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "ir/loop/kernel.hpp"

namespace ag::loop {

struct PrintOptions {
  bool canonical = false;  ///< for hashing: no names, no origin ids, no estimates, symbols renamed d0, d1, ...
  int indent = 0;
};
void print_kernel(const Kernel& kernel, const PrintOptions& options, std::string& out);

std::string_view scope_name(Scope s);
std::string_view access_name(Access a);
std::string_view role_name(AxisRole r);
std::string_view reduce_name(ReduceKind k);
std::string quote(std::string_view s);  ///< in double quotes, with \" \\ \n and \xNN

/// Words, numbers and punctuation with their places. A word is letters, digits, `_` and `.`; a value `%` and a
/// word; a number may have a sign. Comments run from `//` to the end of the line.
struct Token {
  enum class Kind : std::uint8_t { end, word, value, number, string, symbol, bad };
  Kind kind = Kind::end;
  std::string_view text;
  std::uint32_t line = 1, col = 1;
};

class Lexer {
 public:
  Lexer(std::string_view text, std::string file);

  const Token& peek() const { return token_; }
  Token next();
  bool accept(std::string_view text);
  Status expect(std::string_view text);
  /// The raw text up to `,` or the bracket that closes an outer one, at nesting depth 0: a size expression.
  Result<Dim> dim();
  Result<std::string_view> word(std::string_view what);
  Result<std::int64_t> integer(std::int64_t lo, std::int64_t hi);
  Result<std::string> string();
  Loc loc(const Token& t) const;
  Loc loc() const { return loc(token_); }
  std::unexpected<Diags> unexpected(std::string_view wanted) const;

 private:
  std::string_view text_;
  std::shared_ptr<const std::string> file_;
  std::size_t pos_ = 0;
  std::uint32_t line_ = 1, col_ = 1;
  Token token_;

  char at(std::size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  void skip_blank();
  void advance(std::size_t n);
  void scan();
};

/// Parses `kernel @name(...) ... { ... }` at the lexer's place, and verifies it.
Result<Kernel> parse_kernel(Lexer& lexer);

/// What verify() finds first: the statement (or none), the code and the message.
struct Finding {
  StmtId stmt;
  Code code{};
  std::string message;
};
std::optional<Finding> find_fault(const Kernel& kernel, bool mapped);

inline constexpr int max_nesting = 64;  ///< of blocks, in texts and in kernels

}  // namespace ag::loop
