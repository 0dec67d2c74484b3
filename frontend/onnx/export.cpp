// Graph to ModelProto: every op as ONNX's operator, sizes as Shape and arithmetic, constants as initializers.
#include <frontend/onnx/onnx.pb.h>

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "frontend/onnx/json.hpp"
#include "frontend/onnx/legalise.hpp"
#include "frontend/onnx/onnx.hpp"
#include "frontend/onnx/tensor.hpp"
#include "ir/op.hpp"

namespace ag::onnx {
namespace {

constexpr int max_depth = 64;

/// The oldest format of files that knows an opset.
int ir_version(int opset) {
  constexpr std::pair<int, int> rows[] = {{8, 3},  {9, 4},   {10, 5},  {11, 6},  {14, 7}, {18, 8},
                                          {20, 9}, {22, 10}, {23, 11}, {24, 12}, {27, 13}};
  for (auto [last, version] : rows)
    if (opset <= last) return version;
  return 14;
}

void set_type(pb::TypeProto& out, const Type& t) {
  auto& tensor = *out.mutable_tensor_type();
  tensor.set_elem_type(onnx_type_of(t.dtype));
  auto& shape = *tensor.mutable_shape();
  for (const Dim& d : t.shape) {
    auto& dim = *shape.add_dim();
    if (d.is_const())
      dim.set_dim_value(d.value());
    else
      dim.set_dim_param(d.as_symbol().value_or(d.str()));
  }
}

/// A shorter list means zeros for the rest, which not every reader takes.
void complete_scan(Attrs& attrs, std::int64_t operands, std::int64_t results) {
  std::int64_t slices = attrs.get_or<std::int64_t>("num_scan_inputs", 0);
  std::int64_t stacked = results - (operands - slices);
  auto complete = [&](std::string_view name, std::int64_t count) {
    const auto* given = attrs.get<std::vector<std::int64_t>>(name);
    if (!given || count < 0) return;
    std::vector<std::int64_t> list = *given;
    list.resize(static_cast<std::size_t>(count));
    attrs.set(name, std::move(list));
  };
  for (std::string_view name : {"scan_input_axes", "scan_input_directions"}) complete(name, slices);
  for (std::string_view name : {"scan_output_axes", "scan_output_directions"}) complete(name, stacked);
}

/// Names of a whole model: each is given once, regions included.
class Names {
 public:
  std::string fresh(const std::string& want) {
    std::string name = want;
    for (int k = 1; !taken_.insert(name).second; ++k) name = fmt::format("{}_{}", want, k);
    return name;
  }

 private:
  std::set<std::string> taken_;
};

/// Writes one graph, with the names that its values have.
class Writer {
 public:
  Writer(const Graph& g, Names& names, std::map<std::string, int>& domains, int depth)
      : g_(g), names_(names), domains_(domains), depth_(depth), name_(g.value_count()) {}

  void bind(ValueId v, std::string name) { name_[v.index] = std::move(name); }
  /// `own`: the number of inputs that are declared; what follows are captures, known under their names outside.
  Status run(pb::GraphProto& out, std::size_t own);

 private:
  std::string& name(ValueId v) { return name_[v.index]; }
  Status node(NodeId id);
  Status attribute(const AttrSpec& spec, const AttrValue& value, pb::NodeProto& out, const Loc& loc);
  void constant(const Node& n);
  Status regions(const Node& n, pb::NodeProto& out);
  Status outputs(pb::GraphProto& out);

  // -- sizes as values: i64[1] each
  Result<std::string> size(const Dim& d, const Loc& loc);
  Result<std::string> factor(const Dim::Factor& f, const Loc& loc);
  Status dims(const Node& n);
  std::string number(std::int64_t v) { return numbers({v}); }
  std::string numbers(std::vector<std::int64_t> v);
  std::string add(std::string_view type, std::vector<std::string> inputs, std::string result = {});

  const Graph& g_;
  Names& names_;
  std::map<std::string, int>& domains_;
  int depth_;
  std::vector<std::string> name_;
  pb::GraphProto* out_ = nullptr;
  std::map<std::string, std::string> sizes_;               ///< of dims written so far, by their text
  std::map<std::string, std::pair<ValueId, int>> where_;   ///< a value and axis that has a symbol's size
};

std::unexpected<Diags> cannot(const Loc& loc, std::string why) {
  return fail(Code::AG0024, loc, "this cannot be written as ONNX: " + why);
}

Status Writer::run(pb::GraphProto& out, std::size_t own) {
  out_ = &out;
  // User's names first, so that none has to give way to a made-up one.
  for (NodeId id : g_.node_ids())
    for (std::uint32_t r = 0; r < g_.node(id).result_count; ++r) {
      ValueId v = g_.node(id).result(r);
      if (name(v).empty() && !g_.value(v).name.empty()) name(v) = names_.fresh(g_.value(v).name);
    }
  for (std::size_t i = 0; i < g_.inputs.size(); ++i) {
    ValueId v = g_.inputs[i];
    if (name(v).empty()) name(v) = names_.fresh(fmt::format("v{}", v.index));
    if (i >= own) continue;
    auto& info = *out.add_input();
    info.set_name(name(v));
    set_type(*info.mutable_type(), g_.type(v));
  }
  for (const Output& o : g_.outputs)
    if (name(o.value).empty())
      name(o.value) = names_.fresh(o.name.empty() ? fmt::format("v{}", o.value.index) : o.name);
  for (NodeId id : g_.node_ids()) {
    AG_TRY_(node(id));
    for (std::uint32_t r = 0; r < g_.node(id).result_count; ++r) {
      ValueId v = g_.node(id).result(r);
      const Dims& shape = g_.type(v).shape;
      for (std::size_t d = 0; d < shape.size(); ++d)
        if (auto s = shape[d].as_symbol(); s && !name(v).empty()) where_.emplace(*s, std::pair(v, static_cast<int>(d)));
    }
  }
  return outputs(out);
}

/// An output is a name of its own; where that is not the name of the value, an Identity gives it.
Status Writer::outputs(pb::GraphProto& out) {
  std::set<std::string> listed;
  for (const Output& o : g_.outputs) {
    std::string from = name(o.value), want = depth_ > 0 || o.name.empty() ? from : o.name;
    bool own = std::ranges::any_of(out.initializer(), [&](const auto& t) { return t.name() == from; }) ||
               std::ranges::any_of(out.input(), [&](const auto& v) { return v.name() == from; });
    bool captured = depth_ > 0 && std::ranges::none_of(out.node(), [&](const auto& n) {
                      return std::ranges::find(n.output(), from) != n.output().end();
                    });
    if (want != from || (depth_ > 0 && (own || captured)) || listed.contains(want)) {
      want = names_.fresh(want);
      if (depth_ == 0 && !o.name.empty() && want != o.name)
        return cannot(o.loc, fmt::format("the output `{}` has the name of another value", o.name));
      add("Identity", {from}, want);
    }
    listed.insert(want);
    auto& info = *out.add_output();
    info.set_name(want);
    set_type(*info.mutable_type(), g_.type(o.value));
  }
  return {};
}

void Writer::constant(const Node& n) {
  ValueId v = n.result();
  if (name(v).empty()) name(v) = names_.fresh(fmt::format("v{}", v.index));
  write_tensor((*n.attrs.get<LiteralPtr>("value"))->materialize(), name(v), *out_->add_initializer());
}

Status Writer::node(NodeId id) {
  const Node& n = g_.node(id);
  if (n.op->name == "input") return {};
  if (n.op->name == "constant") return constant(n), Status{};
  for (std::uint32_t r = 0; r < n.result_count; ++r)
    if (ValueId v = n.result(r); name(v).empty()) name(v) = names_.fresh(fmt::format("v{}", v.index));
  if (n.op->name == "dims") return dims(n);
  Loc loc = g_.loc(n.result());
  auto& out = *out_->add_node();
  out.set_op_type(std::string(n.op->onnx));
  if (!n.name.empty()) out.set_name(n.name);
  if (!n.op->domain.empty()) {
    out.set_domain(std::string(n.op->domain));
    int& version = domains_[std::string(n.op->domain)];
    version = std::max(version, n.op->since);
  }
  std::size_t captures = n.regions.empty() ? 0 : static_cast<std::size_t>(n.attrs.get_or<std::int64_t>("captures", 0));
  std::size_t own = n.operands.size() - std::min(n.operands.size(), captures);
  const bool random = std::ranges::any_of(n.op->attrs, [](const AttrSpec& a) { return a.name == "ordinal"; });
  if (random) own = std::min(own, n.op->operands.size() - 1);  // ONNX has no keys
  while (own > 0 && !n.operands[own - 1]) --own;
  for (std::size_t i = 0; i < own; ++i) out.add_input(n.operands[i] ? name(n.operands[i]) : "");
  for (std::uint32_t r = 0; r < n.result_count; ++r) out.add_output(name(n.result(r)));
  Attrs attrs = n.attrs;
  if (n.op->onnx == "Scan") complete_scan(attrs, static_cast<std::int64_t>(own), n.result_count);
  for (const auto& [key, value] : attrs) {
    auto spec = std::ranges::find(n.op->attrs, key, &AttrSpec::name);
    bool implied =
        key == "captures" || key == "ordinal" || (spec->fallback && equal(*spec->fallback, value) && !spec->required);
    if (!implied) AG_TRY_(attribute(*spec, value, out, loc));
  }
  return regions(n, out);
}

Status Writer::attribute(const AttrSpec& spec, const AttrValue& value, pb::NodeProto& node, const Loc& loc) {
  auto& out = *node.add_attribute();
  out.set_name(std::string(spec.name));
  using P = pb::AttributeProto;
  switch (kind_of(value)) {
    case AttrKind::integer:
      out.set_type(P::INT);
      out.set_i(std::get<std::int64_t>(value));
      return {};
    case AttrKind::boolean:
      out.set_type(P::INT);
      out.set_i(std::get<bool>(value));
      return {};
    case AttrKind::number:
      out.set_type(P::FLOAT);
      out.set_f(static_cast<float>(std::get<double>(value)));
      return {};
    case AttrKind::string:
      out.set_type(P::STRING);
      out.set_s(std::get<std::string>(value));
      return {};
    case AttrKind::ints:
      out.set_type(P::INTS);
      for (std::int64_t i : std::get<std::vector<std::int64_t>>(value)) out.add_ints(i);
      return {};
    case AttrKind::numbers:
      out.set_type(P::FLOATS);
      for (double d : std::get<std::vector<double>>(value)) out.add_floats(static_cast<float>(d));
      return {};
    case AttrKind::strings:
      out.set_type(P::STRINGS);
      for (const std::string& s : std::get<std::vector<std::string>>(value)) out.add_strings(s);
      return {};
    case AttrKind::dtype:
      out.set_type(P::INT);
      out.set_i(onnx_type_of(std::get<DType>(value)));
      return {};
    case AttrKind::dims:
      out.set_type(P::INTS);
      for (const Dim& d : std::get<Dims>(value)) {
        if (!d.is_const())
          return cannot(loc, fmt::format("the attribute `{}` holds the symbol `{}`", spec.name, d.str()));
        out.add_ints(d.value());
      }
      return {};
    case AttrKind::literal:
      out.set_type(P::TENSOR);
      write_tensor(std::get<LiteralPtr>(value)->materialize(), "", *out.mutable_t());
      return {};
    case AttrKind::type:
      out.set_type(P::TYPE_PROTO);
      set_type(*out.mutable_tp(), std::get<Type>(value));
      return {};
  }
  return {};
}

Status Writer::regions(const Node& n, pb::NodeProto& node) {
  if (!n.regions.empty() && depth_ >= max_depth) return cannot(g_.loc(n.result()), "regions are nested too deeply");
  auto captures = static_cast<std::size_t>(n.attrs.get_or<std::int64_t>("captures", 0));
  for (std::size_t r = 0; r < n.regions.size(); ++r) {
    const Graph& inner = *n.regions[r];
    auto& out = *node.add_attribute();
    out.set_name(std::string(n.op->regions[r].name));
    out.set_type(pb::AttributeProto::GRAPH);
    out.mutable_g()->set_name(
        fmt::format("{}_{}", n.name.empty() ? std::string(n.op->onnx) : n.name, n.op->regions[r].name));
    Writer writer(inner, names_, domains_, depth_ + 1);
    std::size_t own = inner.inputs.size() - std::min(inner.inputs.size(), captures);
    for (std::size_t i = own; i < inner.inputs.size(); ++i)
      writer.bind(inner.inputs[i], name(n.operands[n.operands.size() - (inner.inputs.size() - i)]));
    AG_TRY_(writer.run(*out.mutable_g(), own));
  }
  return {};
}

// ---- Sizes ---------------------------------------------------------------------------------------------------

std::string Writer::numbers(std::vector<std::int64_t> v) {
  std::string name = names_.fresh("size");
  write_tensor(Array::ints(v), name, *out_->add_initializer());
  return name;
}

std::string Writer::add(std::string_view type, std::vector<std::string> inputs, std::string result) {
  if (result.empty()) result = names_.fresh("size");
  auto& n = *out_->add_node();
  n.set_op_type(std::string(type));
  for (std::string& i : inputs) n.add_input(std::move(i));
  n.add_output(result);
  return result;
}

Result<std::string> Writer::factor(const Dim::Factor& f, const Loc& loc) {
  if (f.kind == Dim::Atom::symbol) {
    auto it = where_.find(f.name);
    if (it == where_.end()) return cannot(loc, fmt::format("no value has the size `{}`", f.name));
    std::string shape = add("Shape", {name(it->second.first)});
    return add("Gather", {shape, number(it->second.second)});
  }
  AG_TRY(std::string a, size(f.args[0], loc));
  AG_TRY(std::string b, size(f.args[1], loc));
  switch (f.kind) {
    case Dim::Atom::floordiv: return add("Div", {a, b});  // sizes are not negative
    case Dim::Atom::mod: return add("Mod", {a, b});
    case Dim::Atom::min: return add("Min", {a, b});
    case Dim::Atom::max: return add("Max", {a, b});
    default: break;
  }
  return add("Where", {add("Equal", {a, number(1)}), b, a});
}

Result<std::string> Writer::size(const Dim& d, const Loc& loc) {
  if (d.is_const()) return number(d.value());
  if (auto it = sizes_.find(d.str()); it != sizes_.end()) return it->second;
  std::string sum;
  for (const Dim::Term& t : d.terms()) {
    std::string product;
    if (t.coeff != 1 || t.factors.empty()) product = number(t.coeff);
    for (const Dim::Factor& f : t.factors) {
      AG_TRY(std::string one, factor(f, loc));
      product = product.empty() ? one : add("Mul", {product, one});
    }
    sum = sum.empty() ? product : add("Add", {sum, product});
  }
  return sizes_[d.str()] = sum;
}

/// A vector of sizes: one part each, runs of constants together.
Status Writer::dims(const Node& n) {
  Loc loc = g_.loc(n.result());
  std::vector<std::string> parts;
  std::vector<std::int64_t> run;
  auto flush = [&] {
    if (!run.empty()) parts.push_back(numbers(std::exchange(run, {})));
  };
  for (const Dim& d : *n.attrs.get<Dims>("values")) {
    if (d.is_const()) {
      run.push_back(d.value());
      continue;
    }
    flush();
    AG_TRY(std::string part, size(d, loc));
    parts.push_back(std::move(part));
  }
  flush();
  if (parts.empty()) {
    write_tensor(Array::ints({}), name(n.result()), *out_->add_initializer());
    return {};
  }
  add("Concat", std::move(parts), name(n.result()));
  auto& axis = *out_->mutable_node(out_->node_size() - 1)->add_attribute();
  axis.set_name("axis");
  axis.set_type(pb::AttributeProto::INT);
  axis.set_i(0);
  return {};
}

Result<pb::ModelProto> model_of(const Graph& graph) {
  AG_TRY(Graph g, legalise(graph));
  pb::ModelProto model;
  model.set_ir_version(ir_version(g.opset));
  model.set_producer_name("ag");
  model.mutable_graph()->set_name(g.name.empty() ? "graph" : g.name);
  Names names;
  std::map<std::string, int> domains;
  Writer writer(g, names, domains, 0);
  AG_TRY_(writer.run(*model.mutable_graph(), g.inputs.size()));
  model.add_opset_import()->set_version(g.opset);
  for (const auto& [domain, version] : domains) {
    auto& import = *model.add_opset_import();
    import.set_domain(domain);
    import.set_version(version);
  }
  return model;
}

}  // namespace

Result<std::string> export_model(const Graph& graph) {
  AG_TRY(pb::ModelProto model, model_of(graph));
  if (model.ByteSizeLong() > max_model_bytes)
    return fail(Code::AG0024, {}, "this cannot be written as ONNX: the file would be larger than 2 GiB");
  return model.SerializeAsString();
}

Result<std::string> export_model_json(const Graph& graph) {
  AG_TRY(std::string bytes, export_model(graph));
  return model_to_json(bytes);
}

}  // namespace ag::onnx
