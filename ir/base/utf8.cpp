#include "ir/base/utf8.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

namespace ag {
namespace {

struct Char {
  char32_t code = 0;
  std::size_t bytes = 1;
  bool valid = false;
};

/// The character at the beginning of `s`; overlong forms, surrogates and truncated sequences are not valid.
Char decode(std::string_view s) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  unsigned char b = byte(0);
  if (b < 0x80) return {b, 1, true};
  std::size_t n = b >= 0xf0 && b < 0xf5 ? 4 : b >= 0xe0 && b < 0xf0 ? 3 : b >= 0xc2 && b < 0xe0 ? 2 : 0;
  if (n == 0 || s.size() < n) return {};
  char32_t c = b & (0xffu >> (n + 1));
  for (std::size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    c = (c << 6) | (byte(i) & 0x3fu);
  }
  if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return {};
  return {c, n, true};
}

struct Range {
  char32_t lo, hi;
};
template <std::size_t N>
bool within(const std::array<Range, N>& ranges, char32_t c) {
  return std::any_of(ranges.begin(), ranges.end(), [c](Range r) { return c >= r.lo && c <= r.hi; });
}
// Characters that reorder, hide or break the text around them.
constexpr std::array<Range, 7> unsafe = {{{0, 0x1f},
                                          {0x7f, 0x9f},
                                          {0x200b, 0x200f},
                                          {0x2028, 0x202e},
                                          {0x2060, 0x206f},
                                          {0xfeff, 0xfeff},
                                          {0xe0000, 0xe007f}}};
constexpr std::array<Range, 6> combining = {
    {{0x300, 0x36f}, {0x483, 0x489}, {0x1ab0, 0x1aff}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f}}};
constexpr std::array<Range, 10> wide = {{{0x1100, 0x115f},
                                         {0x2e80, 0x303e},
                                         {0x3041, 0xa4cf},
                                         {0xac00, 0xd7a3},
                                         {0xf900, 0xfaff},
                                         {0xfe30, 0xfe6f},
                                         {0xff00, 0xff60},
                                         {0xffe0, 0xffe6},
                                         {0x1f300, 0x1faff},
                                         {0x20000, 0x3fffd}}};

int width(char32_t c) { return within(combining, c) ? 0 : within(wide, c) ? 2 : 1; }

std::string escape(char32_t c) {
  return c < 0x80 ? fmt::format("\\x{:02x}", static_cast<unsigned>(c))
                  : fmt::format("\\u{{{:x}}}", static_cast<unsigned>(c));
}

}  // namespace

Shown show(std::string_view text) {
  Shown out;
  int column = 0;
  for (std::size_t i = 0; i < text.size();) {
    Char c = decode(text.substr(i));
    std::string piece(text.substr(i, c.bytes));
    int columns = 1;
    if (text[i] == '\t') {
      piece = "    ";
      columns = 4;
    } else if (!c.valid || within(unsafe, c.code)) {
      piece = c.valid ? escape(c.code) : fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i]));
      columns = static_cast<int>(piece.size());
    } else {
      columns = width(c.code);
    }
    out.columns.insert(out.columns.end(), c.bytes, column);
    out.text += piece;
    column += columns;
    i += c.bytes;
  }
  out.columns.push_back(column);
  return out;
}

std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    Char c = decode(text.substr(i));
    if (text[i] == '\n' || text[i] == '\t')
      out += text[i] == '\n' ? "\\n" : "\\t";
    else if (!c.valid)
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned char>(text[i]));
    else if (within(unsafe, c.code))
      out += escape(c.code);
    else
      out += text.substr(i, c.bytes);
    i += c.bytes;
  }
  return out;
}

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size();) {
    Char c = decode(text.substr(i));
    if (!c.valid)
      out += "\xef\xbf\xbd";
    else if (c.code == '"' || c.code == '\\')
      (out += '\\') += text[i];
    else if (c.code == '\n' || c.code == '\t')
      out += c.code == '\n' ? "\\n" : "\\t";
    else if (within(unsafe, c.code) && c.code < 0x10000)
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c.code));
    else
      out += text.substr(i, c.bytes);
    i += c.bytes;
  }
  return out + '"';
}

std::size_t utf8_floor(std::string_view text, std::size_t pos) {
  if (pos >= text.size()) return text.size();
  // A character has at most three continuation bytes; more of them are not UTF-8, and any cut will do.
  for (std::size_t back = 0; back < 4 && back <= pos; ++back)
    if ((static_cast<unsigned char>(text[pos - back]) & 0xc0) != 0x80) return pos - back;
  return pos;
}

}  // namespace ag
