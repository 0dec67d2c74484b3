#include "frontend/json/syntax.hpp"

#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include "frontend/json/document.hpp"

namespace ag::json {
namespace {

bool blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool word_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
         c == '+' || c == '-';
}

/// Length of the UTF-8 sequence at `p`, 0 if it is not one (overlong forms, surrogates and beyond U+10FFFF included).
std::size_t utf8_length(std::string_view s, std::size_t p) {
  auto byte = [&](std::size_t i) { return p + i < s.size() ? static_cast<unsigned char>(s[p + i]) : 0u; };
  auto tail = [&](std::size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  unsigned c = byte(0);
  if (c < 0x80) return 1;
  if (c >= 0xc2 && c <= 0xdf) return tail(1) ? 2 : 0;
  if (c >= 0xe0 && c <= 0xef) {
    if (!tail(1) || !tail(2)) return 0;
    if ((c == 0xe0 && byte(1) < 0xa0) || (c == 0xed && byte(1) > 0x9f)) return 0;
    return 3;
  }
  if (c >= 0xf0 && c <= 0xf4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if ((c == 0xf0 && byte(1) < 0x90) || (c == 0xf4 && byte(1) > 0x8f)) return 0;
    return 4;
  }
  return 0;
}

class Explainer {
 public:
  Explainer(const Document& doc, const SyntaxState& state) : doc_(doc), text_(doc.text()), s_(state) {}

  Diag run() const {
    using After = SyntaxState::After;
    std::size_t p = skip(s_.last);
    if (s_.after == After::nothing) return value(p);
    if (s_.container == SyntaxState::Container::none) return trailing(p);
    if (s_.after == After::key) return after_key(p);
    if (s_.after == After::open) return object() ? key(p) : value(p);
    return after_value(p);
  }

 private:
  bool object() const { return s_.container == SyntaxState::Container::object; }
  char at(std::size_t p) const { return p < text_.size() ? text_[p] : '\0'; }
  std::size_t skip(std::size_t p) const {
    while (p < text_.size() && blank(text_[p])) ++p;
    return p;
  }
  std::string_view word(std::size_t p) const {
    std::size_t end = p;
    while (end < text_.size() && word_byte(text_[end])) ++end;
    return text_.substr(p, end - p);
  }
  Diag make(std::size_t begin, std::size_t end, std::string message, std::string label = {},
            Code code = Code::AG0002) const {
    return error(code, doc_.loc(begin, std::min(end, text_.size())), std::move(message), std::move(label));
  }
  std::string show(std::size_t p) const {
    unsigned char c = static_cast<unsigned char>(at(p));
    if (c >= 0x80) {
      std::size_t n = std::max<std::size_t>(1, utf8_length(text_, p));
      return fmt::format("`{}`", text_.substr(p, n));
    }
    return c < 0x20 || c == 0x7f ? fmt::format("byte 0x{:02x}", static_cast<unsigned>(c))
                                 : fmt::format("`{}`", static_cast<char>(c));
  }

  Diag trailing(std::size_t p) const {
    return make(p, p + 1, fmt::format("{} after the end of the document", show(p)),
                "the top-level value ends before this");
  }

  Diag unclosed(std::size_t p) const {
    std::string_view what = object() ? "object" : "array";
    return make(p, p, fmt::format("the text ends inside an {}", what),
                fmt::format("expected `{}`", object() ? '}' : ']'))
        .at(doc_.loc(s_.container_begin, s_.container_begin + 1), fmt::format("this {} is not closed", what));
  }

  Diag after_value(std::size_t p) const {
    char close = object() ? '}' : ']';
    std::string_view what = object() ? "object" : "array";
    if (p >= text_.size()) return unclosed(p);
    if (p == s_.last && p > 0 && at(p - 1) >= '0' && at(p - 1) <= '9' && word_byte(at(p))) {
      std::size_t begin = p;  // the lexer took a number's first digits: 01, 0x1f, 3abc
      while (begin > 0 && word_byte(text_[begin - 1])) --begin;
      return number(begin, word(begin));
    }
    if (at(p) == ',') {
      std::size_t q = skip(p + 1);
      if (at(q) == close) {
        return make(p, p + 1, fmt::format("trailing comma in {}", what), "remove this comma", Code::AG0003)
            .help("JSON has no comma after the last item");
      }
      if (at(q) == ',') return make(q, q + 1, fmt::format("two commas in {}", what), "remove this comma");
      return object() ? key(q) : value(q);
    }
    if (at(p) == '}' || at(p) == ']') {
      return make(p, p + 1, fmt::format("{} closes an {}", show(p), what), fmt::format("expected `{}`", close))
          .at(doc_.loc(s_.container_begin, s_.container_begin + 1), fmt::format("this {} is open", what));
    }
    if (Diag d; comment(p, d)) return d;
    bool starts_value = std::strchr("\"{[-0123456789tfn", at(p)) != nullptr;
    if (starts_value)
      return make(s_.last, s_.last, fmt::format("missing comma between the items of an {}", what), "expected `,` here")
          .at(doc_.loc(p, p + 1), "the next item starts here");
    return make(p, p + 1, fmt::format("{} where `,` or `{}` is expected", show(p), close), "not expected here");
  }

  Diag after_key(std::size_t p) const {
    if (p >= text_.size()) return unclosed(p);
    if (at(p) == ':') return value(skip(p + 1));
    Diag d = make(p, p + 1, fmt::format("{} where `:` is expected", show(p)), "expected `:` after the key");
    if (at(p) == '=') d.help("JSON writes `:` between key and value", doc_.loc(p, p + 1), ":");
    return d;
  }

  Diag key(std::size_t p) const {
    if (p >= text_.size()) return unclosed(p);
    if (at(p) == '"') return string(p);
    if (Diag d; comment(p, d)) return d;
    if (at(p) == '\'') return single_quotes(p);
    if (std::string_view w = word(p); !w.empty() && !(w[0] >= '0' && w[0] <= '9')) {
      return make(p, p + w.size(), fmt::format("key `{}` is not in quotes", w), "keys are strings in double quotes")
          .help("put it in double quotes", doc_.loc(p, p + w.size()), quote(w));
    }
    return make(p, p + 1, fmt::format("{} where a key is expected", show(p)), "keys are strings in double quotes");
  }

  bool comment(std::size_t p, Diag& d) const {
    std::string_view rest = text_.substr(std::min(p, text_.size()));
    if (!rest.starts_with("//") && !rest.starts_with("/*") && !rest.starts_with("#")) return false;
    std::size_t n = rest.starts_with("#") ? 1 : 2;
    d = make(p, p + n, "JSON has no comments", "a comment starts here").help("keep remarks in a \"doc\" member");
    return true;
  }

  Diag single_quotes(std::size_t p) const {
    std::size_t end = p + 1;
    while (end < text_.size() && text_[end] != '\'' && text_[end] != '\n') ++end;
    bool closed = at(end) == '\'';
    Diag d = make(p, closed ? end + 1 : p + 1, "strings stand in double quotes", "single quotes are not JSON");
    if (closed) d.help("use double quotes", doc_.loc(p, end + 1), quote(text_.substr(p + 1, end - p - 1)));
    return d;
  }

  Diag value(std::size_t p) const {
    if (p >= text_.size()) {
      if (s_.container != SyntaxState::Container::none) return unclosed(p);
      return make(p, p, "the text ends where a value is expected");
    }
    if (at(p) == '"') return string(p);
    if (at(p) == '\'') return single_quotes(p);
    if (Diag d; comment(p, d)) return d;
    if (at(p) == ',') return make(p, p + 1, "a value is missing before this comma", "remove this comma");
    if (at(p) == ']' || at(p) == '}')
      return make(p, p + 1, fmt::format("{} where a value is expected", show(p)), "a value is missing before this");
    std::string_view w = word(p);
    if (w.empty())
      return make(p, p + 1, fmt::format("{} where a value is expected", show(p)), "not the start of a value");
    if ((w[0] >= '0' && w[0] <= '9') || w[0] == '-' || w[0] == '+' || w[0] == '.') return number(p, w);
    return bare_word(p, w);
  }

  Diag bare_word(std::size_t p, std::string_view w) const {
    Loc loc = doc_.loc(p, p + w.size());
    auto instead = [&](std::string_view text) {
      return make(p, p + w.size(), fmt::format("`{}` is not JSON", w))
          .help(fmt::format("write `{}`", text), loc, std::string(text));
    };
    if (w == "True" || w == "TRUE") return instead("true");
    if (w == "False" || w == "FALSE") return instead("false");
    if (w == "None" || w == "NULL" || w == "Null" || w == "nil" || w == "undefined") return instead("null");
    if (w == "NaN" || w == "nan") return instead("\"NaN\"");
    if (w == "Infinity" || w == "inf" || w == "Inf") return instead("\"Infinity\"");
    return make(p, p + w.size(), fmt::format("`{}` is not a JSON value", w), "a string stands in double quotes")
        .help("put it in double quotes", loc, quote(w));
  }

  Diag number(std::size_t p, std::string_view w) const {
    std::size_t end = p + w.size();
    if (w == "-Infinity" || w == "-inf" || w == "-Inf")
      return make(p, end, fmt::format("`{}` is not JSON", w))
          .help("write `\"-Infinity\"`", doc_.loc(p, end), "\"-Infinity\"");
    double value = 0;
    auto [stop, ec] = std::from_chars(w.data(), w.data() + w.size(), value);
    if (ec == std::errc::result_out_of_range && stop == w.data() + w.size()) {
      return make(p, end, fmt::format("number `{}` is out of range", w), "larger than any 64-bit float", Code::AG0008)
          .help("an infinite value is written \"Infinity\"");
    }
    std::string_view digits = w.substr(w[0] == '-' || w[0] == '+' ? 1 : 0);
    std::string why = "this is not a JSON number";
    if (w[0] == '+')
      why = "JSON numbers have no leading `+`";
    else if (digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9')
      why = "JSON numbers have no leading zeros";
    else if (digits.size() > 1 && digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X'))
      why = "JSON numbers are decimal";
    else if (digits.starts_with("."))
      why = "a digit is needed before the point";
    else if (digits.ends_with("."))
      why = "a digit is needed after the point";
    return make(p, end, fmt::format("malformed number `{}`", w), why);
  }

  /// A string that the lexer refused: finds the byte.
  Diag string(std::size_t begin) const {
    for (std::size_t p = begin + 1; p < text_.size(); ++p) {
      unsigned char c = static_cast<unsigned char>(text_[p]);
      if (c == '\n' || c == '\r')
        return make(p, p, "a string is not closed on its line", "expected `\"`")
            .at(doc_.loc(begin, begin + 1), "it starts here");
      if (c < 0x20)
        return make(p, p + 1, fmt::format("control character 0x{:02x} in a string", static_cast<unsigned>(c)),
                    fmt::format("write \\u{:04x}", static_cast<unsigned>(c)));
      if (c == '"') break;
      if (c != '\\') continue;
      char e = at(p + 1);
      if (e == 'u') {
        if (Diag d; bad_unicode(p, d)) return d;
        p += 5;
        continue;
      }
      if (e == '\0' || std::strchr("\"\\/bfnrt", e) == nullptr)
        return make(p, p + 2, fmt::format("unknown escape `\\{}` in a string", e),
                    "a backslash itself is written `\\\\`");
      ++p;
    }
    return make(text_.size(), text_.size(), "the text ends inside a string", "expected `\"`")
        .at(doc_.loc(begin, begin + 1), "it starts here");
  }

  std::optional<unsigned> hex4(std::size_t p) const {
    unsigned value = 0;
    if (p + 4 > text_.size()) return std::nullopt;
    auto [end, ec] = std::from_chars(text_.data() + p, text_.data() + p + 4, value, 16);
    if (ec != std::errc() || end != text_.data() + p + 4) return std::nullopt;
    return value;
  }

  /// Advances past the first half of a surrogate pair by leaving the second to the caller's scan.
  bool bad_unicode(std::size_t p, Diag& d) const {
    auto unit = hex4(p + 2);
    if (!unit) {
      d = make(p, p + 2, "`\\u` needs four hexadecimal digits", "malformed escape");
      return true;
    }
    bool high = *unit >= 0xd800 && *unit <= 0xdbff, low = *unit >= 0xdc00 && *unit <= 0xdfff;
    bool ok = !high && !low;
    if (high && at(p + 6) == '\\' && at(p + 7) == 'u') {
      auto second = hex4(p + 8);
      ok = second && *second >= 0xdc00 && *second <= 0xdfff;
    }
    if (low && p >= 6 && text_[p - 6] == '\\' && text_[p - 5] == 'u') {
      auto first = hex4(p - 4);
      ok = first && *first >= 0xd800 && *first <= 0xdbff;
    }
    if (!ok) d = make(p, p + 6, "half of a surrogate pair", "a lone surrogate is no character");
    return !ok;
  }

  const Document& doc_;
  std::string_view text_;
  const SyntaxState& s_;
};

}  // namespace

Diag explain_syntax(const Document& doc, const SyntaxState& state) { return Explainer(doc, state).run(); }

Status check_bytes(const Document& doc) {
  std::string_view text = doc.text();
  if (text.starts_with("\xef\xbb\xbf"))
    return fail(error(Code::AG0004, doc.loc(0, 3), "the text starts with a byte order mark (0xef 0xbb 0xbf)",
                      "remove these three bytes")
                    .help("save the file as UTF-8 without a byte order mark"));
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
    return fail(error(Code::AG0004, doc.loc(0, 2), "the text is UTF-16, not UTF-8", "a UTF-16 byte order mark")
                    .help("save the file as UTF-8"));
  bool any = false;
  for (std::size_t p = 0; p < text.size();) {
    std::size_t n = utf8_length(text, p);
    if (n == 0 || text[p] == '\0') {
      std::string_view what = n == 0 ? "is not valid UTF-8" : "is not allowed";
      return fail(Code::AG0004, doc.loc(p, p + 1),
                  fmt::format("byte 0x{:02x} {}", static_cast<unsigned>(static_cast<unsigned char>(text[p])), what),
                  "this byte");
    }
    any = any || !blank(text[p]);
    p += n;
  }
  if (!any) return fail(Code::AG0002, doc.loc(0, 0), "the text is empty");
  return {};
}

}  // namespace ag::json
