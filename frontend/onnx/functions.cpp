// Operators by domain and opset, and model-local functions: found, checked for cycles, inlined where they are called.
#include <frontend/onnx/onnx.pb.h>

#include <algorithm>

#include <fmt/format.h>

#include "frontend/onnx/importer.hpp"
#include "ir/base/suggest.hpp"

namespace ag::onnx {
namespace {

std::string key_of(std::string_view domain, std::string_view name, std::string_view overload) {
  std::string key(domain == "ai.onnx" ? std::string_view() : domain);
  key += '\0';  // no name contains a NUL
  key += name;
  key += '\0';
  return key += overload;
}

std::string title(const pb::FunctionProto& f) {
  return f.domain().empty() ? f.name() : fmt::format("{}.{}", f.domain(), f.name());
}

using NodeVisitor = std::function<void(const pb::NodeProto&, const std::string& path)>;

/// Every node of a list and of the graphs inside it, in the order of the file.
void visit(const Repeated<pb::NodeProto>& nodes, const std::string& path, const NodeVisitor& visitor) {
  struct List {
    const Repeated<pb::NodeProto>* nodes;
    std::string path;
  };
  std::vector<List> open = {{&nodes, path}};
  for (std::size_t k = 0; k < open.size(); ++k) {
    List list = open[k];
    int i = 0;
    for (const pb::NodeProto& n : *list.nodes) {
      std::string at = node_path(list.path, i++, n);
      visitor(n, at);
      for (const auto& a : n.attribute()) {
        if (a.has_g()) open.push_back({&a.g().node(), fmt::format("{}.{}", at, a.name())});
        for (const auto& g : a.graphs()) open.push_back({&g.node(), fmt::format("{}.{}", at, a.name())});
      }
    }
  }
}

}  // namespace

void Importer::collect_functions() {
  int i = 0;
  for (const pb::FunctionProto& f : model_.functions()) {
    std::string path = fmt::format("functions[{}]", i++);
    bool text = valid_utf8(f.name()) && valid_utf8(f.domain()) && valid_utf8(f.overload()) && !f.name().empty();
    if (!text) {
      report(error(Code::AG1015, loc(path), "the name of a function is empty or not UTF-8"));
      continue;
    }
    if (!functions_.emplace(key_of(f.domain(), f.name(), f.overload()), &f).second)
      report(error(Code::AG1020, loc(path), fmt::format("the function `{}` is defined twice", title(f))));
    Opsets& opsets_of = function_opsets_[&f];
    if (f.opset_import_size() == 0)
      opsets_of = opsets_;
    else
      opsets(f.opset_import(), opsets_of, path + ".opset_import");
  }
}

const pb::FunctionProto* Importer::find_function(const pb::NodeProto& n) const {
  if (functions_.empty()) return nullptr;
  auto it = functions_.find(key_of(n.domain(), n.op_type(), n.overload()));
  return it == functions_.end() ? nullptr : it->second;
}

/// No function may reach itself, through whatever functions and graphs in between: depth first, without recursion.
bool Importer::check_cycles() {
  if (!errors_.empty()) return false;
  std::map<const pb::FunctionProto*, std::vector<const pb::FunctionProto*>> calls;
  for (const pb::FunctionProto& f : model_.functions()) {
    auto& list = calls[&f];
    visit(f.node(), "", [&](const pb::NodeProto& n, const std::string&) {
      const pb::FunctionProto* called = find_function(n);
      if (called && std::ranges::find(list, called) == list.end()) list.push_back(called);
    });
  }
  enum class Mark { fresh, open, done };
  std::map<const pb::FunctionProto*, Mark> marks;
  for (const pb::FunctionProto& root : model_.functions()) {
    std::vector<std::pair<const pb::FunctionProto*, std::size_t>> path = {{&root, 0}};
    if (marks[&root] == Mark::done) continue;
    marks[&root] = Mark::open;
    while (!path.empty()) {
      auto& [f, next] = path.back();
      if (next == calls[f].size()) {
        marks[f] = Mark::done;
        path.pop_back();
        continue;
      }
      const pb::FunctionProto* called = calls[f][next++];
      if (marks[called] == Mark::done) continue;
      if (marks[called] == Mark::fresh) {
        marks[called] = Mark::open;
        path.emplace_back(called, 0);
        continue;
      }
      std::string cycle = title(*called);
      auto from = std::ranges::find(path, called, [](const auto& p) { return p.first; });
      for (auto it = from + 1; it < path.end(); ++it) cycle += " -> " + title(*it->first);
      report(error(Code::AG1020, loc("functions"),
                   fmt::format("the function `{}` calls itself: {} -> {}", title(*called), cycle, title(*called))));
      return false;
    }
  }
  return true;
}

const OpInfo* Importer::find_op(const Opsets& opsets, const pb::NodeProto& n) const {
  std::string domain(domain_of(n));
  auto it = opsets.find(domain);
  std::int64_t version = it == opsets.end() ? 1 : it->second;
  const OpTable& table = op_table();
  if (const OpInfo* found =
          table.find_onnx(domain, n.op_type(), static_cast<int>(std::min<std::int64_t>(version, 1 << 19))))
    return found;
  // Every op can be named by its own name in the domain `ag`.
  bool plain = n.op_type() != "input" && n.op_type() != "constant";
  return domain == "ag" && plain ? table.find(n.op_type()) : nullptr;
}

/// All operators that are not known, at once: one error each, at its first node.
void Importer::check_ops() {
  struct Unknown {
    Diag diag;
    std::size_t nodes = 1;
  };
  std::vector<std::pair<std::string, Unknown>> unknown;
  auto check = [&](const Opsets& opsets) {
    return [&](const pb::NodeProto& n, const std::string& path) {
      bool constant = domain_of(n).empty() && n.op_type() == "Constant";
      if (constant || find_function(n) || find_op(opsets, n)) return;
      std::string key = key_of(n.domain(), n.op_type(), "");
      auto it = std::ranges::find(unknown, key, [](const auto& u) { return u.first; });
      if (it != unknown.end())
        ++it->second.nodes;
      else
        unknown.emplace_back(key, Unknown{unknown_op(opsets, n, loc(path))});
    };
  };
  visit(model_.graph().node(), "graph", check(opsets_));
  int i = 0;
  for (const pb::FunctionProto& f : model_.functions())
    visit(f.node(), fmt::format("functions[{}]", i++), check(function_opsets_[&f]));
  for (auto& [key, u] : unknown) {
    if (u.nodes > 1) u.diag.note(fmt::format("{} nodes have this operator", u.nodes));
    report(std::move(u.diag));
  }
}

Diag Importer::unknown_op(const Opsets& opsets, const pb::NodeProto& n, const Loc& at) const {
  std::string domain(domain_of(n)), type = n.op_type();
  auto it = opsets.find(domain);
  std::int64_t version = it == opsets.end() ? 1 : it->second;
  std::string where =
      domain.empty() ? fmt::format("opset {}", version) : fmt::format("version {} of the domain `{}`", version, domain);
  Diag d = error(Code::AG1002, at, fmt::format("operator `{}` does not exist in {}", type, where), "unknown operator");
  std::vector<std::string> ranges, names;
  bool known_domain = false;
  for (const OpInfo& o : op_table().all()) {
    if (o.onnx.empty() || o.domain != domain) continue;
    known_domain = true;
    names.emplace_back(o.onnx);
    if (o.onnx == type)
      ranges.push_back(o.until >= 1 << 20 ? fmt::format("{} and later", o.since)
                                          : fmt::format("{} to {}", o.since, o.until));
  }
  if (!ranges.empty())
    d.note(fmt::format("`{}` is known in {}", type, fmt::join(ranges, ", ")));
  else if (!known_domain)
    d.note(fmt::format("no operator of the domain `{}` is known", domain));
  else if (auto near = suggest(type, names))
    d.help(fmt::format("an operator with a similar name exists: `{}`", *near));
  return d;
}

void Importer::inline_call(Frame& f, const pb::NodeProto& n, const pb::FunctionProto& function, const std::string& path,
                           const Loc& at) {
  int depth = f.call ? f.call->depth + 1 : 1;
  if (depth > options_.max_call_depth) {
    report(error(Code::AG1020, at, fmt::format("functions are nested more than {} deep", options_.max_call_depth)));
    return poison(f, n, at);
  }
  auto count = [&](std::string_view what, int given, int has) {
    if (given <= has) return true;
    report(error(Code::AG1020, at,
                 fmt::format("the function `{}` has {} {}, and {} are given", title(function), has, what, given)));
    return false;
  };
  auto in = operands(f, n, at);
  bool counts = count("inputs", n.input_size(), function.input_size());
  counts = count("outputs", n.output_size(), function.output_size()) && counts;
  if (!in || !counts) return poison(f, n, at);

  Call call{.function = &function, .attributes = {}, .caller = f.call, .depth = depth};
  for (const auto& a : function.attribute_proto()) call.attributes[a.name()] = &a;
  for (const auto& a : n.attribute()) {
    const pb::AttributeProto* value = resolve(f, a);
    if (value) call.attributes[a.name()] = value;
  }
  std::string own = valid_utf8(n.name()) && !n.name().empty() ? n.name() : n.output_size() ? n.output(0) : n.op_type();
  Frame body{.scope = f.scope,
             .outer = nullptr,
             .call = &call,
             .opsets = function_opsets_.at(&function),
             .path = fmt::format("{}/{}", path, title(function)),
             .prefix = fmt::format("{}{}/", f.prefix, own),
             .depth = f.depth};
  body.given_names.insert(function.output().begin(), function.output().end());
  for (int i = 0; i < function.input_size(); ++i) {
    ValueId v = i < n.input_size() ? (*in)[static_cast<std::size_t>(i)] : ValueId();
    if (!check_name(function.input(i), at)) continue;
    // An input that the call leaves out is one that the body may leave out too.
    bool absent = !v;
    body.names.emplace(function.input(i), Binding{v, at, absent});
  }
  std::size_t before = errors_.size();
  nodes(body, function.node());
  if (errors_.size() != before) return poison(f, n, at);
  for (int i = 0; i < n.output_size(); ++i) {
    if (n.output(i).empty() || !check_name(n.output(i), at)) continue;
    const Binding* b = lookup(body, function.output(i));
    if (!b) report(unknown_value(body, function.output(i), at));
    define(f, n.output(i), b ? b->value : ValueId(), at);
  }
}

}  // namespace ag::onnx
