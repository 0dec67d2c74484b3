// The text form of graphs (SPEC 2). ir/parse.cpp reads it; print(parse(print(g))) == print(g).
//
//   text    = "ag.ir" "1" "stage=" word "opset=" int ["ag=" int] ["elided"] graph
//   graph   = "graph" ["@" name] "{" item* "return" [output {"," output}] "}"
//   item    = "symbol" name ["min" int] ["max" int] ["multiple_of" int] place*
//           | "extra" string string                             a preserved member: key, JSON text
//           | "inputs" {%n ","}                                 only if not in the order of the nodes
//           | "grad" ...                                        a gradient request, see grad_request()
//           | node
//   node    = {%n ":" type ","} "=" op (literal | {operand ","}) [attrs] {name ","} ["node" string] ["remat" int]
//             ["grad" "(" %n ")"] {"meta" string string} place* region*
//   operand = %n | "_"
//   attrs   = "{" {name "=" attr ","} "}"                       those that differ from the op's defaults
//   attr    = int | float (with a point, an exponent, or nan, inf) | bool | string | "[" ... "]" | "dims" "[" ... "]"
//           | dtype | type | "tensor" type literal
//   literal = ["inline"] ("splat" element | "random" string "scale" "=" float "key" "=" int
//           | ["file" string string] (element | "[" element... "]" | "base64" string | "resource" string) | "elided")
//   (the operands stand on the line of their op)
//   name    = string                                            of each result, "" for none; trailing ones are left out
//   region  = "region" name ["stage=" word] ["opset=" int] ["ag=" int] ["@" name] "{" ... "}"    as in graph
//   output  = [string] (%n | "_") place*
//   place   = "@" (file | "_") [":" line ":" column] ["#" pointer]
#include <fmt/format.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "ir/base/sha256.hpp"
#include "ir/check.hpp"
#include "ir/op.hpp"
#include "ir/text.hpp"

namespace ag {
namespace {

using text::quote, text::word_or_quoted;

class Printer {
 public:
  Printer(const PrintOptions& options, std::string& out) : options_(options), out_(out) {}

  void file(const Graph& g) {
    out_ += fmt::format("ag.ir 1 stage={} opset={}", word_or_quoted(g.stage), g.opset);
    if (g.ag_opset != 1) out_ += fmt::format(" ag={}", g.ag_opset);
    if (options_.elide_weights) out_ += " elided  // no input: long constants are left out";
    out_ += "\ngraph";
    name_of(g);
    body(g, 0);
  }

 private:
  const PrintOptions& options_;
  std::string& out_;

  void name_of(const Graph& g) {
    if (!g.name.empty()) out_ += " @" + word_or_quoted(g.name);
  }
  void places(std::span<const Loc> locs) {
    const char* blank = "  ";
    for (const Loc& l : locs) {
      std::string p = text::place(l);
      if (p.empty()) continue;
      out_ += blank + p;
      blank = " ";
    }
  }
  void extras(const std::vector<std::pair<std::string, std::string>>& list, const std::string& before,
              const char* after) {
    for (const auto& [key, json] : list) out_ += fmt::format("{} {} {}{}", before, quote(key), quote(json), after);
  }
  static std::string value(ValueId v) { return v ? fmt::format("%{}", v.index) : "_"; }

  void body(const Graph& g, int depth) {
    std::string indent(2 * static_cast<std::size_t>(depth) + 2, ' ');
    out_ += " {\n";
    for (const SymbolInfo& s : g.symbols) symbol(s, indent);
    extras(g.extras, indent + "extra", "\n");
    for (NodeId id : g.node_ids()) node(g, g.node(id), indent, depth);
    inputs(g, indent);
    for (const GradRequest& r : g.grads) grad_request(r, indent);
    out_ += indent + "return";
    const char* comma = " ";
    for (const Output& o : g.outputs) {
      out_ += comma + (o.name.empty() ? "" : quote(o.name) + " ") + value(o.value);
      places({&o.loc, 1});
      comma = ", ";
    }
    out_ += "\n" + indent.substr(2) + "}\n";
  }

  void symbol(const SymbolInfo& s, const std::string& indent) {
    out_ += indent + "symbol " + word_or_quoted(s.name);
    if (s.min) out_ += fmt::format(" min {}", *s.min);
    if (s.max) out_ += fmt::format(" max {}", *s.max);
    if (s.multiple_of) out_ += fmt::format(" multiple_of {}", *s.multiple_of);
    places({&s.loc, 1});
    out_ += '\n';
  }

  void inputs(const Graph& g, const std::string& indent) {
    std::vector<ValueId> in_order;
    for (NodeId id : g.node_ids())
      if (g.node(id).op->name == "input") in_order.push_back(g.node(id).result());
    if (in_order == g.inputs) return;
    out_ += indent + "inputs";
    for (std::size_t i = 0; i < g.inputs.size(); ++i) out_ += (i ? ", " : " ") + value(g.inputs[i]);
    out_ += '\n';
  }

  void named(std::string_view word, const std::vector<std::string>& list, const std::vector<Loc>& locs) {
    if (list.empty()) return;
    out_ += fmt::format(" {}", word);
    for (std::size_t i = 0; i < list.size(); ++i) {
      out_ += (i ? ", " : " ") + quote(list[i]);
      if (i < locs.size()) places({&locs[i], 1});
    }
  }

  /// "grad" place ["trainable"] "of" string place "wrt" {string place ","} ["seed" string place] ["seed_value" float]
  /// ["names" {string "=" string ","}] ["stop" {string place ","}] ["checkpoint" string]
  void grad_request(const GradRequest& r, const std::string& indent) {
    out_ += indent + "grad";
    places({&r.loc, 1});
    if (r.trainable) out_ += " trainable";
    out_ += " of " + quote(r.of);
    places({&r.of_loc, 1});
    named("wrt", r.wrt, r.wrt_locs);
    if (!r.seed.empty()) named("seed", {r.seed}, {r.seed_loc});
    if (r.seed_value) out_ += " seed_value " + text::number(*r.seed_value);
    for (std::size_t i = 0; i < r.names.size(); ++i)
      out_ += (i ? ", " : " names ") + quote(r.names[i].first) + " = " + quote(r.names[i].second);
    named("stop", r.stop, r.stop_locs);
    if (!r.checkpoint.empty()) out_ += " checkpoint " + quote(r.checkpoint);
    out_ += '\n';
  }

  void node(const Graph& g, const Node& n, const std::string& indent, int depth) {
    out_ += indent;
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      out_ += fmt::format("{}%{}: {}", r ? ", " : "", n.result(r).index, g.type(n.result(r)).str());
    out_ += " = " + std::string(n.op->name);
    bool constant = n.op->name == "constant", input = n.op->name == "input";
    if (constant) out_ += " " + literal(**n.attrs.get<LiteralPtr>("value"));
    std::size_t operands = n.operands.size();
    while (operands > 0 && !n.operands[operands - 1]) --operands;
    for (std::size_t i = 0; i < operands; ++i) out_ += (i ? ", " : " ") + value(n.operands[i]);
    attrs(n, constant ? "value" : input ? "type" : "");
    result_names(g, n);
    if (!n.name.empty()) out_ += " node " + quote(n.name);
    if (n.remat) out_ += fmt::format(" remat {}", n.remat);
    if (n.grad_of) out_ += fmt::format(" grad(%{})", n.grad_of.index);
    extras(n.extras, " meta", "");
    places(n.locs);
    out_ += '\n';
    for (std::size_t i = 0; i < n.regions.size(); ++i) {
      const Graph& r = *n.regions[i];
      out_ += indent + "  region " + std::string(n.op->regions[i].name);
      if (r.stage != g.stage) out_ += " stage=" + word_or_quoted(r.stage);
      if (r.opset != g.opset) out_ += fmt::format(" opset={}", r.opset);
      if (r.ag_opset != g.ag_opset) out_ += fmt::format(" ag={}", r.ag_opset);
      name_of(r);
      body(r, depth + 2);
    }
  }

  void result_names(const Graph& g, const Node& n) {
    std::uint32_t count = n.result_count;
    while (count > 0 && g.value(n.result(count - 1)).name.empty()) --count;
    for (std::uint32_t r = 0; r < count; ++r) {
      const std::string& name = g.value(n.result(r)).name;
      out_ += (r ? ", " : "  ") + quote(name);
    }
  }

  void attrs(const Node& n, std::string_view skip) {
    std::string list;
    for (const auto& [name, v] : n.attrs) {
      if (name == skip) continue;
      const AttrSpec* spec = nullptr;
      for (const AttrSpec& s : n.op->attrs)
        if (s.name == name) spec = &s;
      if (spec && spec->fallback && equal(*spec->fallback, v)) continue;
      list += (list.empty() ? "" : ", ") + name + " = " + attr(v);
    }
    if (!list.empty()) out_ += " {" + list + "}";
  }

  template <class T, class F>
  static std::string join(const std::vector<T>& list, F spell) {
    std::string out = "[";
    for (const T& v : list) out += (out.size() > 1 ? ", " : "") + spell(v);
    return out + "]";
  }

  std::string attr(const AttrValue& v) {
    switch (kind_of(v)) {
      case AttrKind::integer: return std::to_string(std::get<std::int64_t>(v));
      case AttrKind::number: return text::number(std::get<double>(v));
      case AttrKind::boolean: return std::get<bool>(v) ? "true" : "false";
      case AttrKind::string: return quote(std::get<std::string>(v));
      case AttrKind::ints:
        return join(std::get<std::vector<std::int64_t>>(v), [](std::int64_t i) { return std::to_string(i); });
      case AttrKind::numbers: return join(std::get<std::vector<double>>(v), text::number);
      case AttrKind::strings:
        return join(std::get<std::vector<std::string>>(v), [](const std::string& s) { return quote(s); });
      case AttrKind::dtype: return std::string(dtype_name(std::get<DType>(v)));
      case AttrKind::dims: return "dims" + shape_str(std::get<Dims>(v));
      case AttrKind::literal: {
        const Literal& l = *std::get<LiteralPtr>(v);
        return "tensor " + Type{l.dtype, Dims(l.shape.begin(), l.shape.end())}.str() + " " + literal(l);
      }
      case AttrKind::type: return std::get<Type>(v).str();
    }
    return {};
  }

  std::string literal(const Literal& l) {
    std::string out = l.inline_operand ? "inline " : "";
    switch (l.form) {
      case Literal::Form::splat: {
        Array one(l.dtype, {});
        std::memcpy(one.mutable_bytes().data(), &l.bits, dtype_bytes(l.dtype));
        return out + "splat " + text::element(one, 0);
      }
      case Literal::Form::random:
        return out + fmt::format("random {} scale={} key={}", quote(l.distribution), text::number(l.scale), l.key);
      case Literal::Form::file: out += fmt::format("file {} {} ", quote(l.file), quote(l.file_key)); break;
      case Literal::Form::dense: break;
    }
    return out + elements(l.array);
  }

  std::string elements(const Array& a) {
    if (a.elems() <= options_.inline_elems) {
      if (a.shape().empty()) return text::element(a, 0);
      std::string out = "[";
      for (std::int64_t i = 0; i < a.elems(); ++i) out += (i ? ", " : "") + text::element(a, i);
      return out + "]";
    }
    if (options_.elide_weights) return "elided";
    if (!options_.resource) return "base64 \"" + text::base64(a.bytes()) + "\"";
    std::string name = sha256_hex(a.bytes());
    options_.resource(name, a.bytes());
    return "resource \"" + name + "\"";
  }
};

}  // namespace

std::string print(const Graph& graph, const PrintOptions& options) {
  std::string out;
  Printer(options, out).file(graph);
  return out;
}

Result<std::string> print_with_resources(const Graph& graph, const std::string& folder, PrintOptions options) {
  std::string failed;
  std::error_code ec;
  std::filesystem::create_directories(folder, ec);
  options.resource = [&](const std::string& name, std::span<const std::byte> bytes) {
    std::filesystem::path path = std::filesystem::path(folder) / (name + ".bin");
    if (std::filesystem::file_size(path, ec) == bytes.size() && !ec) return;  // the name is the content
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) failed = path.string();
  };
  std::string out = print(graph, options);
  if (!failed.empty()) return fail(Code::AG0305, {}, "cannot write `" + failed + "`");
  return out;
}

}  // namespace ag
