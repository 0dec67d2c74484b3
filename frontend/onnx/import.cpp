// A model's own members: opsets, inputs, initializers, outputs, and the names that nodes use.
#include <frontend/onnx/onnx.pb.h>

#include <algorithm>

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "frontend/onnx/detach.hpp"
#include "frontend/onnx/importer.hpp"
#include "ir/base/suggest.hpp"
#include "ir/base/utf8.hpp"
#include "ir/random_keys.hpp"

namespace ag::onnx {
namespace {

constexpr std::size_t max_name = 4096;
constexpr int max_rank = 64;
constexpr std::int64_t max_dim = std::int64_t{1} << 47;
constexpr int newest_opset = 28;

/// Why a value of this type is none that ag computes with; empty for a tensor.
std::string_view not_a_tensor(const pb::TypeProto& t) {
  switch (t.value_case()) {
    case pb::TypeProto::kTensorType: return {};
    case pb::TypeProto::kSequenceType: return "a sequence";
    case pb::TypeProto::kMapType: return "a map";
    case pb::TypeProto::kSparseTensorType: return "a sparse tensor";
    case pb::TypeProto::kOptionalType: return "an optional";
    default: return "of no known type";
  }
}

std::string label(const std::string& path, std::string_view name) {
  bool shown = !name.empty() && name.size() <= 256 && valid_utf8(name);
  return shown ? fmt::format("{} {}", path, name) : path;
}

}  // namespace

bool valid_utf8(std::string_view s) {
  for (std::size_t p = 0; p < s.size();) {
    auto byte = [&](std::size_t i) { return p + i < s.size() ? static_cast<unsigned char>(s[p + i]) : 0u; };
    unsigned lead = byte(0);
    std::size_t n = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (n == 0 || lead == 0) return false;
    for (std::size_t i = 1; i < n; ++i)
      if ((byte(i) & 0xc0) != 0x80) return false;
    bool overlong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
    bool surrogate = lead == 0xed && byte(1) >= 0xa0, beyond = lead == 0xf4 && byte(1) >= 0x90;
    if (overlong || surrogate || beyond) return false;
    p += n;
  }
  return true;
}

std::string node_path(const std::string& graph_path, int index, const pb::NodeProto& n) {
  std::string at = fmt::format("{}.node[{}]", graph_path, index);
  return label(at, n.name().empty() ? fmt::format("({})", n.op_type()) : n.name());
}

std::string_view domain_of(const pb::NodeProto& n) {
  return n.domain() == "ai.onnx" ? std::string_view() : std::string_view(n.domain());
}

bool looks_like_model(std::string_view s) {
  if (s.size() < 3 || s[0] != '\x08' || static_cast<unsigned char>(s[1]) > 64) return false;
  constexpr std::string_view next = "\x12\x1a\x22\x28\x32\x3a\x42";  // tags of fields 2 to 8
  return next.find(s[2]) != next.npos;
}

namespace {

Result<Graph> import_bytes(std::string bytes, const std::string& file, const ImportOptions& options,
                           const Places* places, std::optional<data::BeneathFile> own = {}) {
  Loc whole;
  whole.file = std::make_shared<const std::string>(file);
  if (bytes.size() > max_model_bytes)
    return fail(Code::AG0006, whole,
                fmt::format("`{}` has {} bytes; a model has at most {}", file, bytes.size(), max_model_bytes));
  pb::ModelProto model;
  {
    namespace io = google::protobuf::io;
    io::CodedInputStream stream(reinterpret_cast<const std::uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
    stream.SetRecursionLimit(512);  // our own limits are lower and say more
    if (!model.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage())
      return fail(Code::AG0021, whole,
                  fmt::format("`{}` is not an ONNX model: it cannot be read beyond byte {}", file,
                              std::max(0, stream.CurrentPosition())));
  }
  std::string().swap(bytes);  // the message holds everything now
  if (!model.has_graph()) return fail(Code::AG0021, whole, fmt::format("`{}` has no graph: it is no ONNX model", file));
  Importer importer(model, file, options, places);
  if (own) importer.external().add_own(std::move(*own));
  AG_TRY(Graph graph, importer.run());
  return with_random_keys(std::move(graph));
}

}  // namespace

Result<Graph> import_model(std::string bytes, const std::string& file, const ImportOptions& options) {
  return import_bytes(std::move(bytes), file, options, nullptr);
}

Result<Graph> import_file(const std::string& path, const ImportOptions& options) {
  AG_TRY(data::BeneathFile file, data::BeneathFile::open_path(path, max_model_bytes));
  if (auto bytes = detached(file)) {
    if (auto graph = import_bytes(std::move(*bytes), path, options, nullptr, std::move(file))) return graph;
  }
  // What is wrong is said of the file as it is.
  AG_TRY(std::string bytes, data::read_file(path, max_model_bytes));
  return import_model(std::move(bytes), path, options);
}

Result<Graph> import_model_json(const json::Document& doc, const std::string& file, const ImportOptions& options) {
  Places places;
  AG_TRY(std::string bytes, model_from_json(doc, &places));
  return import_bytes(std::move(bytes), file, options, &places);
}

bool is_model_json(json::View root) {
  if (root.find("irVersion") || root.find("ir_version")) return true;
  json::View graph = root.find("graph");
  return graph.is(json::Kind::object) && graph.find("node");
}

Importer::Importer(pb::ModelProto& model, const std::string& file, const ImportOptions& options, const Places* places)
    : model_(model),
      options_(options),
      file_(std::make_shared<const std::string>(file)),
      places_(places),
      external_(options.folders, options.data) {}
Importer::~Importer() = default;

Result<Graph> Importer::run() {
  opsets(model_.opset_import(), opsets_, "opset_import");
  collect_functions();
  if (!check_cycles()) return fail(std::move(errors_));
  check_ops();
  if (!errors_.empty()) return fail(std::move(errors_));
  for (const pb::NodeProto& n : model_.graph().node())
    if (n.op_type() == "BatchNormalization")
      for (int i = 3; i < n.input_size(); ++i) statistics_.insert(n.input(i));
  Scope scope;
  scope.graph.name = model_.graph().name();
  if (!valid_utf8(scope.graph.name)) scope.graph.name.clear();
  if (auto it = opsets_.find(""); it != opsets_.end()) scope.graph.opset = static_cast<int>(it->second);
  Frame f{.scope = scope, .outer = nullptr, .call = nullptr, .opsets = opsets_, .path = "graph", .prefix = {}};
  graph_members(f, model_.graph());
  if (!errors_.empty()) return fail(std::move(errors_));
  return std::move(scope.graph);
}

void Importer::graph_members(Frame& f, const pb::GraphProto& g) {
  initializers(f, g);
  inputs(f, g);
  nodes(f, g.node());
  outputs(f, g);
}

void Importer::opsets(const Repeated<pb::OperatorSetIdProto>& imports, Opsets& out, const std::string& path) {
  int i = 0;
  for (const auto& import : imports) {
    std::string domain = import.domain() == "ai.onnx" ? "" : import.domain();
    Loc at = loc(fmt::format("{}[{}]", path, i++));
    bool known = domain.empty() ? import.version() >= 1 && import.version() <= newest_opset : import.version() >= 0;
    if (!known)
      report(error(Code::AG1013, at,
                   fmt::format("opset {}{} is not supported", import.version(),
                               domain.empty() ? "" : fmt::format(" of the domain `{}`", domain)))
                 .note(fmt::format("of ONNX's own domain opsets up to {} are", newest_opset)));
    else if (!out.emplace(domain, import.version()).second)
      report(error(Code::AG1013, at, fmt::format("the opset of the domain `{}` is given twice", import.domain())));
  }
  if (out.empty()) out.emplace("", 1);  // files of IR version 1 and 2 name none
}

// ---- Types ---------------------------------------------------------------------------------------------------

std::optional<Type> Importer::type(const pb::TypeProto& t, std::string_view name, const Loc& at) {
  auto refuse = [&](std::string message) -> std::optional<Type> {
    report(error(Code::AG2011, at, std::move(message)));
    return std::nullopt;
  };
  if (std::string_view what = not_a_tensor(t); !what.empty())
    return refuse(fmt::format("`{}` is {}, which ag does not compute with", name, what));
  const auto& tensor = t.tensor_type();
  auto dtype = dtype_of(tensor.elem_type());
  if (!dtype)
    return refuse(fmt::format("`{}` is a tensor of {}, which ag does not compute with", name,
                              onnx_type_name(tensor.elem_type())));
  if (!tensor.has_shape())
    return refuse(fmt::format("the rank of `{}` is not known: it is declared without shape", name));
  if (tensor.shape().dim_size() > max_rank)
    return refuse(fmt::format("`{}` has {} axes; at most {} are allowed", name, tensor.shape().dim_size(), max_rank));
  Type out{*dtype, {}};
  for (const auto& d : tensor.shape().dim()) {
    if (d.has_dim_value()) {
      if (d.dim_value() < 0 || d.dim_value() > max_dim)
        return refuse(fmt::format("a size of `{}` is {}, and sizes are 0 to 2^47", name, d.dim_value()));
      out.shape.emplace_back(d.dim_value());
    } else if (!d.dim_param().empty() && d.dim_param().size() <= max_name && valid_utf8(d.dim_param())) {
      out.shape.push_back(Dim::symbol(d.dim_param()));
    } else {
      out.shape.push_back(Dim::symbol(fmt::format("{}.{}", name, out.shape.size())));
    }
  }
  auto fixed = static_shape(out.shape);
  if (fixed && !Array::byte_size(out.dtype, *fixed))
    return refuse(fmt::format("the size of `{}` in bytes overflows", name));
  return out;
}

std::optional<Type> Importer::input_type(const pb::ValueInfoProto& v, const Loc& at) {
  if (!v.has_type()) {
    report(error(Code::AG2011, at, fmt::format("the input `{}` has no type", v.name())));
    return std::nullopt;
  }
  return type(v.type(), v.name(), at);
}

// ---- Inputs, initializers, outputs ---------------------------------------------------------------------------

/// The message's copy of an initializer of the model's graph: weights are most of a model, and lie in the graph now.
void Importer::free_data(int initializer) {
  pb::TensorProto& t = *model_.mutable_graph()->mutable_initializer(initializer);
  std::unique_ptr<std::string> bytes(t.release_raw_data());
}

void Importer::initializers(Frame& f, const pb::GraphProto& g) {
  int i = 0;
  auto add = [&](const std::string& name, Result<Array> array, const Loc& at) {
    if (!check_name(name, at)) return;
    if (!array) {
      report(std::move(array).error());
      return define(f, name, {}, at);
    }
    ValueId v = f.scope.builder.constant(make_literal(std::move(*array)), at);
    bool parameter = options_.mark_trainable && is_float(f.scope.graph.type(v).dtype) && !statistics_.contains(name);
    if (parameter) f.scope.graph.node(f.scope.graph.value(v).node).attrs.set("trainable", true);
    define(f, name, v, at);
  };
  for (const auto& t : g.initializer()) {
    if (full()) return;
    Loc at = loc(label(fmt::format("{}.initializer[{}]", f.path, i++), t.name()));
    add(t.name(), read_tensor(t, external_, at), at);
    if (!f.outer && !f.call) free_data(i - 1);
  }
  i = 0;
  for (const auto& t : g.sparse_initializer()) {
    if (full()) return;
    Loc at = loc(label(fmt::format("{}.sparse_initializer[{}]", f.path, i++), t.values().name()));
    add(t.values().name(), read_sparse(t, external_, at), at);
  }
}

void Importer::inputs(Frame& f, const pb::GraphProto& g) {
  int i = 0;
  for (const auto& v : g.input()) {
    if (full()) return;
    Loc at = loc(label(fmt::format("{}.input[{}]", f.path, i++), v.name()));
    if (!check_name(v.name(), at)) continue;
    if (auto it = f.names.find(v.name()); it != f.names.end()) {
      const Node* def = it->second.value ? &f.scope.graph.def(it->second.value) : nullptr;
      if (!def || def->op->name != "input") continue;  // an initializer is its default, and stays
    }
    auto t = input_type(v, at);
    define(f, v.name(), t ? f.scope.builder.input({}, *t, at) : ValueId(), at);
  }
}

void Importer::nodes(Frame& f, const Repeated<pb::NodeProto>& list) {
  int i = 0;
  for (const pb::NodeProto& n : list) {
    if (full()) return;
    std::string path = node_path(f.path, i++, n);
    if (++node_count_ > options_.max_nodes) {
      if (node_count_ == options_.max_nodes + 1)
        report(error(Code::AG1021, loc(path),
                     fmt::format("the model has more than {} nodes, its functions inlined", options_.max_nodes)));
      return;
    }
    node(f, n, path);
  }
}

void Importer::outputs(Frame& f, const pb::GraphProto& g) {
  std::set<std::string_view> seen;
  int i = 0;
  for (const auto& v : g.output()) {
    Loc at = loc(label(fmt::format("{}.output[{}]", f.path, i++), v.name()));
    const Binding* b = lookup(f, v.name());
    if (!b) {
      report(unknown_value(f, v.name(), at));
      continue;
    }
    // A region may give a value twice; a graph's outputs have names.
    if (!seen.insert(v.name()).second && f.depth == 0) {
      report(error(Code::AG1006, at, fmt::format("output `{}` is listed twice", v.name())));
      continue;
    }
    if (b->value) f.scope.graph.outputs.push_back({v.name(), b->value, at});
  }
}

// ---- Names ---------------------------------------------------------------------------------------------------

bool Importer::check_name(const std::string& name, const Loc& at) {
  if (!name.empty() && name.size() <= max_name && valid_utf8(name)) return true;
  report(error(Code::AG1015, at,
               name.empty()             ? "a name is empty"
               : name.size() > max_name ? fmt::format("a name is longer than {} bytes", max_name)
                                        : "a name is not UTF-8"));
  return false;
}

/// Enters a checked name; a second definition of the same one is refused, and one that hides a name outside.
void Importer::define(Frame& f, const std::string& name, ValueId value, const Loc& at) {
  const Loc* first = nullptr;
  for (const Frame* o = &f; o && !first; o = o->outer)
    if (auto it = o->names.find(name); it != o->names.end()) first = &it->second.loc;
  if (first) {
    report(error(Code::AG1006, at, fmt::format("`{}` is defined twice", name), "defined again here")
               .at(*first, "first defined here")
               .note("a name is defined once in a graph, the graphs inside it included"));
    f.names.emplace(name, Binding{{}, at});
    return;
  }
  f.names.emplace(name, Binding{value, at});
  if (!value || !f.scope.graph.value(value).name.empty() || f.given_names.contains(name)) return;
  std::string full_name = f.prefix + name;
  if (!f.scope.graph.find(full_name)) f.scope.graph.set_name(value, full_name);
}

const Binding* Importer::lookup(const Frame& f, const std::string& name) const {
  auto it = f.names.find(name);
  return it == f.names.end() ? nullptr : &it->second;
}

Diag Importer::unknown_value(const Frame& f, const std::string& name, const Loc& at) const {
  Diag d = error(Code::AG1001, at, fmt::format("`{}` is not defined here", name), "no value of this name");
  std::vector<std::string> known;
  for (const auto& [n, binding] : f.names) known.push_back(n);
  std::ranges::sort(known);
  if (auto near = suggest(name, known)) d.help(fmt::format("a value with a similar name exists: `{}`", *near));
  return d;
}

Loc Importer::loc(std::string path) const {
  if (places_)
    if (auto it = places_->find(path); it != places_->end()) return it->second;
  constexpr std::size_t longest = 240, head = 80, tail = 120;
  if (path.size() > longest)
    path = path.substr(0, utf8_floor(path, head)) + " ... " + path.substr(utf8_floor(path, path.size() - tail));
  Loc out;
  out.file = file_;
  out.pointer = std::move(path);
  return out;
}

void Importer::report(Diag d) { errors_.push_back(std::move(d)); }
void Importer::report(Diags d) {
  for (Diag& one : d) errors_.push_back(std::move(one));
}

}  // namespace ag::onnx
