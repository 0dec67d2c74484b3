// The JSON graph format, `ag` version 1 (SPEC 1): text to Graph and back.
#pragma once
#include <string>
#include <vector>

#include "frontend/data/file.hpp"
#include "frontend/json/document.hpp"
#include "frontend/settle.hpp"
#include "ir/graph.hpp"

namespace ag::json {

struct ImportOptions {
  /// Folders that data files may lie in: the graph file's own first. Empty: no files.
  std::vector<std::string> folders;
  data::Limits data = {};
  std::size_t max_errors = 20;
  InputValues* values = nullptr;  ///< see frontend/settle.hpp
};

/// Builds the graph that a document describes. All errors that can be told apart are returned together, in the
/// order of their places; what follows from an error is not reported again.
Result<Graph> import_graph(const Document& doc, const ImportOptions& options = {});

/// The canonical JSON of a graph: the format's key order, one node a line, shortest round-trip numbers. A canonical
/// text imports and exports to the same bytes. AG0020 for what the format cannot say.
Result<std::string> export_graph(const Graph& graph);

}  // namespace ag::json
