#include "frontend/onnx/tensor.hpp"

#include <frontend/onnx/onnx.pb.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>

#include "frontend/onnx/detach.hpp"
#include "frontend/onnx/onnx.hpp"
#include "ir/base/dim.hpp"

namespace ag::onnx {
namespace {

constexpr std::size_t max_rank = 64;
constexpr std::int64_t max_dim = std::int64_t{1} << 47;

/// By ONNX's number; nullopt in between.
constexpr std::array<std::optional<DType>, 27> dtypes = {
    std::nullopt, DType::f32,   DType::u8,      DType::i8,       DType::u16,        DType::i16,    DType::i32,
    DType::i64,   std::nullopt, DType::boolean, DType::f16,      DType::f64,        DType::u32,    DType::u64,
    std::nullopt, std::nullopt, DType::bf16,    DType::f8e4m3fn, DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz,
    DType::u4,    DType::i4,    DType::f4e2m1,  DType::f8e8m0,   DType::u2,         DType::i2};

struct Shape {
  std::vector<std::int64_t> dims;
  std::size_t elems = 0;
};

class Reader {
 public:
  Reader(const pb::TensorProto& t, ExternalData& external, const Loc& loc) : t_(t), external_(external), loc_(loc) {}

  Result<Array> run() {
    auto dtype = dtype_of(t_.data_type());
    if (!dtype)
      return fail(Code::AG2011, loc_,
                  fmt::format("{} holds {}, which ag does not compute with", title(), onnx_type_name(t_.data_type())));
    dtype_ = *dtype;
    AG_TRY(std::vector<std::int64_t> dims, shape());
    Array out(dtype_, std::move(dims));
    if (t_.has_segment()) return refuse("it is a segment of a larger tensor");
    if (t_.data_location() == pb::TensorProto::EXTERNAL) {
      AG_TRY_(from_external(out));
    } else if (t_.external_data_size() > 0) {
      return refuse("it names external data and says that it has none");
    } else {
      AG_TRY_(from_message(out));
    }
    return out;
  }

 private:
  std::string title() const { return t_.name().empty() ? "a tensor" : fmt::format("the tensor `{}`", t_.name()); }
  std::unexpected<Diags> refuse(std::string why) const {
    return fail(Code::AG0022, loc_, fmt::format("{} is malformed: {}", title(), why));
  }

  /// Checked dims: what is allocated is known to be in proportion to what the file holds.
  Result<std::vector<std::int64_t>> shape() {
    if (static_cast<std::size_t>(t_.dims_size()) > max_rank)
      return refuse(fmt::format("it has {} axes; at most {} are allowed", t_.dims_size(), max_rank));
    std::vector<std::int64_t> dims(t_.dims().begin(), t_.dims().end());
    for (std::int64_t d : dims)
      if (d < 0 || d > max_dim) return refuse(fmt::format("the size {} is not one of 0 to 2^47", d));
    auto bytes = Array::byte_size(dtype_, dims);
    if (!bytes) return refuse("its size in bytes overflows");
    if (*bytes > external_.limits().max_array_bytes)
      return refuse(fmt::format("it has {} bytes; the limit is {}", *bytes, external_.limits().max_array_bytes));
    elems_ = *bytes / dtype_bytes(dtype_);
    packed_ = (elems_ * static_cast<std::size_t>(packed_bits(dtype_)) + 7) / 8;
    // Nothing is allocated for elements that are not there.
    if (t_.data_location() != pb::TensorProto::EXTERNAL) AG_TRY_(check_length());
    return dims;
  }

  /// The one field that holds the elements, and how many values it must have.
  Status check_length() {
    const std::pair<std::string_view, int> fields[] = {
        {"float_data", t_.float_data_size()},   {"int32_data", t_.int32_data_size()},
        {"int64_data", t_.int64_data_size()},   {"double_data", t_.double_data_size()},
        {"uint64_data", t_.uint64_data_size()}, {"string_data", t_.string_data_size()}};
    std::string_view want = typed_field();
    bool raw = t_.has_raw_data() && !t_.raw_data().empty();
    for (auto [name, size] : fields) {
      if (size == 0) continue;
      if (raw) return refuse(fmt::format("it has both `raw_data` and `{}`", name));
      if (name != want) return refuse(fmt::format("{} cannot stand in `{}`", dtype_name(dtype_), name));
      std::size_t values = packed_bits(dtype_) < 8 ? packed_ : elems_;
      if (static_cast<std::size_t>(size) != values)
        return refuse(fmt::format("`{}` has {} values, and the dims need {}", name, size, values));
      return {};
    }
    if (raw || elems_ > 0) {
      if (t_.raw_data().size() != packed_)
        return refuse(fmt::format("`raw_data` has {} bytes, and the dims need {}", t_.raw_data().size(), packed_));
    }
    return {};
  }

  std::string_view typed_field() const {
    switch (dtype_) {
      case DType::f32: return "float_data";
      case DType::f64: return "double_data";
      case DType::i64: return "int64_data";
      case DType::u32:
      case DType::u64: return "uint64_data";
      default: return "int32_data";
    }
  }

  Status from_message(Array& out) {
    if (elems_ == 0) return {};
    if (!t_.raw_data().empty()) return unpack(t_.raw_data(), out);
    if (packed_bits(dtype_) < 8) {
      std::string bytes;
      for (std::int32_t v : t_.int32_data()) bytes += static_cast<char>(v);
      return unpack(bytes, out);
    }
    std::span<std::byte> to = out.mutable_bytes();
    auto copy = [&](const auto& field) { std::memcpy(to.data(), field.data(), to.size()); };
    switch (dtype_) {
      case DType::f32: copy(t_.float_data()); return {};
      case DType::f64: copy(t_.double_data()); return {};
      case DType::i64: copy(t_.int64_data()); return {};
      case DType::u64: copy(t_.uint64_data()); return {};
      case DType::i32: copy(t_.int32_data()); return {};
      case DType::u32: return narrow<std::uint32_t>(t_.uint64_data(), out);
      case DType::i16: return narrow<std::int16_t>(t_.int32_data(), out);
      case DType::i8: return narrow<std::int8_t>(t_.int32_data(), out);
      case DType::f16:
      case DType::bf16:
      case DType::u16: return narrow<std::uint16_t>(t_.int32_data(), out);
      default: break;
    }
    AG_TRY_(narrow<std::uint8_t>(t_.int32_data(), out));
    return check_bools(out);
  }

  template <class To, class Field>
  Status narrow(const Field& field, Array& out) {
    auto* to = reinterpret_cast<To*>(out.mutable_bytes().data());
    for (int i = 0; i < field.size(); ++i) {
      auto v = field.Get(i);
      To small = static_cast<To>(v);
      if (static_cast<decltype(v)>(small) != v)
        return refuse(fmt::format("element {} is {}, which is no {}", i, v, dtype_name(dtype_)));
      to[i] = small;
    }
    return {};
  }

  /// Packed bytes, as in a file, to one byte an element where elements are smaller.
  Status unpack(std::string_view bytes, Array& out) {
    std::span<std::byte> to = out.mutable_bytes();
    int bits = packed_bits(dtype_);
    if (bits >= 8) {
      std::memcpy(to.data(), bytes.data(), to.size());
      return check_bools(out);
    }
    unpack_low_bits(bytes, to, bits);
    return {};
  }

  void unpack_low_bits(std::string_view bytes, std::span<std::byte> to, int bits) const {
    std::size_t per_byte = static_cast<std::size_t>(8 / bits);
    int mask = (1 << bits) - 1;
    bool is_signed = dtype_ == DType::i4 || dtype_ == DType::i2;
    for (std::size_t i = 0; i < to.size(); ++i) {
      int byte = static_cast<unsigned char>(bytes[i / per_byte]);
      int v = byte >> (static_cast<int>(i % per_byte) * bits) & mask;
      if (is_signed && v >> (bits - 1)) v -= 1 << bits;
      to[i] = static_cast<std::byte>(v);
    }
  }

  Status check_bools(Array& out) {
    if (dtype_ != DType::boolean) return {};
    for (std::uint8_t b : std::as_const(out).as<std::uint8_t>())
      if (b > 1) return refuse(fmt::format("a bool is stored as {}", b));
    return {};
  }

  Status from_external(Array& out) {
    auto refuse_external = [&](std::string why) {
      return fail(Code::AG0023, loc_, fmt::format("the external data of {} cannot be used: {}", title(), why));
    };
    if (!t_.raw_data().empty() || t_.float_data_size() || t_.int32_data_size() || t_.int64_data_size() ||
        t_.double_data_size() || t_.uint64_data_size())
      return refuse("it has elements of its own and external ones");
    std::string location;
    std::optional<std::uint64_t> offset, length;
    for (const auto& entry : t_.external_data()) {
      auto number = [&](std::optional<std::uint64_t>& into) -> Status {
        const std::string& v = entry.value();
        std::uint64_t n = 0;
        auto [end, ec] = std::from_chars(v.data(), v.data() + v.size(), n);
        bool fits = ec == std::errc() && end == v.data() + v.size() && n <= std::numeric_limits<std::int64_t>::max();
        if (!fits) return refuse_external(fmt::format("`{}` is `{}`, not a number of bytes", entry.key(), v));
        if (into) return refuse_external(fmt::format("`{}` is given twice", entry.key()));
        into = n;
        return {};
      };
      if (entry.key() == "location") {
        if (!location.empty()) return refuse_external("`location` is given twice");
        location = entry.value();
      } else if (entry.key() == "offset") {
        AG_TRY_(number(offset));
      } else if (entry.key() == "length") {
        AG_TRY_(number(length));
      } else if (entry.key() != "checksum") {
        return refuse_external(fmt::format("there is no entry `{}`", entry.key()));
      }
    }
    if (location.empty()) return refuse_external("it names no file");
    AG_TRY(std::uint64_t size, external_.size(location, loc_));
    std::uint64_t from = offset.value_or(0);
    if (from > size) return refuse_external(fmt::format("it begins at byte {} of a file of {}", from, size));
    std::uint64_t have = length.value_or(std::min<std::uint64_t>(size - from, packed_));
    if (have != packed_) return refuse_external(fmt::format("it has {} bytes, and the dims need {}", have, packed_));
    if (have > size - from)
      return refuse_external(fmt::format("it ends at byte {} of a file of {}", from + have, size));
    std::span<std::byte> to = out.mutable_bytes();
    if (packed_bits(dtype_) >= 8) {
      AG_TRY_(external_.read(location, from, to, loc_));
      return check_bools(out);
    }
    std::string bytes(packed_, '\0');
    AG_TRY_(external_.read(location, from, std::as_writable_bytes(std::span(bytes)), loc_));
    unpack_low_bits(bytes, to, packed_bits(dtype_));
    return {};
  }

  const pb::TensorProto& t_;
  ExternalData& external_;
  const Loc& loc_;
  DType dtype_ = DType::f32;
  std::size_t elems_ = 0, packed_ = 0;
};

}  // namespace

std::optional<DType> dtype_of(std::int64_t n) {
  if (n < 0 || n >= static_cast<std::int64_t>(dtypes.size())) return std::nullopt;
  return dtypes[static_cast<std::size_t>(n)];
}

std::int32_t onnx_type_of(DType t) {
  auto it = std::find(dtypes.begin(), dtypes.end(), std::optional(t));
  return static_cast<std::int32_t>(it - dtypes.begin());
}

std::string onnx_type_name(std::int64_t n) {
  if (auto t = dtype_of(n)) return std::string(dtype_name(*t));
  if (n == 0) return "no element type";
  if (n == 8) return "strings";
  if (n == 14 || n == 15) return "complex numbers";
  return fmt::format("element type {}", n);
}

int packed_bits(DType t) {
  switch (t) {
    case DType::f4e2m1:
    case DType::i4:
    case DType::u4: return 4;
    case DType::i2:
    case DType::u2: return 2;
    default: return 8 * static_cast<int>(dtype_bytes(t));
  }
}

Result<Array> read_tensor(const pb::TensorProto& t, ExternalData& external, const Loc& loc) {
  return Reader(t, external, loc).run();
}

Result<Array> read_sparse(const pb::SparseTensorProto& t, ExternalData& external, const Loc& loc) {
  AG_TRY(Array values, read_tensor(t.values(), external, loc));
  AG_TRY(Array indices, read_tensor(t.indices(), external, loc));
  auto refuse = [&](std::string why) { return fail(Code::AG0022, loc, "a sparse tensor is malformed: " + why); };
  std::vector<std::int64_t> dims(t.dims().begin(), t.dims().end());
  auto bytes = dims.size() > max_rank ? std::nullopt : Array::byte_size(values.dtype(), dims);
  if (!bytes || *bytes > external.limits().max_array_bytes) return refuse("its dims are negative or too large");
  std::int64_t n = values.elems(), rank = static_cast<std::int64_t>(dims.size());
  bool flat = indices.shape() == std::vector<std::int64_t>{n};
  bool tuples = indices.shape() == std::vector<std::int64_t>{n, rank};
  if (values.shape().size() != 1 || indices.dtype() != DType::i64 || (!flat && !tuples))
    return refuse("it needs values [n] and indices i64[n] or i64[n, rank]");
  Array out(values.dtype(), dims);
  std::size_t width = dtype_bytes(values.dtype());
  std::byte* to = out.mutable_bytes().data();
  for (std::int64_t i = 0; i < n; ++i) {
    std::int64_t at = flat ? indices.get_int(i) : 0;
    bool inside = at >= 0 && at < out.elems();
    for (std::int64_t d = 0; tuples && !flat && inside && d < rank; ++d) {
      std::int64_t k = indices.get_int(i * rank + d), size = dims[static_cast<std::size_t>(d)];
      inside = k >= 0 && k < size;
      at = at * size + k;
    }
    if (!inside) return refuse(fmt::format("index {} is out of range", i));
    std::memcpy(to + static_cast<std::size_t>(at) * width, values.bytes().data() + static_cast<std::size_t>(i) * width,
                width);
  }
  return out;
}

void write_tensor(const Array& array, const std::string& name, pb::TensorProto& out) {
  if (!name.empty()) out.set_name(name);
  for (std::int64_t d : array.shape()) out.add_dims(d);
  out.set_data_type(onnx_type_of(array.dtype()));
  int bits = packed_bits(array.dtype());
  auto bytes = array.bytes();
  if (bits >= 8) {
    out.set_raw_data(bytes.data(), bytes.size());
    return;
  }
  std::size_t per_byte = static_cast<std::size_t>(8 / bits);
  std::string packed((bytes.size() + per_byte - 1) / per_byte, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    int v = static_cast<int>(bytes[i]) & ((1 << bits) - 1);
    packed[i / per_byte] = static_cast<char>(packed[i / per_byte] | v << (static_cast<int>(i % per_byte) * bits));
  }
  out.set_raw_data(std::move(packed));
}

Result<std::pair<std::string, Array>> parse_tensor(std::string_view bytes, std::string_view name,
                                                   const data::Limits& limits, const Loc& loc) {
  pb::TensorProto t;
  bool whole = bytes.size() <= max_model_bytes && t.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  if (!whole) return fail(Code::AG0022, loc, fmt::format("`{}` is not a TensorProto", name));
  ExternalData none({}, limits);
  AG_TRY(Array a, read_tensor(t, none, loc));
  return std::pair(t.name(), std::move(a));
}

// ---- External data -------------------------------------------------------------------------------------------

ExternalData::ExternalData(std::vector<std::string> folders, data::Limits limits)
    : folders_(std::move(folders)), limits_(limits) {}
ExternalData::~ExternalData() = default;

void ExternalData::add_own(data::BeneathFile file) { files_.emplace(own_file, std::move(file)); }

Result<data::BeneathFile*> ExternalData::open(const std::string& location, const Loc& loc) {
  auto it = files_.find(location);
  if (it == files_.end()) {
    AG_TRY(data::BeneathFile file, data::BeneathFile::open(folders_, location, limits_, loc));
    it = files_.emplace(location, std::move(file)).first;
  }
  return &it->second;
}

Result<std::uint64_t> ExternalData::size(const std::string& location, const Loc& loc) {
  AG_TRY(data::BeneathFile * file, open(location, loc));
  return file->size();
}

Status ExternalData::read(const std::string& location, std::uint64_t offset, std::span<std::byte> into,
                          const Loc& loc) {
  AG_TRY(data::BeneathFile * file, open(location, loc));
  return file->read(offset, into, loc);
}

}  // namespace ag::onnx
