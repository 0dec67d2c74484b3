// The reference interpreter: one node at a time, in the order of ids, in each op's own dtype.
#include <fmt/format.h>
#include <unistd.h>

#include <set>

#include "ir/interp_map.hpp"
#include "ir/symbols.hpp"

namespace ag {
namespace {

constexpr int max_depth = 192;  // regions (64 at most) and decompositions within them

std::size_t machine_memory() {
  long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && size > 0 ? static_cast<std::size_t>(pages) * static_cast<std::size_t>(size)
                               : std::size_t{1} << 34;
}

/// What is worked out once for a graph, however often it runs.
struct Plan {
  std::vector<bool> live;                            // by node
  std::vector<std::vector<ValueId>> last_uses;       // by node: values that die after it
  std::map<std::uint32_t, MapKernel> maps;           // by node
  std::map<std::uint32_t, std::unique_ptr<Graph>> decomposed;
};

/// Values of one graph in one run.
struct Frame {
  const Graph& graph;
  std::vector<Array> values;
  DimEnv dims;
};

/// A closed graph of one composite taken apart: an input per distinct operand, the node's results as outputs ("" and
/// an invalid id for one that the rule does not give). Constants stay constants, so that rules may look at them.
std::unique_ptr<Graph> decompose_alone(const Graph& from, const Node& node) {
  auto g = std::make_unique<Graph>();
  GraphBuilder b(*g);
  std::map<ValueId, ValueId> map;
  for (ValueId v : node.operands) {
    if (!v || map.contains(v)) continue;
    const Node& def = from.def(v);
    if (def.op->name == "constant") {
      map[v] = b.constant(*def.attrs.get<LiteralPtr>("value"));
    } else {
      map[v] = b.input("", from.type(v));
      g->value(map[v]).known_ints = from.value(v).known_ints;
    }
  }
  Node copy = node;
  for (ValueId& v : copy.operands)
    if (v) v = map[v];
  copy.grad_of = {};
  std::vector<Type> types;
  for (std::uint32_t r = 0; r < node.result_count; ++r) types.push_back(from.type(node.result(r)));
  b.set_origin(node.locs);
  NodeId id = g->append(std::move(copy), std::move(types));
  for (ValueId v : node.op->decompose(b, NodeView{*g, id})) g->outputs.push_back({"", v, {}});
  return g;
}

class Interpreter {
 public:
  explicit Interpreter(const InterpretOptions& options) : options_(options) {
    if (!options_.max_bytes) options_.max_bytes = machine_memory();
  }

  Result<std::vector<Array>> run(const Graph& g, std::span<const Array> inputs, DimEnv dims, int depth) {
    if (depth > max_depth) return fail(Code::AG1108, {}, "regions and decompositions are nested too deeply");
    Plan& plan = plan_of(g);
    Frame f{g, std::vector<Array>(g.value_count()), std::move(dims)};
    std::size_t before = live_bytes_;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      f.values[g.inputs[i].index] = inputs[i];
      live_bytes_ += inputs[i].bytes_size();
    }
    Status ok = nodes(f, plan, depth);
    std::vector<Array> out;
    if (ok)
      for (const Output& o : g.outputs) out.push_back(o.value ? f.values[o.value.index] : Array());
    live_bytes_ = before;
    if (!ok) return fail(std::move(ok).error());
    return out;
  }

  Result<std::vector<Array>> node(const NodeView& view, std::span<const Array> in, DimEnv& dims, Plan& plan,
                                  int depth) {
    const Node& n = view.node();
    AG_TRY(auto shapes, result_shapes(view, dims));
    if (n.op->eval) {
      EvalCtx ctx{view, in, std::move(shapes), dims, options_, [&](const Graph& region, std::span<const Array> inputs) {
                    return this->region(region, inputs, dims, depth + 1);
                  }};
      return n.op->eval(ctx);
    }
    if (n.op->scalar) {
      AG_TRY(Array a, evaluate_map(view, in, shapes[0], plan.maps[view.id.index]));
      return std::vector<Array>{std::move(a)};
    }
    if (n.op->decompose) return decomposed(view, in, dims, plan, depth);
    return fail(Code::AG5210, view.graph.loc(view.result()),
                fmt::format("the interpreter cannot evaluate `{}` yet", n.op->name));
  }

  Plan& plan_of(const Graph& g) {
    auto [it, fresh] = plans_.try_emplace(&g);
    Plan& p = it->second;
    if (!fresh) return p;
    p.live.resize(g.node_count());
    p.last_uses.resize(g.node_count());
    std::vector<bool> used(g.value_count());
    for (const Output& o : g.outputs) {
      if (!o.value) continue;
      p.live[g.value(o.value).node.index] = true;
      used[o.value.index] = true;  // never freed
    }
    const auto definitions = unbacked_definitions(g);
    for (std::size_t i = g.node_count(); i-- > 0;) {
      if (!p.live[i]) continue;
      const Node& n = g.node(NodeId(i));
      if (!definitions.empty())
        for (const std::string& s : unbacked_symbols(g, NodeId(i)))
          if (auto d = definitions.find(s); d != definitions.end()) p.live[d->second.index] = true;
      for (std::uint32_t r = 0; r < n.result_count; ++r)
        if (!used[n.result(r).index]) p.last_uses[i].push_back(n.result(r));
      for (ValueId v : n.operands) {
        if (!v) continue;
        p.live[g.value(v).node.index] = true;
        if (!used[v.index]) p.last_uses[i].push_back(v);
        used[v.index] = true;
      }
    }
    return p;
  }

 private:
  InterpretOptions options_;  // with the limits in force
  std::size_t live_bytes_ = 0;
  std::map<const Graph*, Plan> plans_;

  Status nodes(Frame& f, Plan& plan, int depth) {
    std::vector<Array> in;
    for (NodeId id : f.graph.node_ids()) {
      const Node& n = f.graph.node(id);
      if (!plan.live[id.index] || n.op->name == "input") continue;
      in.clear();
      for (ValueId v : n.operands) in.push_back(v ? f.values[v.index] : Array());
      NodeView view{f.graph, id};
      AG_TRY(std::vector<Array> out, node(view, in, f.dims, plan, depth));
      AG_TRY_(accept(view, out, f.dims));
      for (std::uint32_t r = 0; r < n.result_count; ++r) {
        live_bytes_ += out[r].bytes_size();
        f.values[n.result(r).index] = std::move(out[r]);
      }
      if (depth == 0 && options_.observer) {
        auto first = f.values.begin() + n.first_result.index;
        options_.observer(id, std::vector<Array>(first, first + n.result_count));
      }
      for (ValueId v : plan.last_uses[id.index]) {
        live_bytes_ -= std::min(live_bytes_, f.values[v.index].bytes_size());
        f.values[v.index] = Array();
      }
    }
    return {};
  }

  /// Concrete shapes of the results, empty where a symbol is still open; their bytes against the limit.
  Result<std::vector<std::vector<std::int64_t>>> result_shapes(const NodeView& view, const DimEnv& dims) {
    std::vector<std::vector<std::int64_t>> shapes;
    std::size_t bytes = 0;
    for (std::uint32_t r = 0; r < view.node().result_count; ++r) {
      const Type& t = view.out(r);
      auto& shape = shapes.emplace_back();
      for (const Dim& d : t.shape) {
        auto v = d.eval(dims);
        if (!v && !open_symbols(d, dims))
          return fail(
              Code::AG5205, view.graph.loc(view.result()),
              fmt::format("`{}`: the sizes in {} do not fit: {}", view.node().op->name, t.str(), values_of(d, dims)));
        if (!v) {
          shape.clear();
          break;
        }
        shape.push_back(*v);
      }
      auto size = Array::byte_size(t.dtype, shape);
      if (!size || *size > options_.max_bytes || live_bytes_ + (bytes += *size) > options_.max_bytes)
        return fail(
            Code::AG5206, view.graph.loc(view.result()),
            fmt::format("`{}` gives {}, which is {}; {} bytes are in use and the limit is {}", view.node().op->name,
                        t.str(), size ? fmt::format("{} bytes", *size) : "more than can be counted", live_bytes_,
                        options_.max_bytes));
    }
    return shapes;
  }

  static bool open_symbols(const Dim& d, const DimEnv& dims) {
    std::set<std::string> symbols;
    d.collect_symbols(symbols);
    for (const std::string& s : symbols)
      if (!dims.contains(s)) return true;
    return false;
  }

  static std::string values_of(const Dim& d, const DimEnv& dims) {
    std::set<std::string> symbols;
    d.collect_symbols(symbols);
    std::string out;
    for (const std::string& s : symbols)
      out += fmt::format("{}{} is {}", out.empty() ? "" : ", ", s, dims.find(s)->second);
    return out;
  }

  /// Results against their types; symbols that only the data knew get their values.
  Status accept(const NodeView& view, const std::vector<Array>& out, DimEnv& dims) {
    const Node& n = view.node();
    auto wrong = [&](std::uint32_t r, const std::string& got) {
      return fail(Code::AG5203, view.graph.loc(view.result()),
                  fmt::format("`{}` computed {} where its type is {}", n.op->name, got, view.out(r).str()));
    };
    if (out.size() < n.result_count) return wrong(static_cast<std::uint32_t>(out.size()), "nothing");
    for (std::uint32_t r = 0; r < n.result_count; ++r) {
      const Type& t = view.out(r);
      Type got{out[r].dtype(), Dims(out[r].shape().begin(), out[r].shape().end())};
      if (got.dtype != t.dtype || got.rank() != t.rank()) return wrong(r, got.str());
      for (std::size_t i = 0; i < t.shape.size(); ++i) {
        if (auto s = t.shape[i].as_symbol(); s && !dims.contains(*s))
          dims[*s] = got.shape[i].value();
        else if (auto v = t.shape[i].eval(dims); v && *v != got.shape[i].value())
          return wrong(r, got.str());
      }
    }
    return {};
  }

  Result<std::vector<Array>> region(const Graph& g, std::span<const Array> inputs, const DimEnv& outer, int depth) {
    std::vector<std::vector<std::int64_t>> shapes;
    for (const Array& a : inputs) shapes.push_back(a.shape());
    DimEnv visible = outer;  // unbacked symbols are numbered graph by graph: a region does not mean those outside
    std::erase_if(visible, [](const auto& entry) { return is_unbacked(entry.first); });
    AG_TRY(DimEnv dims, bind_dims(g, shapes, visible));
    return run(g, inputs, std::move(dims), depth);
  }

  Result<std::vector<Array>> decomposed(const NodeView& view, std::span<const Array> in, const DimEnv& dims, Plan& plan,
                                        int depth) {
    auto& g = plan.decomposed[view.id.index];
    const Node& n = view.node();
    if (!g) g = decompose_alone(view.graph, n);
    // Sizes that the decomposition names for itself are none of those outside, whatever their numbers.
    DimEnv visible = dims;
    std::erase_if(visible, [](const auto& entry) { return is_unbacked(entry.first); });
    for (ValueId v : n.operands)
      if (v) keep_unbacked(view.graph.type(v).shape, dims, visible);
    for (const auto& [name, value] : n.attrs)
      if (const Dims* d = std::get_if<Dims>(&value)) keep_unbacked(*d, dims, visible);
    for (std::uint32_t r = 0; r < n.result_count; ++r) keep_unbacked(view.out(r).shape, dims, visible);
    std::vector<Array> inputs;
    std::set<ValueId> seen;
    for (std::size_t i = 0; i < n.operands.size(); ++i)
      if (n.operands[i] && seen.insert(n.operands[i]).second && view.graph.def(n.operands[i]).op->name != "constant")
        inputs.push_back(in[i]);
    return run(*g, inputs, std::move(visible), depth + 1);
  }

  /// Known sizes among those that `shape` mentions.
  static void keep_unbacked(const Dims& shape, const DimEnv& dims, DimEnv& out) {
    std::set<std::string> symbols;
    for (const Dim& d : shape) d.collect_symbols(symbols);
    for (const std::string& s : symbols)
      if (auto it = dims.find(s); it != dims.end()) out.insert(*it);
  }
};

Status check_input(const Graph& g, std::size_t i, const Array& a) {
  const Type& t = g.type(g.inputs[i]);
  if (a.dtype() == t.dtype) return {};
  return fail(Code::AG5202, g.loc(g.inputs[i]),
              fmt::format("input {} is {}, but {} is given", g.display(g.inputs[i]), t.str(), dtype_name(a.dtype())));
}

}  // namespace

Result<std::vector<Array>> interpret(const Graph& g, std::span<const Array> inputs, const InterpretOptions& options) {
  if (inputs.size() != g.inputs.size())
    return fail(Code::AG5201, {},
                fmt::format("the graph has {} inputs, and {} are given", g.inputs.size(), inputs.size()));
  std::vector<std::vector<std::int64_t>> shapes;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    AG_TRY_(check_input(g, i, inputs[i]));
    shapes.push_back(inputs[i].shape());
  }
  AG_TRY(DimEnv dims, bind_dims(g, shapes, options.dims));
  for (const auto& [name, value] : options.dims)
    if (dims.find(name)->second != value)
      return fail(Code::AG5203, {},
                  fmt::format("{} is set to {}, but the inputs make it {}", name, value, dims.find(name)->second));
  return Interpreter(options).run(g, inputs, std::move(dims), 0);
}

Result<std::vector<Array>> evaluate(const NodeView& node, std::span<const Array> operands,
                                    const InterpretOptions& options) {
  Interpreter interpreter(options);
  Plan plan;
  DimEnv dims = options.dims;
  for (std::size_t i = 0; i < operands.size() && i < node.operand_count(); ++i) {
    if (!node.has(i)) continue;
    for (std::size_t a = 0; a < node.in(i).shape.size() && a < operands[i].shape().size(); ++a)
      if (auto s = node.in(i).shape[a].as_symbol()) dims.emplace(*s, operands[i].shape()[a]);
  }
  return interpreter.node(node, operands, dims, plan, 0);
}

}  // namespace ag
