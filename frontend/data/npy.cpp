#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include "frontend/data/arrays.hpp"

namespace ag::data {
namespace {

constexpr std::size_t max_header = 64 << 10;
constexpr std::size_t max_rank = 16;
static_assert(std::endian::native == std::endian::little, "the readers assume a little-endian machine");

struct Header {
  DType dtype = DType::f32;
  bool swap = false, fortran = false;
  std::vector<std::int64_t> shape;
};

/// The header is a Python dict literal: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }.
class HeaderParser {
 public:
  HeaderParser(std::string_view text) : text_(text) {}

  /// Empty on success, else what is wrong.
  std::string parse(Header& h) {
    if (!take('{')) return "its header is not a dict";
    bool descr = false, order = false, shape = false;
    while (!take('}')) {
      std::string_view key;
      if (!string(key) || !take(':')) return "its header is malformed";
      bool* seen = key == "descr" ? &descr : key == "fortran_order" ? &order : key == "shape" ? &shape : nullptr;
      if (!seen) return fmt::format("its header has the unknown key `{}`", key);
      if (*seen) return fmt::format("its header gives `{}` twice", key);
      *seen = true;
      std::string why = key == "descr" ? read_descr(h) : key == "shape" ? read_shape(h) : read_order(h);
      if (!why.empty()) return why;
      if (!take(',') && !peek('}')) return "its header is malformed";
    }
    skip();
    if (p_ != text_.size()) return "its header is malformed";
    if (!descr || !order || !shape) return "its header is incomplete";
    return {};
  }

 private:
  void skip() {
    while (p_ < text_.size() && (text_[p_] == ' ' || text_[p_] == '\n' || text_[p_] == '\t')) ++p_;
  }
  bool peek(char c) {
    skip();
    return p_ < text_.size() && text_[p_] == c;
  }
  bool take(char c) {
    if (!peek(c)) return false;
    ++p_;
    return true;
  }
  bool word(std::string_view w) {
    skip();
    if (!text_.substr(p_).starts_with(w)) return false;
    p_ += w.size();
    return true;
  }
  bool string(std::string_view& out) {
    skip();
    if (p_ >= text_.size() || (text_[p_] != '\'' && text_[p_] != '"')) return false;
    std::size_t end = text_.find(text_[p_], p_ + 1);
    if (end == text_.npos) return false;
    out = text_.substr(p_ + 1, end - p_ - 1);
    p_ = end + 1;
    return true;
  }

  std::string read_descr(Header& h) {
    std::string_view d;
    if (!string(d)) return "its elements are structured, which is not supported";
    struct Row {
      std::string_view code;
      DType dtype;
    };
    static constexpr Row rows[] = {{"f8", DType::f64},    {"f4", DType::f32}, {"f2", DType::f16}, {"V2", DType::bf16},
                                   {"i8", DType::i64},    {"i4", DType::i32}, {"i2", DType::i16}, {"i1", DType::i8},
                                   {"u8", DType::u64},    {"u4", DType::u32}, {"u2", DType::u16}, {"u1", DType::u8},
                                   {"b1", DType::boolean}};
    std::string_view order = "=<>|";
    for (const Row& row : rows) {
      if (d.size() != 3 || order.find(d[0]) == order.npos || d.substr(1) != row.code) continue;
      h.dtype = row.dtype;
      h.swap = d[0] == '>';
      return {};
    }
    return fmt::format("its element type `{}` is not supported", d);
  }

  std::string read_order(Header& h) {
    if (word("True"))
      h.fortran = true;
    else if (!word("False"))
      return "its header is malformed";
    return {};
  }

  std::string read_shape(Header& h) {
    if (!take('(')) return "its shape is malformed";
    while (!take(')')) {
      skip();
      std::int64_t dim = 0;
      auto [end, ec] = std::from_chars(text_.data() + p_, text_.data() + text_.size(), dim);
      if (ec != std::errc() || dim < 0) return "its shape is malformed";
      p_ = static_cast<std::size_t>(end - text_.data());
      h.shape.push_back(dim);
      if (h.shape.size() > max_rank) return fmt::format("it has more than {} axes", max_rank);
      if (!take(',') && !peek(')')) return "its shape is malformed";
    }
    return {};
  }

  std::string_view text_;
  std::size_t p_ = 0;
};

void swap_bytes(std::span<std::byte> bytes, std::size_t width) {
  for (std::size_t i = 0; i + width <= bytes.size(); i += width)
    std::reverse(bytes.begin() + i, bytes.begin() + i + width);
}

/// Row-major copy of column-major elements.
Array from_fortran(const Array& in) {
  std::size_t rank = in.shape().size(), width = dtype_bytes(in.dtype());
  Array out(in.dtype(), in.shape());
  auto to = out.mutable_bytes();
  std::vector<std::int64_t> index(rank, 0), stride(rank, 1);
  for (std::size_t a = 1; a < rank; ++a) stride[a] = stride[a - 1] * in.shape()[a - 1];
  for (std::int64_t i = 0; i < in.elems(); ++i) {
    std::int64_t from = 0;
    for (std::size_t a = 0; a < rank; ++a) from += index[a] * stride[a];
    std::memcpy(to.data() + static_cast<std::size_t>(i) * width,
                in.bytes().data() + static_cast<std::size_t>(from) * width, width);
    for (std::size_t a = rank; a-- > 0;) {
      if (++index[a] < in.shape()[a]) break;
      index[a] = 0;
    }
  }
  return out;
}

std::string_view descr_of(DType t) {
  switch (t) {
    case DType::f64: return "<f8";
    case DType::f32: return "<f4";
    case DType::f16: return "<f2";
    case DType::bf16: return "<V2";
    case DType::i64: return "<i8";
    case DType::i32: return "<i4";
    case DType::i16: return "<i2";
    case DType::i8: return "|i1";
    case DType::u64: return "<u8";
    case DType::u32: return "<u4";
    case DType::u16: return "<u2";
    case DType::u8: return "|u1";
    case DType::boolean: return "|b1";
    default: break;  // storage types, as numpy writes types it does not know
  }
  return "|V1";
}

}  // namespace

Result<Array> parse_npy(std::string_view bytes, std::string_view name, const Limits& limits, const Loc& loc) {
  auto refuse = [&](std::string why) {
    return fail(Code::AG0016, loc, fmt::format("`{}` is not a readable .npy file: {}", name, why));
  };
  if (!bytes.starts_with("\x93NUMPY")) return refuse("it does not start with numpy's signature");
  if (bytes.size() < 10) return refuse("it ends inside its header");
  unsigned version = static_cast<unsigned char>(bytes[6]);
  if (version < 1 || version > 3) return refuse(fmt::format("its format version is {}", version));
  std::size_t prefix = version == 1 ? 10 : 12;
  if (bytes.size() < prefix) return refuse("it ends inside its header");
  std::size_t length = 0;
  for (std::size_t i = prefix; i-- > 8;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  if (length > max_header) return refuse("its header is too long");
  if (length > bytes.size() - prefix) return refuse("it ends inside its header");
  Header h;
  if (std::string why = HeaderParser(bytes.substr(prefix, length)).parse(h); !why.empty())
    return refuse(std::move(why));
  auto size = Array::byte_size(h.dtype, h.shape);
  if (!size || *size > limits.max_array_bytes) return refuse("its shape is too large");
  std::string_view body = bytes.substr(prefix + length);
  if (body.size() != *size)
    return refuse(fmt::format("its shape needs {} bytes of data and it has {}", *size, body.size()));
  Array a = Array::from_bytes(h.dtype, h.shape, std::as_bytes(std::span(body.data(), body.size())));
  if (h.swap) swap_bytes(a.mutable_bytes(), dtype_bytes(h.dtype));
  if (h.dtype == DType::boolean)
    for (std::byte& b : a.mutable_bytes()) b = b == std::byte{0} ? std::byte{0} : std::byte{1};
  return h.fortran && h.shape.size() > 1 ? from_fortran(a) : a;
}

std::string format_npy(const Array& array) {
  std::string shape = "(";
  for (std::int64_t d : array.shape()) shape += fmt::format("{},{}", d, array.shape().size() > 1 ? " " : "");
  if (array.shape().size() > 1) shape.resize(shape.size() - 2);
  shape += ")";
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", descr_of(array.dtype()), shape);
  header.append(63 - (10 + header.size()) % 64, ' ');  // so that the data starts at a multiple of 64
  header += '\n';
  std::string out = "\x93NUMPY";
  out += '\x01';
  out += '\0';
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  out += header;
  out.append(reinterpret_cast<const char*>(array.bytes().data()), array.bytes_size());
  return out;
}

}  // namespace ag::data
