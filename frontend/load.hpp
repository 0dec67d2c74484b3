// A graph from a file, whatever its format.
#pragma once
#include <cstddef>
#include <string>

#include "frontend/data/file.hpp"
#include "frontend/json/document.hpp"
#include "frontend/settle.hpp"
#include "ir/graph.hpp"

namespace ag {

struct LoadOptions {
  json::Limits json = {};                              ///< size (IR text too) and nesting
  data::Limits data = {};                              ///< of files that the graph names
  std::vector<std::string> external_dirs = {};         ///< further folders that such files may lie in
  std::size_t max_errors = 20;
  bool mark_trainable = false;  ///< of ONNX models: float initializers, but statistics of batch norms, are parameters
  InputValues* values = nullptr;  ///< of inputs, where a run has them at hand
};

/// Reads `path`, or standard input for "-": a JSON graph, an ONNX model or IR text, told apart by content. The text is
/// registered in `sources`, so that errors can show it. Data files that the graph names are looked up beside it.
Result<Graph> load(const std::string& path, Sources& sources, const LoadOptions& options = {});

/// The same for a text in memory; `folder` is where data files may lie, "" for nowhere.
Result<Graph> load_text(std::string text, const std::string& name, const std::string& folder, Sources& sources,
                        const LoadOptions& options = {});

}  // namespace ag
