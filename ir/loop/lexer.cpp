#include <fmt/format.h>

#include "ir/loop/text.hpp"

namespace ag::loop {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return is_letter(c) || is_digit(c) || c == '.'; }

}  // namespace

Lexer::Lexer(std::string_view text, std::string file)
    : text_(text), file_(std::make_shared<const std::string>(std::move(file))) {
  scan();
}

void Lexer::advance(std::size_t n) {
  for (; n > 0 && pos_ < text_.size(); --n, ++pos_) {
    if (text_[pos_] == '\n') {
      ++line_, col_ = 1;
    } else {
      ++col_;
    }
  }
}

void Lexer::skip_blank() {
  for (;;) {
    char c = at(pos_);
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      advance(1);
    } else if (c == '/' && at(pos_ + 1) == '/') {
      while (pos_ < text_.size() && at(pos_) != '\n') advance(1);
    } else {
      return;
    }
  }
}

void Lexer::scan() {
  skip_blank();
  token_ = {Token::Kind::end, {}, line_, col_};
  if (pos_ >= text_.size()) return;
  char c = at(pos_);
  std::size_t n = 1;
  bool sign = c == '-' && (is_digit(at(pos_ + 1)) || is_letter(at(pos_ + 1)));
  if (is_letter(c)) {
    token_.kind = Token::Kind::word;
    while (is_word(at(pos_ + n))) ++n;
  } else if (c == '%' || c == '@') {
    token_.kind = Token::Kind::value;
    while (is_word(at(pos_ + n))) ++n;
  } else if (is_digit(c) || sign) {
    token_.kind = Token::Kind::number;
    bool hex = c == '0' && at(pos_ + 1) == 'x';
    auto exponent = [&](std::size_t i) {
      char before = at(i - 1);
      return !hex && (at(i) == '-' || at(i) == '+') && (before == 'e' || before == 'E') && is_digit(at(i + 1));
    };
    while (is_word(at(pos_ + n)) || exponent(pos_ + n)) ++n;
  } else if (c == '"') {
    while (pos_ + n < text_.size() && at(pos_ + n) != '"' && at(pos_ + n) != '\n') n += at(pos_ + n) == '\\' ? 2 : 1;
    bool closed = at(pos_ + n) == '"' && pos_ + n < text_.size();
    token_.kind = closed ? Token::Kind::string : Token::Kind::bad;
    n = std::min(n + (closed ? 1 : 0), text_.size() - pos_);
  } else if (c == '-' && at(pos_ + 1) == '>') {
    token_.kind = Token::Kind::symbol, n = 2;
  } else if (c == '=' && at(pos_ + 1) == '=') {
    token_.kind = Token::Kind::symbol, n = 2;
  } else if (c == '<' && at(pos_ + 1) == '=') {
    token_.kind = Token::Kind::symbol, n = 2;
  } else {
    token_.kind =
        std::string_view("(){}[]<>,:;=+*!|").find(c) == std::string_view::npos ? Token::Kind::bad : Token::Kind::symbol;
  }
  token_.text = text_.substr(pos_, n);
  advance(n);
}

Token Lexer::next() {
  Token t = token_;
  scan();
  return t;
}

Loc Lexer::loc(const Token& t) const {
  Loc loc;
  loc.file = file_;
  loc.line = loc.end_line = t.line;
  loc.col = t.col;
  loc.end_col = t.col + std::max<std::uint32_t>(1, static_cast<std::uint32_t>(t.text.size()));
  return loc;
}

std::unexpected<Diags> Lexer::unexpected(std::string_view wanted) const {
  std::string found =
      token_.kind == Token::Kind::end ? "the end of the text" : fmt::format("`{}`", token_.text.substr(0, 40));
  return fail(Code::AG0801, loc(), fmt::format("expected {}, found {}", wanted, found));
}

bool Lexer::accept(std::string_view text) {
  if (token_.kind == Token::Kind::end || token_.kind == Token::Kind::string || token_.text != text) return false;
  scan();
  return true;
}

Status Lexer::expect(std::string_view text) {
  if (accept(text)) return {};
  return unexpected(fmt::format("`{}`", text));
}

Result<Dim> Lexer::dim() {
  std::size_t begin = static_cast<std::size_t>(token_.text.data() - text_.data()), end = begin;
  if (token_.kind == Token::Kind::end) return unexpected("a size");
  Token start = token_;
  for (int depth = 0; end < text_.size(); ++end) {
    char c = text_[end];
    if (depth == 0 && (c == ',' || c == ')' || c == ']' || c == '!' || c == '=' || c == '<' || c == '|')) break;
    if (c == '\n' || c == '"') break;
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
  }
  while (end > begin && (text_[end - 1] == ' ' || text_[end - 1] == '\r')) --end;
  start.text = text_.substr(begin, end - begin);
  auto value = Dim::parse(start.text);
  if (!value || !value->valid())
    return fail(Code::AG0801, loc(start), fmt::format("`{}` is no size", start.text.substr(0, 80)));
  pos_ = begin, line_ = start.line, col_ = start.col;
  advance(end - begin);
  scan();
  return *value;
}

Result<std::string_view> Lexer::word(std::string_view what) {
  if (token_.kind != Token::Kind::word) return unexpected(what);
  return next().text;
}

Result<std::int64_t> Lexer::integer(std::int64_t lo, std::int64_t hi) {
  std::int64_t v = 0;
  auto [end, error] = std::from_chars(token_.text.data(), token_.text.data() + token_.text.size(), v);
  bool whole = end == token_.text.data() + token_.text.size();
  if (token_.kind != Token::Kind::number || error != std::errc() || !whole || v < lo || v > hi)
    return unexpected(fmt::format("an integer from {} to {}", lo, hi));
  scan();
  return v;
}

Result<std::string> Lexer::string() {
  if (token_.kind != Token::Kind::string) return unexpected("a string");
  std::string_view body = token_.text.substr(1, token_.text.size() - 2);
  std::string out;
  for (std::size_t i = 0; i < body.size(); ++i) {
    if (body[i] != '\\') {
      out += body[i];
    } else if (++i < body.size() && body[i] == 'n') {
      out += '\n';
    } else if (i < body.size() && body[i] == 'x') {
      unsigned code = 0;
      auto [end, error] = std::from_chars(body.data() + i + 1, body.data() + std::min(i + 3, body.size()), code, 16);
      if (error != std::errc() || end != body.data() + i + 3) return unexpected("a string with well-formed escapes");
      out += static_cast<char>(code), i += 2;
    } else if (i < body.size()) {
      out += body[i];
    }
  }
  scan();
  return out;
}

}  // namespace ag::loop
