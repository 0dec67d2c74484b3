#include "ir/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "ir/base/small_float.hpp"

namespace ag::text {
namespace {

bool is_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

constexpr std::string_view file_chars = "_./+~-", pointer_chars = "_./~-";

bool plain(std::string_view s, std::string_view extra) {
  return std::ranges::all_of(s, [&](char c) { return is_alnum(c) || extra.find(c) != std::string_view::npos; });
}

/// Bits of element i, zero-extended.
std::uint64_t bits_at(const Array& a, std::int64_t i) {
  std::uint64_t bits = 0;
  std::size_t size = dtype_bytes(a.dtype());
  std::memcpy(&bits, a.bytes().data() + static_cast<std::size_t>(i) * size, size);
  return bits;
}
void set_bits(Array& a, std::int64_t i, std::uint64_t bits) {
  std::size_t size = dtype_bytes(a.dtype());
  std::memcpy(a.mutable_bytes().data() + static_cast<std::size_t>(i) * size, &bits, size);
}
std::uint64_t quiet_nan(DType t) {
  if (is_storage_float(t)) return encode_float(t, NAN);
  switch (t) {
    case DType::f64: return 0x7ff8000000000000;
    case DType::f32: return 0x7fc00000;
    case DType::f16: return 0x7e00;
    default: return 0x7fc0;
  }
}

template <class T>
bool read(std::string_view s, T& v, auto... how) {
  auto [end, err] = std::from_chars(s.data(), s.data() + s.size(), v, how...);
  return err == std::errc() && end == s.data() + s.size();
}

bool read_float(std::string_view s, Array& a, std::int64_t i) {
  if (s == "nan") return set_bits(a, i, quiet_nan(a.dtype())), true;
  if (s.starts_with("nan:0x")) {
    std::uint64_t bits = 0;
    if (!read(s.substr(6), bits, 16) || (dtype_bytes(a.dtype()) < 8 && bits >> (8 * dtype_bytes(a.dtype()))))
      return false;
    set_bits(a, i, bits);
    return std::isnan(a.get_double(i));
  }
  bool negative = s.starts_with('-');
  if (s.substr(negative) == "inf") return a.set_double(i, negative ? -INFINITY : INFINITY), true;
  // from_chars knows words of its own for what is written above; a number starts with a digit here.
  if (s.size() <= negative || !is_digit(s[negative])) return false;
  if (a.dtype() == DType::f32) {
    float v = 0;
    return read(s, v) ? (a.as_mutable<float>()[static_cast<std::size_t>(i)] = v, true) : false;
  }
  if (is_storage(a.dtype())) {
    float v = 0;
    return read(s, v) ? (a.set_double(i, v), true) : false;
  }
  double v = 0;
  if (!read(s, v)) return false;
  a.set_double(i, v);
  return true;
}

}  // namespace

// ---- Spelling ----------------------------------------------------------------------------------------------

std::string quote(std::string_view s) {
  std::string out = "\"";
  for (char c : s) {
    auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (c == '\n')
      out += "\\n";
    else if (u < 0x20 || u == 0x7f)
      out += fmt::format("\\x{:02x}", u);
    else
      out += c;
  }
  return out + '"';
}

bool is_word(std::string_view s) { return !s.empty() && !is_digit(s[0]) && s[0] != '.' && plain(s, "_."); }
std::string word_or_quoted(std::string_view s) { return is_word(s) ? std::string(s) : quote(s); }

namespace {
constexpr std::string_view base64_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr auto base64_values = [] {
  std::array<std::uint8_t, 256> out{};
  out.fill(64);
  for (std::size_t i = 0; i < 64; ++i) out[static_cast<unsigned char>(base64_digits[i])] = static_cast<std::uint8_t>(i);
  return out;
}();
}  // namespace

std::string base64(std::span<const std::byte> bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t v = 0;
    std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t j = 0; j < n; ++j) v |= std::to_integer<std::uint32_t>(bytes[i + j]) << (16 - 8 * j);
    for (std::size_t j = 0; j < 4; ++j) out += j <= n ? base64_digits[v >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::optional<std::vector<std::byte>> from_base64(std::string_view s) {
  if (s.size() % 4) return std::nullopt;
  std::vector<std::byte> out;
  out.reserve(s.size() / 4 * 3);
  for (std::size_t i = 0; i < s.size(); i += 4) {
    std::size_t pad = i + 4 < s.size() ? 0 : (s[i + 3] == '=') + (s[i + 3] == '=' && s[i + 2] == '=');
    std::uint32_t v = 0;
    for (std::size_t j = 0; j < 4; ++j) {
      std::uint32_t digit = j < 4 - pad ? base64_values[static_cast<unsigned char>(s[i + j])] : 0;
      if (digit > 63) return std::nullopt;
      v = v << 6 | digit;
    }
    for (std::size_t j = 0; j < 3 - pad; ++j) out.push_back(static_cast<std::byte>(v >> (16 - 8 * j)));
  }
  return out;
}

std::string element(const Array& a, std::int64_t i) {
  bool real = is_float(a.dtype()) || is_storage_float(a.dtype());
  if (real && std::isnan(a.get_double(i)) && bits_at(a, i) != quiet_nan(a.dtype()))
    return fmt::format("nan:0x{:x}", bits_at(a, i));
  return format_element(a, i);
}

bool read_element(std::string_view s, Array& a, std::int64_t i) {
  if (a.dtype() == DType::boolean) {
    if (s != "true" && s != "false") return false;
    return set_bits(a, i, s == "true"), true;
  }
  if (is_float(a.dtype())) return read_float(s, a, i);
  // Of storage types only what is printed, so that nothing is rounded.
  if (is_storage(a.dtype())) return read_float(s, a, i) && element(a, i) == s;
  return dispatch_dtype(a.dtype(), [&]<class T>() {
    if constexpr (std::is_integral_v<T>) {
      T v = 0;
      return read(s, v) ? (a.as_mutable<T>()[static_cast<std::size_t>(i)] = v, true) : false;
    } else {
      return false;
    }
  });
}

std::string number(double v) {
  std::string s = element(Array::of<double>(DType::f64, {}, std::span(&v, 1)), 0);
  return s.find_first_not_of("-0123456789") == std::string::npos ? s + ".0" : s;
}

std::string place(const Loc& loc) {
  if (!loc.known() && loc.pointer.empty()) return {};
  std::string out = "@";
  if (!loc.known())
    out += '_';
  else
    out += !loc.file->empty() && *loc.file != "_" && plain(*loc.file, file_chars) ? *loc.file : quote(*loc.file);
  if (loc.line || loc.col) out += fmt::format(":{}:{}", loc.line, loc.col);
  if (!loc.pointer.empty()) out += '#' + (plain(loc.pointer, pointer_chars) ? loc.pointer : quote(loc.pointer));
  return out;
}

// ---- Reading -----------------------------------------------------------------------------------------------

void Cursor::skip() {
  new_line_ = pos_ == 0;
  while (pos_ < text_.size()) {
    char c = text_[pos_];
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r') {
      new_line_ = new_line_ || c == '\n';
      ++pos_;
    } else if (c == '/' && text_.substr(pos_, 2) == "//") {
      pos_ = std::min(text_.find('\n', pos_), text_.size());
    } else {
      return;
    }
  }
}

Loc Cursor::here() const {
  for (std::size_t end = std::min(pos_, text_.size()); counted_ < end; ++counted_)
    if (text_[counted_] == '\n') ++line_, line_start_ = counted_ + 1;
  Loc loc;
  loc.file = file_;
  loc.line = loc.end_line = line_;
  loc.col = static_cast<std::uint32_t>(pos_ - line_start_ + 1);
  loc.end_col = loc.col + 1;
  return loc;
}

std::unexpected<Diags> Cursor::expected(std::string_view what) const {
  std::string_view rest = at_end()
                              ? std::string_view()
                              : text_.substr(pos_, std::min<std::size_t>(text_.find_first_of(" \n", pos_) - pos_, 40));
  return error(Code::AG0302, fmt::format("expected {}, found {}", what,
                                         at_end() ? "the end of the text" : fmt::format("`{}`", rest)));
}

std::string_view Cursor::run(std::string_view extra) const {
  std::size_t n = pos_;
  while (n < text_.size() && (is_alnum(text_[n]) || extra.find(text_[n]) != std::string_view::npos)) ++n;
  return text_.substr(pos_, n - pos_);
}

std::string_view Cursor::peek_word() const {
  return at_end() || is_digit(peek()) || peek() == '.' ? std::string_view() : run("_.");
}

bool Cursor::accept(char c) {
  if (peek() != c || at_end()) return false;
  advance(1);
  return true;
}
bool Cursor::accept_word(std::string_view w) {
  if (peek_word() != w) return false;
  advance(w.size());
  return true;
}
bool Cursor::accept_call(std::string_view w) {
  if (peek_word() != w || text_.substr(pos_ + w.size(), 1) != "(") return false;
  advance(w.size() + 1);
  return true;
}
Status Cursor::expect(char c) {
  if (accept(c)) return {};
  return expected(fmt::format("`{}`", c));
}
Status Cursor::expect_word(std::string_view w) {
  if (accept_word(w)) return {};
  return expected(fmt::format("`{}`", w));
}

Result<std::string> Cursor::word(std::string_view what) {
  std::string_view w = peek_word();
  if (w.empty()) return expected(what);
  advance(w.size());
  return std::string(w);
}

Result<std::string_view> Cursor::string_bytes() {
  if (peek() != '"') return expected("a string");
  std::size_t end = text_.find('"', pos_ + 1);
  if (end == std::string_view::npos) return expected("a closed string");
  std::string_view s = text_.substr(pos_ + 1, end - pos_ - 1);
  advance(s.size() + 2);
  return s;
}

Result<std::string> Cursor::string() {
  AG_TRY(std::string s, raw_string());
  skip();
  return s;
}

Result<std::string> Cursor::raw_string() {
  if (peek() != '"') return expected("a string");
  std::string out;
  for (std::size_t i = pos_ + 1; i < text_.size() && text_[i] != '\n'; ++i) {
    char c = text_[i];
    if (c == '"') {
      pos_ = i + 1;
      return out;
    }
    if (c != '\\') {
      out += c;
      continue;
    }
    c = ++i < text_.size() ? text_[i] : '\0';
    unsigned code = 0;
    if (c == '"' || c == '\\')
      out += c;
    else if (c == 'n')
      out += '\n';
    else if (c == 'x' && text_.size() - i > 2 && read(text_.substr(i + 1, 2), code, 16))
      out += static_cast<char>(code), i += 2;
    else
      return error(Code::AG0302, "an unknown escape in a string; there are \\\" \\\\ \\n and \\xNN");
  }
  return expected("a string that is closed on its line");
}

Result<std::string> Cursor::word_or_string(std::string_view what) {
  if (peek() == '"') return string();
  return word(what);
}

Result<std::int64_t> Cursor::integer(std::int64_t lo, std::int64_t hi) {
  std::string_view s = run("-");
  std::int64_t v = 0;
  if (!read(s, v) || v < lo || v > hi) return expected(fmt::format("an integer from {} to {}", lo, hi));
  advance(s.size());
  return v;
}

Result<std::uint64_t> Cursor::unsigned_integer() {
  std::string_view s = run("");
  std::uint64_t v = 0;
  if (!read(s, v)) return expected("an unsigned integer");
  advance(s.size());
  return v;
}

Result<std::string_view> Cursor::scalar() {
  std::string_view s = run("_.:+-");
  if (s.empty()) return expected("a number");
  advance(s.size());
  return s;
}

Result<std::uint32_t> Cursor::value_number() {
  if (peek() != '%') return expected("a value, %0");
  ++pos_;
  AG_TRY(std::int64_t n, integer(0, Id<void>::none_index - 1));
  return static_cast<std::uint32_t>(n);
}

std::optional<std::size_t> Cursor::closing_bracket() const {
  bool quoted = false;
  for (std::size_t i = pos_ + 1; i < text_.size() && text_[i] != '\n'; ++i) {
    if (text_[i] == '\\' && quoted)
      ++i;
    else if (text_[i] == '"')
      quoted = !quoted;
    else if (text_[i] == ']' && !quoted)
      return i;
  }
  return std::nullopt;
}

Result<Dims> Cursor::dims() {
  if (peek() != '[') return expected("`[`");
  auto close = closing_bracket();
  if (!close) return error(Code::AG0302, "this `[` is not closed on its line");
  auto dims = parse_dims(text_.substr(pos_ + 1, *close - pos_ - 1));
  if (!dims) return error(Code::AG0303, "these are no sizes");
  advance(*close + 1 - pos_);
  return *std::move(dims);
}

Result<Type> Cursor::type() {
  std::string_view name = peek_word();
  auto dtype = parse_dtype(name);
  if (!dtype || text_.substr(pos_ + name.size(), 1) != "[") return expected("a type, f32[N,4]");
  pos_ += name.size();
  AG_TRY(Dims sizes, shape());
  return Type{*dtype, std::move(sizes)};
}

Result<Dims> Cursor::shape() {
  AG_TRY(Dims sizes, dims());
  if (sizes.size() > 64) return error(Code::AG0303, "a rank above 64");
  for (const Dim& d : sizes)
    if (d.is_const() && d.value() < 0) return error(Code::AG0303, "a negative size");
  return sizes;
}

Result<std::uint32_t> Cursor::place_number() {
  std::string_view s = run("");
  std::uint32_t v = 0;
  if (!read(s, v)) return expected("a line or column");
  pos_ += s.size();
  return v;
}

Result<std::string> Cursor::place_part(std::string_view extra) {
  if (peek() != '"') {
    std::string_view s = run(extra);
    pos_ += s.size();
    return std::string(s);
  }
  return raw_string();
}

Result<Loc> Cursor::place() {
  if (peek() != '@') return expected("a place, @file:1:2");
  ++pos_;
  bool quoted = peek() == '"';
  AG_TRY(std::string file, place_part(file_chars));
  Loc loc;
  if (quoted || file != "_") {
    if (!last_file_ || *last_file_ != file) last_file_ = std::make_shared<const std::string>(std::move(file));
    loc.file = last_file_;
  }
  if (peek() == ':') {
    ++pos_;
    AG_TRY(loc.line, place_number());
    if (peek() != ':') return expected("`:` and a column");
    ++pos_;
    AG_TRY(loc.col, place_number());
    loc.end_line = loc.line;
    loc.end_col = loc.col == std::numeric_limits<std::uint32_t>::max() ? loc.col : loc.col + 1;
  }
  if (peek() == '#') {
    ++pos_;
    AG_TRY(loc.pointer, place_part(pointer_chars));
  }
  advance(0);
  return loc;
}

}  // namespace ag::text
