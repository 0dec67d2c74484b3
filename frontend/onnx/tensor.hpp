// TensorProto to Array: the one place where a file's tensors are read, whether initializers, attributes or test data.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "frontend/data/file.hpp"
#include "ir/array.hpp"

namespace ag::onnx {

namespace pb {
class TensorProto;
class SparseTensorProto;
}  // namespace pb

/// ONNX's number of an element type; nullopt for strings, complex numbers and numbers that ONNX does not have.
std::optional<DType> dtype_of(std::int64_t onnx_type);
std::int32_t onnx_type_of(DType t);
/// "string", "complex64", "element type 99": for messages.
std::string onnx_type_name(std::int64_t onnx_type);
/// Bits of an element in a file: low-bit types are packed, the first element in the low bits.
int packed_bits(DType t);

/// Files of external data, each opened once and read where a tensor says.
class ExternalData {
 public:
  ExternalData(std::vector<std::string> folders, data::Limits limits);
  ~ExternalData();
  /// AG0015 for a path that leaves the model's folder, AG0023 for an offset or length that the file does not have.
  Status read(const std::string& location, std::uint64_t offset, std::span<std::byte> into, const Loc& loc);
  /// The file's size: what is left behind an offset where a tensor gives no length.
  Result<std::uint64_t> size(const std::string& location, const Loc& loc);
  const data::Limits& limits() const { return limits_; }
  /// The model's own file, in which its large initializers are (detach.hpp).
  void add_own(data::BeneathFile file);

 private:
  Result<data::BeneathFile*> open(const std::string& location, const Loc& loc);
  std::vector<std::string> folders_;
  data::Limits limits_;
  std::map<std::string, data::BeneathFile> files_;
};

/// AG0022: dims, sizes and values that do not fit each other; AG2011: an element type that ag does not have.
Result<Array> read_tensor(const pb::TensorProto& t, ExternalData& external, const Loc& loc);
/// A sparse tensor as a dense one.
Result<Array> read_sparse(const pb::SparseTensorProto& t, ExternalData& external, const Loc& loc);
/// All of the array's bytes as raw data, under this name.
void write_tensor(const Array& array, const std::string& name, pb::TensorProto& out);

}  // namespace ag::onnx
