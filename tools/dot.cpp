#include "tools/dot.hpp"

#include <fmt/format.h>

#include "ir/op.hpp"

namespace ag::tools {
namespace {

std::string escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out;
}

}  // namespace

std::string dot(const Graph& g) {
  std::string out = "digraph ag {\n  node [shape=box, style=filled, fillcolor=white, fontname=\"sans-serif\"];\n";
  for (NodeId id : g.node_ids()) {
    const Node& n = g.node(id);
    std::string name = g.value(n.result()).name;
    const char* colour = n.grad_of ? "lightyellow" : n.operands.empty() ? "lightgrey" : "white";
    out += fmt::format("  n{} [label=\"{}{}\\n{}\", fillcolor={}];\n", id.index, escape(n.op->name),
                       name.empty() ? "" : " " + escape(name), escape(g.type(n.result()).str()), colour);
    for (ValueId v : n.operands)
      if (v) out += fmt::format("  n{} -> n{};\n", g.value(v).node.index, id.index);
  }
  for (std::size_t i = 0; i < g.outputs.size(); ++i)
    out += fmt::format("  o{} [label=\"{}\", shape=ellipse];\n  n{} -> o{};\n", i, escape(g.outputs[i].name),
                       g.value(g.outputs[i].value).node.index, i);
  return out + "}\n";
}

}  // namespace ag::tools
