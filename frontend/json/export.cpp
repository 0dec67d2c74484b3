// Graph to canonical JSON.
#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>

#include <fmt/format.h>

#include "frontend/data/value.hpp"
#include "frontend/json/importer.hpp"
#include "ir/base/small_float.hpp"
#include "ir/check.hpp"

namespace ag::json {
namespace {

std::string float_text(double v, std::string shortest) {
  if (v != v) return "\"NaN\"";
  if (std::isinf(v)) return v < 0 ? "\"-Infinity\"" : "\"Infinity\"";
  if (shortest.find_first_of(".e") == std::string::npos) shortest += ".0";
  return shortest;
}

std::string element_text(const Array& a, std::int64_t i) {
  std::string s = format_element(a, i);
  return is_float(a.dtype()) || is_storage_float(a.dtype()) ? float_text(a.get_double(i), std::move(s)) : s;
}

/// Nested like the shape, on one line.
std::string data_text(const Array& a) {
  const auto& shape = a.shape();
  if (a.elems() == 0) {
    // Axes before the first empty one are written out; what follows it cannot be.
    auto zero = std::ranges::find(shape, 0);
    std::string out = "[]";
    for (auto it = zero; it != shape.begin();) {
      --it;
      std::string level = "[";
      for (std::int64_t k = 0; k < *it; ++k) level += (k ? ", " : "") + out;
      out = level + "]";
    }
    return out;
  }
  std::string out;
  for (std::int64_t i = 0; i < a.elems(); ++i) {
    std::int64_t block = 1;
    std::size_t opened = 0, closed = 0;
    for (std::size_t d = shape.size(); d-- > 0;) {
      block *= shape[d];
      opened += i % block == 0;
      closed += (i + 1) % block == 0;
    }
    if (i) out += ", ";
    out.append(opened, '[');
    out += element_text(a, i);
    out.append(closed, ']');
  }
  return out;
}

std::string type_text(DType t, const std::vector<std::int64_t>& shape) {
  return quote(Type{t, Dims(shape.begin(), shape.end())}.str());
}

/// `"f32[N,?]"`: an open size of an input is a symbol named after it.
std::string input_type_text(const Type& t, const std::string& name) {
  std::string out(dtype_name(t.dtype));
  out += '[';
  for (std::size_t i = 0; i < t.shape.size(); ++i) {
    if (i) out += ',';
    bool open = t.shape[i].as_symbol() == fmt::format("{}.{}", name, i);
    out += open ? "?" : t.shape[i].str();
  }
  return quote(out + ']');
}

/// Members of an object in order: `{ "a": 1, "b": 2 }`.
class Members {
 public:
  void add(std::string_view key, std::string_view value) {
    if (!text_.empty()) text_ += ", ";
    text_ += quote(key);
    text_ += ": ";
    text_ += value;
  }
  void extras(const std::vector<std::pair<std::string, std::string>>& list) {
    for (const auto& [key, value] : list) add(key, value);
  }
  std::string str() const { return text_.empty() ? "{}" : "{ " + text_ + " }"; }

 private:
  std::string text_;
};

std::string names_text(const std::vector<std::string>& names) {
  std::string out = "[";
  for (const std::string& n : names) out += (out.size() > 1 ? ", " : "") + quote(n);
  return out + "]";
}

/// The members that say what a literal's elements are.
void add_literal(Members& m, const Literal& l) {
  switch (l.form) {
    case Literal::Form::dense: m.add("data", data_text(l.array)); break;
    case Literal::Form::splat: {
      Array one = Array::from_bytes(l.dtype, {}, std::as_bytes(std::span(&l.bits, 1)).first(dtype_bytes(l.dtype)));
      m.add("fill", element_text(one, 0));
      break;
    }
    case Literal::Form::file:
      m.add("file", quote(l.file));
      if (!l.file_key.empty()) m.add("key", quote(l.file_key));
      break;
    case Literal::Form::random:
      m.add("random", quote(l.distribution));
      if (l.scale != 1) m.add("scale", float_text(l.scale, format_double(l.scale)));
      if (l.key != 0) m.add("key", std::to_string(l.key));
      break;
  }
}

std::string attr_text(const AttrValue& value) {
  auto list = [](const auto& items, auto&& text) {
    std::string out = "[";
    for (const auto& item : items) out += (out.size() > 1 ? ", " : "") + text(item);
    return out + "]";
  };
  auto integer = [](std::int64_t i) { return std::to_string(i); };
  auto number = [](double d) { return float_text(d, format_double(d)); };
  auto string = [](const std::string& s) { return quote(s); };
  auto dim = [](const Dim& d) { return d.is_const() ? std::to_string(d.value()) : quote(d.str()); };
  switch (kind_of(value)) {
    case AttrKind::integer: return integer(std::get<std::int64_t>(value));
    case AttrKind::number: return number(std::get<double>(value));
    case AttrKind::boolean: return std::get<bool>(value) ? "true" : "false";
    case AttrKind::string: return quote(std::get<std::string>(value));
    case AttrKind::ints: return list(std::get<std::vector<std::int64_t>>(value), integer);
    case AttrKind::numbers: return list(std::get<std::vector<double>>(value), number);
    case AttrKind::strings: return list(std::get<std::vector<std::string>>(value), string);
    case AttrKind::dtype: return quote(dtype_name(std::get<DType>(value)));
    case AttrKind::dims: return list(std::get<Dims>(value), dim);
    case AttrKind::type: return quote(std::get<Type>(value).str());
    case AttrKind::literal: break;
  }
  const Literal& l = *std::get<LiteralPtr>(value);
  Members m;
  m.add("type", type_text(l.dtype, l.shape));
  add_literal(m, l);
  return m.str();
}

std::size_t capture_count(const Node& n) {
  return n.regions.empty() ? 0 : static_cast<std::size_t>(n.attrs.get_or<std::int64_t>("captures", 0));
}

/// One graph's text; regions have their own, with the names of the graphs around them taken.
class Exporter {
 public:
  Exporter(const Graph& g, std::set<std::string>& taken, int indent)
      : g_(g), taken_(taken), indent_(indent), names_(g.value_count()) {}

  /// The region's inputs that are captures are known outside as `outer`.
  void bind_captures(const std::vector<std::string>& outer) {
    own_inputs_ = g_.inputs.size() - outer.size();
    for (std::size_t i = 0; i < outer.size(); ++i) names_[g_.inputs[own_inputs_ + i].index] = outer[i];
    bound_ = true;
  }

  void prepare() {
    if (!bound_) own_inputs_ = g_.inputs.size();
    uses_.resize(g_.value_count());
    for (NodeId id : g_.node_ids())
      for (ValueId v : g_.node(id).operands)
        if (v) ++uses_[v.index];
    for (const Output& o : g_.outputs) ++uses_[o.value.index];
    inline_.resize(g_.value_count());
    for (NodeId id : g_.node_ids()) find_inline(g_.node(id));
    for (const Output& o : g_.outputs) {
      inline_[o.value.index] = false;
      std::string& name = names_[o.value.index];
      if (name.empty() && g_.value(o.value).name.empty()) name = fresh(o.name);
    }
    for (NodeId id : g_.node_ids()) name_results(g_.node(id));
  }

  std::vector<std::string> member_lines(bool region, const std::optional<std::vector<Type>>& implied);
  std::string name(ValueId v) const { return names_[v.index]; }

 private:
  bool is_constant(const Node& n) const { return n.op->name == "constant"; }
  const Literal& literal(const Node& n) const { return **n.attrs.get<LiteralPtr>("value"); }
  std::string pad(int extra) const { return std::string(static_cast<std::size_t>(2 * (indent_ + extra)), ' '); }

  /// Which constants are written at their uses: those that were, where the format's rule gives their dtype again.
  void find_inline(const Node& n);
  void name_results(const Node& n);
  std::string fresh(std::string want);
  std::string input_line(ValueId v) const;
  std::string initializer_line(const Node& n) const;
  std::string node_text(const Node& n);
  std::string operand_text(ValueId v) const;
  std::string grad_text(const GradRequest& r) const;
  std::string list_lines(const std::vector<std::string>& lines) const;

  const Graph& g_;
  std::set<std::string>& taken_;
  int indent_;
  std::vector<std::string> names_;
  std::vector<std::uint32_t> uses_;
  std::vector<bool> inline_;
  std::size_t own_inputs_ = 0;
  bool bound_ = false;
};

void Exporter::find_inline(const Node& n) {
  if (is_constant(n)) {
    inline_[n.first_result.index] = literal(n).inline_operand && literal(n).form != Literal::Form::file &&
                                    literal(n).form != Literal::Form::random && n.extras.empty() &&
                                    g_.value(n.first_result).name.empty();
    return;
  }
  std::size_t count = n.operands.size() - std::min(capture_count(n), n.operands.size());
  std::vector<std::optional<DType>> known(count);
  std::vector<bool> literals(count);
  std::vector<std::shared_ptr<const Document>> texts(count);
  for (std::size_t i = 0; i < count; ++i) {
    ValueId v = n.operands[i];
    if (!v) continue;
    if (!inline_[v.index]) {
      known[i] = g_.type(v).dtype;
      continue;
    }
    literals[i] = true;
    auto doc = Document::parse(data_text(literal(g_.def(v)).materialize()), nullptr);
    if (doc) texts[i] = *doc;
  }
  auto fits = [&](std::size_t i, DType t) {
    return texts[i] && data::array_from_json(texts[i]->root(), t, nullptr).has_value();
  };
  for (std::size_t i = 0; i < count; ++i) {
    if (!literals[i]) continue;
    const Literal& l = literal(g_.def(n.operands[i]));
    auto t = operand_spec(*n.op, i) ? literal_dtype(*n.op, i, known, literals, fits) : std::nullopt;
    auto back = t && texts[i] ? data::array_from_json(texts[i]->root(), *t, nullptr) : Result<Array>(Array());
    if (t != l.dtype || !back || back->shape() != l.shape) inline_[n.operands[i].index] = false;
  }
  for (std::size_t i = count; i < n.operands.size(); ++i)
    if (n.operands[i]) inline_[n.operands[i].index] = false;
}

std::string Exporter::fresh(std::string want) {
  std::string name = want;
  for (int k = 1; !taken_.insert(name).second; ++k) name = fmt::format("{}_{}", want, k);
  return name;
}

void Exporter::name_results(const Node& n) {
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    ValueId v = n.result(r);
    std::string& name = names_[v.index];
    const std::string& given = g_.value(v).name;
    bool wanted = !given.empty() || uses_[v.index] > 0 || n.result_count == 1;
    if (name.empty() && wanted && !inline_[v.index]) name = fresh(given.empty() ? fmt::format("v{}", v.index) : given);
  }
}

std::string Exporter::operand_text(ValueId v) const {
  if (!v) return "null";
  return inline_[v.index] ? data_text(literal(g_.def(v)).materialize()) : quote(names_[v.index]);
}

std::string Exporter::input_line(ValueId v) const {
  Members m;
  m.add("name", quote(names_[v.index]));
  m.add("type", input_type_text(g_.type(v), g_.value(v).name));
  m.extras(g_.def(v).extras);
  return m.str();
}

std::string Exporter::initializer_line(const Node& n) const {
  const Literal& l = literal(n);
  Members m;
  m.add("name", quote(names_[n.first_result.index]));
  m.add("type", type_text(l.dtype, l.shape));
  add_literal(m, l);
  if (n.attrs.get_or<bool>("trainable", false)) m.add("trainable", "true");
  m.extras(n.extras);
  return m.str();
}

std::string Exporter::node_text(const Node& n) {
  const OpInfo& op = *n.op;
  Members m;
  bool spelled =
      !op.onnx.empty() && op_table().find_onnx(op.domain, op.onnx, op.domain == "ag" ? g_.ag_opset : g_.opset) == &op;
  m.add("op", quote(spelled ? op.onnx : op.name));
  if (!spelled)
    m.add("domain", "\"ag\"");
  else if (!op.domain.empty())
    m.add("domain", quote(op.domain));
  if (!n.name.empty()) m.add("name", quote(n.name));
  std::size_t captured = std::min(capture_count(n), n.operands.size());
  std::vector<ValueId> own(n.operands.begin(), n.operands.end() - static_cast<std::ptrdiff_t>(captured));
  while (!own.empty() && !own.back()) own.pop_back();
  std::string in;
  for (ValueId v : own) in += (in.empty() ? "" : ", ") + operand_text(v);
  if (!own.empty()) m.add("in", "[" + in + "]");
  std::string out;
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    const std::string& name = names_[n.result(r).index];
    out += (r ? ", " : "") + (name.empty() ? "null" : quote(name));
  }
  m.add("out", n.result_count == 1 ? out : "[" + out + "]");
  Members attrs;
  bool any = false;
  for (const AttrSpec& spec : op.attrs) {
    const AttrValue* value = n.attrs.find(spec.name);
    if (!value || spec.name == "captures" || spec.name == "ordinal" || (spec.fallback && equal(*value, *spec.fallback)))
      continue;
    attrs.add(spec.name, attr_text(*value));
    any = true;
  }
  if (any) m.add("attrs", attrs.str());
  if (!n.regions.empty()) {
    std::vector<std::string> outer;
    for (std::size_t i = own.size(); i < n.operands.size(); ++i)
      if (i >= n.operands.size() - captured) outer.push_back(names_[n.operands[i].index]);
    auto implied = region_input_types(op, g_, own, n.attrs);
    std::string text = "{";
    for (std::size_t r = 0; r < n.regions.size(); ++r) {
      Exporter inner(*n.regions[r], taken_, indent_ + 3);
      inner.bind_captures(outer);
      inner.prepare();
      std::vector<std::string> lines = inner.member_lines(true, implied);
      text += fmt::format("{}\n{}{}: {{", r ? "," : "", pad(2), quote(op.regions[r].name));
      for (std::size_t i = 0; i < lines.size(); ++i) text += fmt::format("{}\n{}{}", i ? "," : "", pad(3), lines[i]);
      text += lines.empty() ? "}" : fmt::format("\n{}}}", pad(2));
    }
    m.add("regions", text + fmt::format("\n{}}}", pad(1)));
  }
  for (const Loc& l : n.locs) {
    if (!l.pointer.empty() || l.line == 0) continue;  // a place in a JSON text is no part of the graph
    m.add("loc", quote(l.str()));
    break;
  }
  m.extras(n.extras);
  return m.str();
}

std::string Exporter::grad_text(const GradRequest& r) const {
  Members m;
  m.add("of", quote(r.of));
  m.add("wrt", r.trainable ? "\"trainable\"" : names_text(r.wrt));
  if (!r.seed.empty()) m.add("seed", quote(r.seed));
  if (!r.names.empty()) {
    Members names;
    for (const auto& [from, to] : r.names) names.add(from, quote(to));
    m.add("names", names.str());
  }
  if (!r.stop.empty()) m.add("stop", names_text(r.stop));
  if (!r.checkpoint.empty()) m.add("checkpoint", quote(r.checkpoint));
  m.extras(r.extras);
  return m.str();
}

std::string Exporter::list_lines(const std::vector<std::string>& lines) const {
  std::string out = "[";
  for (std::size_t i = 0; i < lines.size(); ++i) out += fmt::format("{}\n{}{}", i ? "," : "", pad(1), lines[i]);
  return out + "\n" + pad(0) + "]";
}

std::vector<std::string> Exporter::member_lines(bool region, const std::optional<std::vector<Type>>& implied) {
  std::vector<std::string> out;
  auto member = [&](std::string_view key, const std::string& value) { out.push_back(quote(key) + ": " + value); };
  if (!region) {
    member("ag", "1");
    member("opset", g_.ag_opset == 1 ? std::to_string(g_.opset)
                                     : fmt::format("{{ \"\": {}, \"ag\": {} }}", g_.opset, g_.ag_opset));
    if (!g_.name.empty()) member("name", quote(g_.name));
  }
  for (const auto& [key, value] : g_.extras) member(key, value);
  if (!g_.symbols.empty()) {
    Members dims;
    for (const SymbolInfo& s : g_.symbols) {
      Members d;
      if (s.min) d.add("min", std::to_string(*s.min));
      if (s.max) d.add("max", std::to_string(*s.max));
      if (s.multiple_of) d.add("multiple_of", std::to_string(*s.multiple_of));
      d.extras(s.extras);
      dims.add(s.name, d.str());
    }
    member("dims", dims.str());
  }
  std::vector<std::string> inputs, initializers, nodes, outputs;
  bool bare = region;
  for (std::size_t i = 0; i < own_inputs_; ++i) {
    ValueId v = g_.inputs[i];
    if (region && implied && i < implied->size() && (*implied)[i] == g_.type(v) && g_.def(v).extras.empty())
      inputs.push_back(quote(names_[v.index]));
    else
      inputs.push_back(input_line(v)), bare = false;
  }
  for (NodeId id : g_.node_ids()) {
    const Node& n = g_.node(id);
    if (n.op->name == "input") continue;
    if (!is_constant(n))
      nodes.push_back(node_text(n));
    else if (!inline_[n.first_result.index])
      initializers.push_back(initializer_line(n));
  }
  std::set<ValueId> shown;
  for (const Output& o : g_.outputs) {
    // Outputs are names of values: a second name for one, or another than its own, is an Identity.
    std::string name = names_[o.value.index];
    bool own = region || o.name == name;
    if (!shown.insert(o.value).second || !own) {
      std::string alias = fresh(o.name.empty() ? name : o.name);
      nodes.push_back(fmt::format("{{ \"op\": \"Identity\", \"in\": [{}], \"out\": {} }}", quote(name), quote(alias)));
      name = alias;
    }
    outputs.push_back(name);
  }
  if (!inputs.empty()) member("inputs", bare ? fmt::format("[{}]", fmt::join(inputs, ", ")) : list_lines(inputs));
  if (!initializers.empty() && !region) member("initializers", list_lines(initializers));
  if (!nodes.empty()) member("nodes", list_lines(nodes));
  if (!outputs.empty()) member("outputs", names_text(outputs));
  if (!initializers.empty() && region) member("initializers", list_lines(initializers));
  if (g_.grads.size() == 1)
    member("grad", grad_text(g_.grads[0]));
  else if (!g_.grads.empty()) {
    std::vector<std::string> requests;
    for (const GradRequest& r : g_.grads) requests.push_back(grad_text(r));
    member("grad", list_lines(requests));
  }
  return out;
}

}  // namespace

Result<std::string> export_graph(const Graph& graph) {
  for (const GradRequest& r : graph.grads)
    if (r.seed_value)
      return fail(Code::AG0020, r.loc,
                  fmt::format("the seed of `{}` is a number from the command line, which JSON cannot say", r.of));
  std::set<std::string> taken;
  Exporter exporter(graph, taken, 1);
  exporter.prepare();
  std::string out = "{";
  std::vector<std::string> lines = exporter.member_lines(false, std::nullopt);
  for (std::size_t i = 0; i < lines.size(); ++i) out += fmt::format("{}\n  {}", i ? "," : "", lines[i]);
  return out + "\n}\n";
}

}  // namespace ag::json
