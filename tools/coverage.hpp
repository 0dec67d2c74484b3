// What is known of each op: the rows of `ag-compile ops` and of docs/ops.md, worked out from the op table and from what
// the passes make of its samples.
#pragma once
#include <string>
#include <vector>

#include "ir/loop/program.hpp"
#include "ir/op.hpp"

namespace ag::tools {

/// Whether any step, nested ones included, is the interpreter's.
bool calls_host(const loop::Seq& seq);

struct OpCoverage {
  std::string name;
  std::string spelling;  ///< ONNX's name, with domain and opsets; empty if files cannot name the op
  std::string tier;  ///< primitive, composite
  std::string types;  ///< of the first operand, or of the result
  std::string eval;  ///< reference evaluation: own, map, by parts
  std::string compiled;  ///< yes, or host: a step that the interpreter runs
  std::string ptx;  ///< yes, or no
  std::string derivative;  ///< partials, linear, own rule, by parts, regions; zero; none: why
  std::string batching;  ///< map, own rule, by parts, regions, one by one
  std::string verified;  ///< dtypes of the samples, which the machine-made tests run
  std::string summary;
};
OpCoverage coverage_of(const OpInfo& op);

std::string dtypes_text(DTypeSet set);  ///< "floats i32": sets by their names
std::string coverage_text(const std::vector<OpCoverage>& rows);
std::string coverage_json(const std::vector<OpCoverage>& rows);
std::string coverage_markdown(const std::vector<OpCoverage>& rows);

}  // namespace ag::tools
