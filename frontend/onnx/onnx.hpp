// ONNX files: bytes to Graph and back. Nothing in a file is believed before it is checked: sizes, counts, nesting,
// names of other files. Errors carry the path of the node ("graph.node[12] Conv_3") in place of lines.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontend/data/file.hpp"
#include "frontend/json/document.hpp"
#include "frontend/settle.hpp"
#include "ir/graph.hpp"

namespace ag::onnx {

struct ImportOptions {
  /// Folders that external data may lie in: the model's own first. Empty: no files.
  std::vector<std::string> folders;
  data::Limits data = {};
  std::size_t max_errors = 20;
  InputValues* values = nullptr;      ///< see frontend/settle.hpp
  std::size_t max_nodes = 1'000'000;  ///< after model-local functions are inlined
  int max_region_depth = 32;          ///< graphs inside graphs
  int max_call_depth = 100;           ///< functions that call functions
  bool mark_trainable = false;        ///< float initializers, but statistics of batch norms, are parameters
};

/// A binary ModelProto may have as many bytes, which is protobuf's own limit.
inline constexpr std::size_t max_model_bytes = (std::size_t{1} << 31) - 1;
/// Whether bytes look like a binary model: field 1 (ir_version, a small number), then another field of ModelProto.
bool looks_like_model(std::string_view bytes);

/// A binary model. Initializers become constants under their names (those that are inputs with a default too),
/// model-local functions are inlined, opsets are looked up by domain. `file` is the name that places show.
/// Errors: AG0021 (not a model), AG0022 (a tensor's bytes), AG0015 and AG0023 (external data), AG1002 for every
/// operator that is not known, AG1020 (functions), AG2011 (values that are no tensors), and those of any graph.
Result<Graph> import_model(std::string bytes, const std::string& file, const ImportOptions& options = {});

/// The same of a file, whose weights are read straight into their arrays.
Result<Graph> import_file(const std::string& path, const ImportOptions& options = {});
/// The same of ONNX-JSON, protobuf's JSON form of a model; places are those of the text.
Result<Graph> import_model_json(const json::Document& doc, const std::string& file, const ImportOptions& options = {});
/// A JSON object with `irVersion`, `ir_version` or a `graph` that has `node`.
bool is_model_json(json::View root);

/// A binary model of a graph without gradient requests (they are taken first): ONNX's own operators where the graph has
/// primitives (then of opset 18 at least), initializers with raw data, symbols as `dim_param`. AG0024.
Result<std::string> export_model(const Graph& graph);
/// The same as ONNX-JSON.
Result<std::string> export_model_json(const Graph& graph);

/// A TensorProto, as in the .pb files of a test case. `name` stands in messages. Returns its own name too.
Result<std::pair<std::string, Array>> parse_tensor(std::string_view bytes, std::string_view name,
                                                   const data::Limits& limits = {}, const Loc& loc = {});

}  // namespace ag::onnx
