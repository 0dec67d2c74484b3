// gradcheck: every requested gradient against central differences, in f64, with the compiled programs.
#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "ir/builder.hpp"
#include "ir/op.hpp"
#include "passes/autodiff.hpp"
#include "tools/values.hpp"

namespace ag::tools {
namespace {

/// Elements that are differenced one by one; larger variables are sampled evenly.
constexpr std::int64_t max_elements = 24;

ValueId lookup(const Graph& g, const std::string& name) {
  for (const Output& o : g.outputs)
    if (o.name == name) return o.value;
  return g.find(name);
}

/// The graph in f64 whose first `count` gradient requests have become nodes and whose others are gone: what request
/// number `count` may name.
Result<Graph> differentiated(const Graph& wide, std::size_t count) {
  Graph g = wide;
  g.grads.resize(count);
  passes::PassContext context;
  AG_TRY(passes::PipelineResult r, passes::run_pipeline(std::move(g), {.passes = {"autodiff"}}, context));
  Graph out = std::move(std::get<Graph>(r.stage));
  out.stage = "import";  // one more request comes
  return out;
}

/// Checks one request. Its variable and everything that no gradient passes (`stop`, stop_gradient) become inputs of
/// the program that is differenced: the one moves, the others stay at their values.
class Checker {
 public:
  Checker(Session& s, Graph base, GradRequest request) : s_(s), base_(std::move(base)), request_(std::move(request)) {}

  Result<std::vector<GradientLine>> run(const std::vector<Array>& inputs) {
    inputs_ = inputs;
    Graph with = base_;
    with.grads = {request_};
    with.outputs.clear();
    // The outputs of earlier requests may lend their names to this one.
    for (const Output& o : base_.outputs)
      if (!base_.find(o.name)) with.outputs.push_back(o);
    std::size_t first = with.outputs.size();
    AG_TRY(runtime::Compiled gradient, compile(s_, with, options()));
    s_.report(gradient.report.warnings);
    runtime::ExecContext context(gradient.executable);
    AG_TRY(std::vector<Array> grads, runtime::run(context, inputs_));
    std::vector<std::string> names = variables();
    find_frozen();
    AG_TRY_(evaluate(names));
    std::vector<GradientLine> lines;
    for (std::size_t i = 0; i < names.size(); ++i) {
      AG_TRY(GradientLine line, check(names[i], grads[first + i]));
      lines.push_back(std::move(line));
    }
    if (request_.stop.empty()) {
      AG_TRY(GradientLine line, check_forward(names, std::span(grads).subspan(first, names.size())));
      lines.push_back(std::move(line));
    }
    return lines;
  }

 private:
  Session& s_;
  Graph base_;
  GradRequest request_;
  std::vector<Array> inputs_;
  std::vector<ValueId> frozen_;
  std::map<ValueId, Array> values_;  ///< at the point where the gradient is checked
  Array seed_;

  runtime::EngineOptions options() const {
    runtime::EngineOptions o;
    o.target = s_.options.target;
    o.pipeline.opt_level = s_.options.opt_level;
    return o;
  }

  std::vector<std::string> variables() const {
    if (!request_.trainable) return request_.wrt;
    std::vector<std::string> names;
    for (NodeId id : base_.node_ids())
      if (base_.node(id).attrs.get_or<bool>("trainable", false))
        names.push_back(base_.value(base_.node(id).result()).name);
    return names;
  }

  void find_frozen() {
    for (const std::string& name : request_.stop) frozen_.push_back(lookup(base_, name));
    for (NodeId id : base_.node_ids())
      if (base_.node(id).op->name == "StopGradient") frozen_.push_back(base_.node(id).result());
  }

  /// Values that do not move, or from where one moves: by the interpreter, once.
  Status evaluate(const std::vector<std::string>& names) {
    std::vector<ValueId> wanted = frozen_;
    for (const std::string& n : names) wanted.push_back(lookup(base_, n));
    if (!request_.seed.empty()) wanted.push_back(lookup(base_, request_.seed));
    Graph g = base_;
    g.grads.clear();
    g.outputs.clear();
    for (std::size_t i = 0; i < wanted.size(); ++i) g.outputs.push_back({"v" + std::to_string(i), wanted[i], {}});
    AG_TRY(std::vector<Array> values, interpret(g, inputs_));
    for (std::size_t i = 0; i < wanted.size(); ++i) values_.insert_or_assign(wanted[i], values[i]);
    if (!request_.seed.empty()) seed_ = values.back();
    return {};
  }

  /// The program from the moving variable and the frozen values to `of`. Its inputs: the graph's, then those of
  /// `extra`, then the variable, if they are not among them.
  Graph forward(ValueId variable, std::vector<ValueId>& extra) const {
    Graph g;
    g.name = base_.name;
    g.opset = base_.opset;
    g.symbols = base_.symbols;
    GraphBuilder b(g);
    std::vector<ValueId> map(base_.value_count());
    for (ValueId v : base_.inputs) map[v.index] = b.input(base_.value(v).name, base_.type(v));
    auto add = [&](ValueId v) {
      if (map[v.index]) return;
      map[v.index] = b.input("%" + std::to_string(v.index), base_.type(v));
      extra.push_back(v);
    };
    add(variable);
    std::for_each(frozen_.begin(), frozen_.end(), add);
    for (NodeId id : base_.node_ids()) {
      const Node& n = base_.node(id);
      if (map[n.result().index] && n.result_count == 1) continue;
      NodeId copy = b.copy(base_, id, [&](ValueId v) { return map[v.index]; });
      for (std::uint32_t r = 0; r < n.result_count; ++r)
        if (!map[n.result(r).index]) map[n.result(r).index] = g.node(copy).result(r);
    }
    g.outputs.push_back({"of", map[lookup(base_, request_.of).index], {}});
    return g;
  }

  /// <of, seed>; the seed is one where none is given.
  double weighted(const Array& of) const {
    double sum = 0;
    for (std::int64_t i = 0; i < of.elems(); ++i)
      sum += of.get_double(i) * (request_.seed.empty() ? request_.seed_value.value_or(1) : seed_.get_double(i));
    return sum;
  }

  /// The slope along one direction: of the gradient, and of forward mode.
  Result<GradientLine> check_forward(const std::vector<std::string>& names, std::span<const Array> grads) {
    Graph g = base_;
    g.outputs.clear();
    GraphBuilder b(g);
    std::vector<ValueId> ins, tangents;
    std::vector<Array> args = inputs_;
    double slope = 0, size = 0;
    for (std::size_t k = 0; k < names.size(); ++k) {
      ValueId v = lookup(base_, names[k]);
      // Leaves move together; a value that is made of them would move twice, so one is looked at only by itself.
      bool leaf = base_.def(v).operands.empty();
      if (std::find(ins.begin(), ins.end(), v) != ins.end() || (!leaf && names.size() > 1)) continue;
      ins.push_back(v);
      tangents.push_back(b.input("%direction" + std::to_string(k), Type(g.type(v))));
      Array direction(DType::f64, grads[k].shape());
      for (std::int64_t i = 0; i < direction.elems(); ++i) {
        direction.set_double(i, std::cos(static_cast<double>(i + 1) + 0.1 * static_cast<double>(k)));
        slope += direction.get_double(i) * grads[k].get_double(i);
        size += std::abs(direction.get_double(i) * grads[k].get_double(i));
      }
      args.push_back(std::move(direction));
    }
    ValueId of = lookup(base_, request_.of);
    AG_TRY(std::vector<ValueId> out, passes::forward(g, ins, tangents, {of}, request_.loc));
    GradientLine line{.name = "forward mode", .type = "", .elems = 1};
    double along = 0;
    if (out[0]) {
      g.outputs.push_back({"of", out[0], {}});
      AG_TRY(runtime::Compiled f, compile(s_, std::move(g), options()));
      runtime::ExecContext context(f.executable);
      AG_TRY(std::vector<Array> values, runtime::run(context, args));
      along = weighted(values[0]);
    }
    line.add(0, slope, along, std::max(size, 1e-3));
    return line;
  }

  Result<GradientLine> check(const std::string& name, const Array& grad) {
    ValueId variable = lookup(base_, name);
    std::vector<ValueId> extra;
    Graph g = forward(variable, extra);
    const Array at = values_.at(variable);
    std::vector<Array> args = inputs_;
    for (ValueId v : extra) args.push_back(values_.at(v));
    auto input = std::find(base_.inputs.begin(), base_.inputs.end(), variable);
    // Extra inputs come in order; the variable is the first of them.
    std::size_t slot = static_cast<std::size_t>(input - base_.inputs.begin());
    AG_TRY(runtime::Compiled f, compile(s_, std::move(g), options()));
    runtime::ExecContext context(f.executable);
    auto moved = [&](std::int64_t i, double x) -> Result<double> {
      args[slot] = at;
      args[slot].set_double(i, x);
      AG_TRY(std::vector<Array> out, runtime::run(context, args));
      return weighted(out[0]);
    };
    GradientLine line{
        .name = name, .type = Type{at.dtype(), Dims(at.shape().begin(), at.shape().end())}.str(), .elems = at.elems()};
    double scale = 1e-3;
    for (std::int64_t i = 0; i < grad.elems(); ++i)
      if (double d = std::abs(grad.get_double(i)); std::isfinite(d)) scale = std::max(scale, d);
    std::int64_t step = std::max<std::int64_t>(1, at.elems() / max_elements);
    for (std::int64_t i = 0; i < at.elems(); i += step) {
      double x = at.get_double(i), h = std::ldexp(std::max(1.0, std::abs(x)), -17);
      AG_TRY(double up, moved(i, x + h));
      AG_TRY(double down, moved(i, x - h));
      line.add(i, grad.get_double(i), (up - down) / ((x + h) - (x - h)), scale);
    }
    return line;
  }
};

/// Inputs are read in the types that the model states, then widened.
Result<std::vector<Array>> wide_inputs(Session& s, const Graph& g) {
  std::vector<runtime::Port> ports;
  for (ValueId v : g.inputs) ports.push_back({g.value(v).name, g.type(v)});
  AG_TRY(std::vector<Array> inputs, read_inputs(s, ports));
  for (Array& a : inputs) {
    if (!is_float(a.dtype()) || a.dtype() == DType::f64) continue;
    Array wide(DType::f64, a.shape());
    for (std::int64_t i = 0; i < a.elems(); ++i) wide.set_double(i, a.get_double(i));
    a = std::move(wide);
  }
  return inputs;
}

}  // namespace

int gradcheck_command(Session& s) {
  auto loaded = load_model(s);
  if (!loaded) return s.failed(loaded.error());
  if (loaded->grads.empty())
    return s.failed({error(Code::AG3009, {}, "the model asks for no gradient")
                         .help("give --grad Y:X, or a `grad` member in the file")});
  auto inputs = wide_inputs(s, *loaded);
  if (!inputs) return s.failed(inputs.error());
  auto wide = runtime::widen_to_f64(*loaded);
  if (!wide) return s.failed(wide.error());
  double tolerance = s.options.rtol >= 0 ? s.options.rtol : 1e-6;
  bool ok = true;
  if (!s.options.quiet)
    fmt::print("central differences in f64, h = 2^-17 max(1, |x|), tolerance {:g} of the largest element\n", tolerance);
  for (std::size_t i = 0; i < wide->grads.size(); ++i) {
    auto base = differentiated(*wide, i);
    if (!base) return s.failed(base.error());
    const GradRequest& request = wide->grads[i];
    auto lines = Checker(s, std::move(*base), request).run(*inputs);
    if (!lines) return s.failed(lines.error());
    std::string seed = request.seed_value     ? fmt::format(" seeded with {}", *request.seed_value)
                       : request.seed.empty() ? ""
                                              : fmt::format(" seeded with {}", request.seed);
    fmt::print("gradient of {}{}\n{}", request.of, seed, gradient_table(*lines, tolerance));
    ok = std::all_of(lines->begin(), lines->end(), [&](const GradientLine& l) { return l.good(tolerance); }) && ok;
  }
  return ok ? exit_ok : exit_mismatch;
}

}  // namespace ag::tools
