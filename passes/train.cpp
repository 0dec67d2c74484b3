#include "passes/train.hpp"

#include <algorithm>
#include <charconv>
#include <map>

#include "ir/base/suggest.hpp"
#include "ir/op.hpp"
#include "ir/ops/common.hpp"
#include "ir/ops/expr.hpp"
#include "ir/random_keys.hpp"
#include "passes/attention.hpp"

namespace ag::passes {

using ops::Expr;

Optimiser default_optimiser(Optimiser::Kind kind) {
  Optimiser o;
  o.kind = kind;
  if (kind == Optimiser::Kind::adamw) o.weight_decay = 1e-2;
  return o;
}

namespace {

std::unexpected<Diags> malformed(std::string message, std::string help) {
  return fail(error(Code::AG0402, {}, std::move(message)).help(std::move(help)));
}

/// The numbers that an optimiser takes, by name.
std::map<std::string_view, double*> numbers_of(Optimiser& o) {
  if (o.kind == Optimiser::Kind::sgd)
    return {{"lr", &o.lr}, {"momentum", &o.momentum}, {"dampening", &o.dampening}, {"weight_decay", &o.weight_decay}};
  return {{"lr", &o.lr}, {"beta1", &o.beta1}, {"beta2", &o.beta2}, {"eps", &o.eps}, {"weight_decay", &o.weight_decay}};
}

Status set_option(Optimiser& o, std::string_view name, std::string_view value) {
  auto numbers = numbers_of(o);
  if (o.kind == Optimiser::Kind::sgd && name == "nesterov") {
    if (value != "true" && value != "false")
      return malformed("`nesterov` is true or false, not `" + std::string(value) + "`", "write nesterov=true");
    o.nesterov = value == "true";
    return {};
  }
  auto it = numbers.find(name);
  if (it == numbers.end()) {
    std::vector<std::string> names{"nesterov"};
    if (o.kind != Optimiser::Kind::sgd) names.clear();
    for (const auto& [n, to] : numbers) names.emplace_back(n);
    std::string list;
    for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
    auto near = suggest(name, names);
    return malformed("this optimiser has no option `" + std::string(name) + "`",
                     near ? "did you mean `" + *near + "`?" : "its options: " + list);
  }
  double x = 0;
  auto [end, ec] = std::from_chars(value.data(), value.data() + value.size(), x);
  if (ec != std::errc() || end != value.data() + value.size() || !(x >= 0))
    return malformed("`" + std::string(name) + "` takes a number that is not negative", "like lr=1e-3");
  *it->second = x;
  return {};
}

}  // namespace

Result<Optimiser> parse_optimiser(std::string_view text) {
  Optimiser o;
  bool first = true;
  while (first || !text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    std::string_view item = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    if (first) {
      if (item.starts_with("optimizer=")) item.remove_prefix(10);
      using Kind = Optimiser::Kind;
      const std::map<std::string_view, Kind> kinds{{"sgd", Kind::sgd}, {"adam", Kind::adam}, {"adamw", Kind::adamw}};
      auto kind = kinds.find(item);
      if (kind == kinds.end())
        return malformed("there is no optimiser `" + std::string(item) + "`", "sgd, adam or adamw, like adamw,lr=1e-3");
      o = default_optimiser(kind->second);
      first = false;
      continue;
    }
    const std::size_t eq = item.find('=');
    if (eq == item.npos) return malformed("an option of an optimiser is NAME=NUMBER", "like lr=1e-3");
    AG_TRY_(set_option(o, item.substr(0, eq), item.substr(eq + 1)));
  }
  if (o.nesterov && (o.momentum == 0 || o.dampening != 0))
    return malformed("`nesterov` needs a momentum and no dampening", "like sgd,momentum=0.9,nesterov=true");
  return o;
}

const std::string* next_of_state(const Graph& g, ValueId input) { return g.def(input).attrs.get<std::string>("state"); }

namespace {

/// Builds the step: constants become inputs, autodiff runs, updates are appended.
class StepBuilder {
 public:
  StepBuilder(Graph g, const Optimiser& o, PassContext& context, const TrainSpec& spec)
      : g_(std::move(g)), o_(o), context_(context), spec_(spec) {}

  Result<TrainStep> run() {
    g_.grads.clear();
    if (g_.outputs.empty()) return fail(Code::AG5303, {}, "the graph has no output that could be the loss");
    number_steps();
    AG_TRY_(parameters_to_states());
    AG_TRY_(carried_to_states());
    statistics_to_states();
    AG_TRY_(differentiate());
    optimise();
    for (const auto& [input, next] : running_) keep(g_.find(input), g_.find(next));
    return TrainStep{std::move(g_), std::move(states_)};
  }

 private:
  Graph g_;
  const Optimiser& o_;
  PassContext& context_;
  const TrainSpec& spec_;
  std::vector<StateValue> states_;
  std::vector<std::string> parameters_;
  std::vector<std::pair<std::string, std::string>> running_;  // statistics: state, next value
  std::vector<ValueId> gradients_;
  std::string step_;  // the input with the number of the step, if random ops draw by it

  bool taken(const std::string& name) const {
    return g_.find(name).valid() ||
           std::any_of(g_.outputs.begin(), g_.outputs.end(), [&](const Output& o) { return o.name == name; });
  }
  std::string free_name(const std::string& wanted) const {
    std::string name = wanted;
    for (int i = 1; taken(name); ++i) name = wanted + "_" + std::to_string(i);
    return name;
  }

  /// Random ops draw new numbers in every step.
  void number_steps() {
    const std::size_t inputs = g_.inputs.size();
    g_ = with_run_keys(std::move(g_), free_name("optimizer.step"));
    if (g_.inputs.size() > inputs) step_ = g_.value(g_.inputs.back()).name;
  }

  /// The constant or input becomes an input that is state.
  void to_state(NodeId id) {
    Node& n = g_.node(id);
    const ValueId v = n.result();
    if (g_.value(v).name.empty()) g_.set_name(v, free_name("p" + std::to_string(states_.size())));
    states_.push_back({g_.value(v).name, n.attrs.get_or<LiteralPtr>("value", nullptr)});
    std::erase(g_.inputs, v);
    Attrs attrs;
    attrs.set("type", Type(g_.type(v)));
    attrs.set("state", std::string());
    n.op = &op("input");
    n.attrs = std::move(attrs);
    g_.inputs.push_back(v);
  }

  bool is_source(ValueId v) const {
    return v && (g_.def(v).op->name == "input" || g_.def(v).attrs.get<LiteralPtr>("value"));
  }

  Status parameters_to_states() {
    std::vector<ValueId> parameters;
    for (NodeId id : g_.node_ids())
      if (spec_.parameters.empty() && g_.node(id).attrs.get_or<bool>("trainable", false))
        parameters.push_back(g_.node(id).result());
    for (const std::string& name : spec_.parameters) {
      parameters.push_back(g_.find(name));
      if (!is_source(parameters.back()))
        return fail(Code::AG5303, {}, "there is no constant or input `" + name + "` that could be trained");
    }
    for (ValueId v : parameters) {
      const Type& t = g_.type(v);
      if (!is_float(t.dtype) || std::any_of(t.shape.begin(), t.shape.end(), [](const Dim& d) { return !d.is_const(); }))
        return fail(
            Code::AG5303, g_.loc(v),
            g_.display(v) + " is trainable and " + t.str() + ": only real parameters of fixed sizes can be trained");
      to_state(g_.value(v).node);
      parameters_.push_back(g_.value(v).name);
    }
    if (parameters_.empty())
      return fail(error(Code::AG5303, {}, "the graph has no trainable parameters")
                      .help("mark initializers with \"trainable\": true, or give --trainable GLOB"));
    return {};
  }

  Status carried_to_states() {
    for (const auto& [name, output] : spec_.carried) {
      const ValueId v = g_.find(name);
      auto next = std::find_if(g_.outputs.begin(), g_.outputs.end(), [&](const Output& o) { return o.name == output; });
      if (!is_source(v) || next == g_.outputs.end() || next == g_.outputs.begin() || g_.type(v) != g_.type(next->value))
        return fail(Code::AG5303, {}, "`" + output + "` cannot be the next value of `" + name + "`");
      to_state(g_.value(v).node);
      if (g_.value(next->value).name.empty()) g_.set_name(next->value, output);
      running_.emplace_back(name, g_.value(next->value).name);
      g_.outputs.erase(next);
    }
    return {};
  }

  /// Running statistics are state too where a batch norm in training mode gives their next values.
  void statistics_to_states() {
    const OpInfo* norm = &op("BatchNormalization");
    for (NodeId id : g_.node_ids()) {
      const Node& n = g_.node(id);
      if (n.op != norm || !ops::attr_int(n.attrs, "training_mode", 0)) continue;
      for (std::uint32_t k = 1; k < n.result_count; ++k) {
        const ValueId from = n.operands[k + 2], next = n.result(k);
        if (!g_.def(from).attrs.get<LiteralPtr>("value")) continue;
        to_state(g_.value(from).node);
        if (g_.value(next).name.empty()) g_.set_name(next, free_name(g_.value(from).name + ".next"));
        running_.emplace_back(g_.value(from).name, g_.value(next).name);
      }
    }
  }

  Status differentiate() {
    const std::size_t own = g_.outputs.size();
    // Running statistics must live through autodiff, and be found after it.
    for (const auto& [state, next] : running_) g_.outputs.push_back({free_name(next), g_.find(next), {}});
    GradRequest r;
    r.of = g_.outputs[0].name;
    r.wrt = parameters_;
    for (const std::string& p : parameters_) r.names.emplace_back(p, free_name(p + ".grad"));
    g_.grads.push_back(std::move(r));
    const std::size_t before = g_.outputs.size();
    AG_TRY(g_, attention.on_graph(g_, context_));  // a backward pass would not be recognised
    AG_TRY(g_, autodiff.on_graph(g_, context_));
    for (std::size_t i = 0; i < parameters_.size(); ++i) gradients_.push_back(g_.outputs[before + i].value);
    g_.outputs.resize(own);
    return {};
  }

  // -- updates ----------------------------------------------------------------------------------------------------

  ValueId new_state(const std::string& name, LiteralPtr initial) {
    GraphBuilder b(g_);
    ValueId v = b.input(free_name(name), {initial->dtype, Dims(initial->shape.begin(), initial->shape.end())});
    g_.node(g_.value(v).node).attrs.set("state", std::string());
    states_.push_back({g_.value(v).name, std::move(initial)});
    return v;
  }

  ValueId run_number() {
    const ValueId v = g_.find(step_);
    to_state(g_.value(v).node);
    states_.back().initial = make_splat(DType::i64, {}, 0);
    return v;
  }

  /// `next` is what the state holds after the step.
  void keep(ValueId state, ValueId next) {
    std::string name = g_.value(next).name;
    const bool own = !name.empty() && std::none_of(g_.outputs.begin(), g_.outputs.end(),
                                                   [&](const Output& o) { return o.name == name; });
    if (!own) name = free_name(g_.value(state).name + ".next");
    g_.outputs.push_back({name, next, {}});
    g_.node(g_.value(state).node).attrs.set("state", name);
  }

  /// A slot of a parameter, flat and in the type that is computed in, and where its next value goes.
  struct Slot {
    ValueId state;
    Expr value;
  };
  Slot slot(GraphBuilder& b, const std::string& name, ValueId parameter, DType wide) {
    const Type t = g_.type(parameter);
    std::vector<std::int64_t> shape;
    for (const Dim& d : t.shape) shape.push_back(d.value());
    const ValueId v = new_state(name, make_splat(t.dtype, shape, 0));
    return {v, flat(b, v).to(wide)};
  }
  Expr flat(GraphBuilder& b, ValueId v) { return {b, b.reshape(v, {product(g_.type(v).shape)})}; }
  void keep(GraphBuilder& b, ValueId state, Expr next) {
    const Type t = g_.type(state);
    keep(state, next.to(t.dtype));
  }

  /// Numbers of the step, f64 scalars; what depends on neither parameter nor gradient.
  struct Rates {
    Expr lr, first;  ///< of sgd
    Expr decay;      ///< 1 - lr * weight_decay
    Expr step, root; ///< adam: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
  };

  void optimise() {
    GraphBuilder b(g_);
    const bool adam = o_.kind != Optimiser::Kind::sgd, counts = adam || o_.dampening != 0;
    Rates r;
    r.lr = {b, new_state("optimizer.lr", make_splat(DType::f64, {}, o_.lr))};
    if (counts || !step_.empty()) {
      const ValueId step = step_.empty() ? new_state("optimizer.step", make_splat(DType::i64, {}, 0)) : run_number();
      const Expr next = Expr(b, b.add(step, b.scalar_int(DType::i64, 1))), t = next.to(DType::f64);
      r.first = Expr(b, b.compare("eq", step, b.scalar_int(DType::i64, 0)));
      if (adam) {
        r.step = r.lr / (1 - ops::call("pow", t.lit(o_.beta1), t));
        r.root = 1 / ops::sqrt(1 - ops::call("pow", t.lit(o_.beta2), t));
        r.decay = 1 - r.lr * o_.weight_decay;
      }
      keep(step, next);
    }
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const ValueId w = g_.find(parameters_[i]);
      b.set_origin(g_.def(w).locs, w);
      const DType wide = accumulator_dtype(g_.type(w).dtype);
      // In memory, so that the updates of all parameters are alike and can be one kernel.
      const ValueId stored = b.add_op("materialize", {gradients_[i]}, {{"apart", true}});
      const Expr value = flat(b, w).to(wide), gradient = flat(b, stored).to(wide);
      keep(b, w, adam ? adam_update(b, w, value, gradient, r) : sgd_update(b, w, value, gradient, r));
    }
    b.set_origin({});
    keep(r.lr, r.lr);
  }

  /// torch: buf = momentum * buf + (1 - dampening) * g, the first time g itself.
  Expr sgd_update(GraphBuilder& b, ValueId parameter, Expr w, Expr g, const Rates& r) {
    const DType t = w.dtype();
    if (o_.weight_decay != 0) g = g + w * o_.weight_decay;
    if (o_.momentum != 0) {
      const Slot m = slot(b, g_.value(parameter).name + ".momentum_buffer", parameter, t);
      Expr part = g;
      if (o_.dampening != 0) part = g * ops::select(r.first, g.lit(1), g.lit(1 - o_.dampening));
      const Expr next = part + m.value * o_.momentum;
      keep(b, m.state, next);
      g = o_.nesterov ? g + next * o_.momentum : next;
    }
    return w - g * r.lr.to(t);
  }

  Expr adam_update(GraphBuilder& b, ValueId parameter, Expr w, Expr g, const Rates& r) {
    const DType t = w.dtype();
    const std::string name = g_.value(parameter).name;
    const bool decoupled = o_.kind == Optimiser::Kind::adamw;
    if (o_.weight_decay != 0 && !decoupled) g = g + w * o_.weight_decay;
    const Slot m = slot(b, name + ".exp_avg", parameter, t), v = slot(b, name + ".exp_avg_sq", parameter, t);
    const Expr first = m.value + (g - m.value) * (1 - o_.beta1);
    const Expr second = v.value * o_.beta2 + g * g * (1 - o_.beta2);
    keep(b, m.state, first);
    keep(b, v.state, second);
    if (o_.weight_decay != 0 && decoupled) w = w * r.decay.to(t);
    return w - first / (ops::sqrt(second) * r.root.to(t) + o_.eps) * r.step.to(t);
  }
};

}  // namespace

Result<TrainStep> train_step(Graph graph, const Optimiser& optimiser, PassContext& context, const TrainSpec& spec) {
  return StepBuilder(std::move(graph), optimiser, context, spec).run();
}

}  // namespace ag::passes
