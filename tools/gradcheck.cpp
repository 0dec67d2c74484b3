// gradcheck: every requested gradient against central differences, in f64, with the compiled programs.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "ir/builder.hpp"
#include "tools/values.hpp"

namespace ag::tools {
namespace {

struct Line {
  std::string name, type;
  std::int64_t checked = 0, elems = 0, worst_index = 0;
  double worst = 0, analytic = 0, numeric = 0;
};

/// Elements that are differenced one by one; larger variables are sampled evenly.
constexpr std::int64_t max_elements = 24;

/// One gradient request, made explicit: a forward program with the variables as inputs, and one with gradients.
class Checker {
 public:
  Checker(Session& s, Graph wide, GradRequest request) : s_(s), wide_(std::move(wide)), request_(std::move(request)) {}

  Result<std::vector<Line>> run(const std::vector<Array>& inputs) {
    inputs_ = inputs;
    Graph with = wide_;
    with.grads = {request_};
    with.outputs.clear();
    AG_TRY(runtime::Compiled gradient, compile(s_, with, options()));
    runtime::ExecContext gradient_context(gradient.executable);
    AG_TRY(std::vector<Array> grads, runtime::run(gradient_context, inputs_));
    AG_TRY(std::vector<std::string> names, variables());
    std::vector<Line> lines;
    for (std::size_t i = 0; i < names.size(); ++i) {
      AG_TRY(Line line, check(names[i], grads[i]));
      lines.push_back(line);
    }
    return lines;
  }

 private:
  Session& s_;
  Graph wide_;
  GradRequest request_;
  std::vector<Array> inputs_;

  runtime::EngineOptions options() const {
    runtime::EngineOptions o;
    o.target = s_.options.target;
    o.pipeline.opt_level = s_.options.opt_level;
    return o;
  }

  Result<std::vector<std::string>> variables() const {
    std::vector<std::string> names = request_.wrt;
    if (request_.trainable)
      for (NodeId id : wide_.node_ids())
        if (wide_.node(id).attrs.get_or<bool>("trainable", false)) names.push_back(wide_.value(wide_.node(id).result()).name);
    return names;
  }

  /// The forward program in which `name` is an input (appended last unless it is one already).
  Result<Graph> forward(const std::string& name, bool& appended) const {
    Graph g;
    g.name = wide_.name;
    g.opset = wide_.opset;
    g.symbols = wide_.symbols;
    GraphBuilder b(g);
    std::vector<ValueId> map(wide_.value_count());
    ValueId variable = wide_.find(name);
    appended = std::find(wide_.inputs.begin(), wide_.inputs.end(), variable) == wide_.inputs.end();
    for (ValueId v : wide_.inputs) map[v.index] = b.input(wide_.value(v).name, wide_.type(v));
    if (appended) map[variable.index] = b.input("%variable", wide_.type(variable));
    for (NodeId id : wide_.node_ids()) {
      const Node& n = wide_.node(id);
      if (map[n.result().index]) continue;
      NodeId copy = b.copy(wide_, id, [&](ValueId v) { return map[v.index]; });
      for (std::uint32_t r = 0; r < n.result_count; ++r) map[n.result(r).index] = g.node(copy).result(r);
    }
    ValueId of = wide_.find(request_.of);
    for (const Output& o : wide_.outputs)
      if (o.name == request_.of) of = o.value;
    g.outputs.push_back({"of", map[of.index], {}});
    if (!request_.seed.empty())
      if (ValueId seed = wide_.find(request_.seed)) g.outputs.push_back({"seed", map[seed.index], {}});
    return g;
  }

  Result<Array> value_of(const std::string& name) const {
    for (std::size_t i = 0; i < wide_.inputs.size(); ++i)
      if (wide_.value(wide_.inputs[i]).name == name) return inputs_[i];
    Graph g = wide_;
    g.grads.clear();
    g.outputs = {{name, wide_.find(name), {}}};
    AG_TRY(std::vector<Array> values, interpret(g, inputs_));
    return values[0];
  }

  /// <of, seed>; the seed is one where none is given.
  static double weighted(const std::vector<Array>& out, double seed) {
    double sum = 0;
    for (std::int64_t i = 0; i < out[0].elems(); ++i) sum += out[0].get_double(i) * (out.size() > 1 ? out[1].get_double(i) : seed);
    return sum;
  }

  Result<Line> check(const std::string& name, const Array& grad) {
    bool appended = false;
    AG_TRY(Graph g, forward(name, appended));
    AG_TRY(Array at, value_of(name));
    std::vector<Array> args = inputs_;
    std::size_t slot = args.size();
    if (appended) args.push_back(at);
    else
      for (std::size_t i = 0; i < wide_.inputs.size(); ++i)
        if (wide_.value(wide_.inputs[i]).name == name) slot = i;
    AG_TRY(runtime::Compiled f, compile(s_, g, options()));
    runtime::ExecContext context(f.executable);
    Line line{.name = name, .type = Type{at.dtype(), Dims(at.shape().begin(), at.shape().end())}.str(), .elems = at.elems()};
    std::int64_t step = std::max<std::int64_t>(1, at.elems() / max_elements);
    double scale = 1e-3;
    for (std::int64_t i = 0; i < grad.elems(); ++i) scale = std::max(scale, std::abs(grad.get_double(i)));
    for (std::int64_t i = 0; i < at.elems(); i += step) {
      double x = at.get_double(i), h = std::ldexp(std::max(1.0, std::abs(x)), -17);
      auto shifted = [&](double dx) -> Result<double> {
        Array moved = at;
        moved.set_double(i, x + dx);
        args[slot] = moved;
        AG_TRY(std::vector<Array> out, runtime::run(context, args));
        return weighted(out, request_.seed_value.value_or(1));
      };
      AG_TRY(double up, shifted(h));
      AG_TRY(double down, shifted(-h));
      double numeric = (up - down) / (2 * h), analytic = grad.get_double(i);
      double error = std::abs(numeric - analytic) / scale;
      ++line.checked;
      if (error >= line.worst || line.checked == 1) line.worst = error, line.worst_index = i, line.analytic = analytic, line.numeric = numeric;
    }
    return line;
  }
};

}  // namespace

int gradcheck_command(Session& s) {
  auto loaded = load_model(s);
  if (!loaded) return s.failed(loaded.error());
  if (loaded->grads.empty()) return s.failed({error(Code::AG3009, {}, "the model asks for no gradient").help("give --grad Y:X, or a `grad` member in the file")});
  auto wide = runtime::widen_to_f64(*loaded);
  if (!wide) return s.failed(wide.error());
  std::vector<runtime::Port> ports;
  for (ValueId v : wide->inputs) ports.push_back({wide->value(v).name, wide->type(v)});
  auto inputs = read_inputs(s, ports);
  if (!inputs) return s.failed(inputs.error());
  double tolerance = s.options.rtol >= 0 ? s.options.rtol : 1e-6;
  bool ok = true;
  for (const GradRequest& r : wide->grads) {
    fmt::print("gradient of {}  (central differences in f64, h = 2^-17 * max(1, |x|))\n", r.of);
    auto lines = Checker(s, *wide, r).run(*inputs);
    if (!lines) return s.failed(lines.error());
    for (const Line& l : *lines) {
      bool good = l.worst <= tolerance;
      ok = ok && good;
      fmt::print("  {:<20} {:<14} checked {:>3}/{:<8} worst error {:.1e} at [{}]: analytic {:.9g} numeric {:.9g}  {}\n", l.name, l.type, l.checked, l.elems, l.worst, l.worst_index, l.analytic,
                 l.numeric, good ? "ok" : "WRONG");
    }
  }
  return ok ? exit_ok : exit_mismatch;
}

}  // namespace ag::tools
