#include "frontend/onnx/detach.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace ag::onnx {
namespace {

/// Bytes from which raw data stays in the file.
constexpr std::uint64_t large_bytes = 1 << 16;
constexpr std::size_t window_bytes = 1 << 16;

// Numbers of fields: onnx.proto.
constexpr std::uint64_t model_graph = 7, graph_initializer = 5, tensor_segment = 3, tensor_raw_data = 9,
                        tensor_external_data = 13, tensor_data_location = 14;

void write_varint(std::string& out, std::uint64_t v) {
  for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
  out += static_cast<char>(v);
}
void write_bytes(std::string& out, std::uint64_t field, std::string_view bytes) {
  write_varint(out, field << 3 | 2);
  write_varint(out, bytes.size());
  out += bytes;
}

/// A field of a message: where it begins, and where its value, if that is bytes.
struct Field {
  std::uint64_t number = 0, begin = 0, value = 0, end = 0;
  bool bytes = false;
};

class Detacher {
 public:
  explicit Detacher(const data::BeneathFile& file) : file_(file) {}

  std::optional<std::string> run() {
    std::string out;
    auto field = [&](const Field& f, std::string& to) {
      return f.number == model_graph && f.bytes ? graph(f, to) : copy(f, to);
    };
    if (!message(0, file_.size(), out, field)) return std::nullopt;
    return out;
  }

 private:
  const data::BeneathFile& file_;
  std::string window_;
  std::uint64_t begin_ = 0;  // of the window

  std::optional<unsigned char> byte(std::uint64_t at) {
    if (at < begin_ || at >= begin_ + window_.size()) {
      window_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(window_bytes, file_.size() - at)));
      begin_ = at;
      if (!file_.read(at, std::as_writable_bytes(std::span(window_)), {})) return std::nullopt;
    }
    return static_cast<unsigned char>(window_[static_cast<std::size_t>(at - begin_)]);
  }

  bool varint(std::uint64_t& at, std::uint64_t end, std::uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && at < end; shift += 7) {
      auto b = byte(at++);
      if (!b) return false;
      value |= std::uint64_t{*b & 0x7fu} << shift;
      if (*b < 0x80) return true;
    }
    return false;
  }

  bool next(std::uint64_t at, std::uint64_t end, Field& f) {
    f = {.begin = at};
    std::uint64_t tag = 0, length = 0;
    if (!varint(at, end, tag)) return false;
    f.number = tag >> 3;
    switch (tag & 7) {
      case 0:
        if (!varint(at, end, length)) return false;
        length = 0;
        break;
      case 1: length = 8; break;
      case 2:
        if (!varint(at, end, length)) return false;
        f.bytes = true;
        break;
      case 5: length = 4; break;
      default: return false;
    }
    if (length > end - at) return false;
    f.value = at, f.end = at + length;
    return true;
  }

  template <class F>
  bool message(std::uint64_t at, std::uint64_t end, std::string& out, F each) {
    for (Field f; at < end; at = f.end)
      if (!next(at, end, f) || !each(f, out)) return false;
    return true;
  }

  bool copy(const Field& f, std::string& out) {
    const std::size_t from = out.size(), size = static_cast<std::size_t>(f.end - f.begin);
    if (f.begin >= begin_ && f.end <= begin_ + window_.size()) {
      out.append(window_, static_cast<std::size_t>(f.begin - begin_), size);
      return true;
    }
    out.resize(from + size);
    return file_.read(f.begin, std::as_writable_bytes(std::span(out).subspan(from)), {}).has_value();
  }

  bool graph(const Field& f, std::string& out) {
    std::string inner;
    auto field = [&](const Field& g, std::string& to) {
      return g.number == graph_initializer && g.bytes && g.end - g.value >= large_bytes ? tensor(g, to) : copy(g, to);
    };
    if (!message(f.value, f.end, inner, field)) return false;
    write_bytes(out, f.number, inner);
    return true;
  }

  bool tensor(const Field& f, std::string& out) {
    std::vector<Field> fields;
    const Field* raw = nullptr;
    bool plain = true;
    for (std::uint64_t at = f.value; at < f.end; at = fields.back().end) {
      Field g;
      if (!next(at, f.end, g)) return false;
      fields.push_back(g);
      plain = plain && g.number != tensor_segment && g.number != tensor_external_data &&
              g.number != tensor_data_location && (g.number != tensor_raw_data || g.bytes);
      plain = plain && fields.size() < 4096;
      if (!plain) return copy(f, out);
    }
    for (const Field& g : fields)
      if (g.number == tensor_raw_data)
        raw = raw ? &f : &g;  // given twice: the last counts, and that is protobuf's part
    if (!raw || raw == &f || raw->end - raw->value < large_bytes) return copy(f, out);
    std::string inner;
    for (const Field& g : fields)
      if (&g != raw && !copy(g, inner)) return false;
    auto entry = [&](std::string_view key, std::string_view value) {
      std::string pair;
      write_bytes(pair, 1, key);
      write_bytes(pair, 2, value);
      write_bytes(inner, tensor_external_data, pair);
    };
    entry("location", own_file);
    entry("offset", std::to_string(raw->value));
    entry("length", std::to_string(raw->end - raw->value));
    write_varint(inner, tensor_data_location << 3);
    write_varint(inner, 1);  // EXTERNAL
    write_bytes(out, f.number, inner);
    return true;
  }
};

}  // namespace

std::optional<std::string> detached(const data::BeneathFile& file) { return Detacher(file).run(); }

}  // namespace ag::onnx
