// ops, targets, explain: what ag knows, printed from its tables.
#include <fmt/format.h>

#include "codegen/backend.hpp"
#include "ir/base/suggest.hpp"
#include "ir/op.hpp"
#include "tools/coverage.hpp"
#include "tools/options.hpp"

namespace ag::tools {
namespace {

void print_op(const OpInfo& op) {
  fmt::print("{}{}\n  {}\n", op.name,
             op.onnx.empty() ? ""
                             : fmt::format("  (graph format: {}{})", op.onnx,
                                           op.domain.empty() ? "" : " of domain " + std::string(op.domain)),
             op.summary);
  for (const OperandSpec& s : op.operands)
    fmt::print("  operand {:<14} {}: {}{}{}\n", s.name, s.type_var, dtypes_text(s.dtypes),
               s.optional ? ", optional" : "", s.variadic ? ", one or more" : "");
  for (const AttrSpec& a : op.attrs)
    fmt::print("  attribute {:<12} {}{}\n", a.name, a.required ? "required" : "optional",
               a.doc.empty() ? "" : ": " + std::string(a.doc));
  OpCoverage c = coverage_of(op);
  fmt::print("  derivative: {}\n  evaluated: {}   compiled: {}   ptx: {}   batching: {}   verified: {}\n", c.derivative,
             c.eval, c.compiled, c.ptx, c.batching, c.verified);
}

}  // namespace

int ops_command(Session& s) {
  if (s.options.topic.empty()) {
    std::vector<OpCoverage> rows;
    for (const OpInfo& op : op_table().all()) rows.push_back(coverage_of(op));
    std::string text = !s.options.json.empty()      ? coverage_json(rows)
                       : s.options.to == "markdown" ? coverage_markdown(rows)
                                                    : coverage_text(rows);
    if (!s.options.json.empty() && s.options.json != "-") s.options.output = s.options.json;
    if (auto ok = write_output(s, text); !ok) return s.failed(ok.error());
    return exit_ok;
  }
  std::vector<std::string> names;
  bool found = false;
  for (const OpInfo& op : op_table().all()) {
    names.emplace_back(op.name);
    if (!op.onnx.empty()) names.emplace_back(op.onnx);
    if (op.name == s.options.topic || op.onnx == s.options.topic) print_op(op), found = true;
  }
  if (found) return exit_ok;
  std::string text = "there is no op `" + s.options.topic + "`";
  if (auto near = suggest(s.options.topic, names)) text += "; did you mean `" + *near + "`?";
  return s.failed({error(Code::AG0406, {}, text)});
}

int targets_command(Session&) {
  for (const codegen::Backend* b : codegen::backends()) {
    fmt::print("{}: {}\n", b->name, b->summary);
    for (const std::string& t : b->known_targets()) fmt::print("  {}:{}\n", b->name, t);
  }
  auto native = codegen::describe_target("cpu:native");
  if (native)
    fmt::print("this machine: {} ({} bit vectors, {} registers, L1 {} KiB, L2 {} KiB, L3 {} MiB)\n", native->cpu,
               native->vector_bits, native->vector_registers, native->l1_bytes >> 10, native->l2_bytes >> 10,
               native->l3_bytes >> 20);
  return exit_ok;
}

int explain_command(Session& s) {
  if (s.options.topic.empty() || s.options.topic == "list") {
    for (const CodeInfo& c : all_codes()) fmt::print("{}  {}\n", code_name(c.code), c.title);
    return exit_ok;
  }
  const CodeInfo* info = find_code(s.options.topic);
  if (!info) {
    fmt::print(stderr, "ag-compile: there is no error code `{}`; `ag-compile explain` lists them\n", s.options.topic);
    return exit_usage;
  }
  fmt::print("{}: {}\n\n{}\n", code_name(info->code), info->title, info->explanation);
  return exit_ok;
}

}  // namespace ag::tools
