// Compiled training steps: ag::train_step.
#include <algorithm>

#include "passes/train.hpp"
#include "runtime/api/graph_impl.hpp"
#include "runtime/api/tensor_impl.hpp"
#include "runtime/api/trace_frame.hpp"
#include "runtime/exec/state.hpp"

// After public.hpp, which says where the names go.
#include "ag/training.hpp"

namespace ag::api {

using lazy::raise;
using runtime::HostArray;

struct TrainStep::Impl {
  std::vector<Port> inputs, outputs, states;
  std::vector<Type> input_types, output_types;
  std::shared_ptr<const runtime::Executable> executable;
  std::unique_ptr<runtime::State> state;
  std::unique_ptr<runtime::ExecContext> context;
  std::vector<HostArray> in, out;             ///< of the run in progress
  Generator generator;                        ///< of random numbers
  std::uint64_t key = 0;
  std::vector<runtime::OwnedArray> unwanted;  ///< outputs that a run did not ask for

  std::size_t find(const std::string& name) const {
    const auto i = state->find(name);
    if (!i) raise(Code::AG5404, "the step has no state `" + name + "`", {});
    return *i;
  }
  Tensor copy(std::size_t i) const {
    auto type = rec::TypeInfo::make(state->dtype(i), state->shape(i));
    auto value = lazy::Value::concrete(type, lazy::Buffer::allocate(type->bytes));
    if (Status s = state->get(i, {state->dtype(i), state->shape(i), value->data, type->bytes}); !s) raise(s.error());
    return lazy::make_tensor(std::move(value));
  }
  void set(std::size_t i, const Tensor& t) {
    const View view(t);
    if (Status s = state->set(
            i, {lazy::ir(view.dtype), view.shape, view.data, view.count * dtype_bytes(lazy::ir(view.dtype))});
        !s)
      raise(Code::AG5404, s.error().front().message, {});
  }
};

namespace {

passes::Optimiser rule_of(const optim::Rule& rule) {
  using Kind = passes::Optimiser::Kind;
  passes::Optimiser o = passes::default_optimiser(rule.kind == optim::Rule::Kind::sgd    ? Kind::sgd
                                                  : rule.kind == optim::Rule::Kind::adam ? Kind::adam
                                                                                         : Kind::adamw);
  if (o.kind == Kind::sgd) {
    const optim::SGDOptions& s = rule.sgd;
    o.lr = s.lr, o.momentum = s.momentum, o.dampening = s.dampening, o.weight_decay = s.weight_decay;
    o.nesterov = s.nesterov;
    if (o.nesterov && (o.momentum == 0 || o.dampening != 0))
      raise(Code::AG5404, "Nesterov momentum requires a momentum and zero dampening", {});
  } else {
    const optim::AdamOptions& a = rule.adam;
    o.lr = a.lr, o.beta1 = a.beta1, o.beta2 = a.beta2, o.eps = a.eps, o.weight_decay = a.weight_decay;
  }
  return o;
}

/// Compiles the step; states that have no initial value yet keep zeros.
TrainStep compile_step(ag::Graph graph, const optim::Rule& rule, const passes::TrainSpec& spec,
                       const CompileOptions& o) {
  runtime::EngineOptions options = lazy::engine_options();
  options.target = o.target == "cpu" ? "cpu:native" : o.target;
  options.pipeline.opt_level = o.opt_level;
  options.memory_limit = o.memory_limit;
  passes::PassContext context;
  const ag::Graph traced = graph;
  auto step = passes::train_step(std::move(graph), rule_of(rule), context, spec);
  if (!step) raise(step.error());
  for (const Diag& d : context.diagnostics) lazy::warn(d.message);
  auto compiled = lazy::engine().compile(std::move(step->graph), options);
  if (!compiled) raise(compiled.error());
  auto impl = std::make_shared<TrainStep::Impl>();
  for (const auto& p : compiled->inputs) {
    impl->inputs.push_back(port_of(p.name, p.type));
    impl->input_types.push_back(p.type);
  }
  impl->generator = Generator::of(traced, impl->inputs);
  for (const auto& p : compiled->outputs) {
    impl->outputs.push_back(port_of(p.name, p.type));
    impl->output_types.push_back(p.type);
  }
  for (const auto& p : compiled->states) impl->states.push_back(port_of(p.name, p.type));
  impl->executable = compiled->executable;
  auto state = runtime::State::create(compiled->executable);
  if (!state) raise(state.error());
  impl->state = std::move(*state);
  for (const passes::StateValue& v : step->states)
    if (v.initial) {
      const Array value = v.initial->materialize();
      if (Status s = impl->state->set(impl->find(v.name), runtime::view_of(value)); !s) raise(s.error());
    }
  runtime::ExecOptions exec = lazy::exec_options();
  if (o.threads > 0) {
    exec.threads = runtime::useful_threads(o.threads);
    exec.pool = exec.threads > 1 ? std::make_shared<runtime::ThreadPool>(exec.threads - 1) : nullptr;
  }
  exec.memory_limit = o.memory_limit;
  impl->context = std::make_unique<runtime::ExecContext>(impl->executable, exec);
  impl->unwanted.resize(impl->outputs.size());
  return TrainStep(std::move(impl));
}

/// While a function is traced, tensors of a module stand for inputs of the graph.
class Lent {
 public:
  ~Lent() {
    for (auto& [impl, value] : lent_) impl->value = value;
  }
  void lend(lazy::TensorImpl* impl, lazy::ValueRef stand_in) {
    lent_.emplace_back(impl, impl->value);
    impl->value = std::move(stand_in);
  }

 private:
  std::vector<std::pair<lazy::TensorImpl*, lazy::ValueRef>> lent_;
};

}  // namespace

namespace detail {

TrainStep train_step(std::string name, const nn::NamedTensors& parameters, const nn::NamedTensors& buffers,
                     const optim::Rule& rule, std::vector<Argument> args, const std::function<Named(const Tensors&)>& f,
                     const CompileOptions& options, const Place& place) {
  return guarded([&] {
    for (const auto* list : {&parameters, &buffers})
      for (const auto& [n, t] : *list) t.eval();
    lazy::Session& s = lazy::Session::current();
    lazy::TraceFrame frame(s, std::move(name), lazy::TraceFrame::Capture::none);
    passes::TrainSpec spec;
    nn::NamedTensors begin;
    {
      Lent lent;
      NoGradGuard no_grad;  // the graph is differentiated as a whole
      auto stand_in = [&](const std::string& n, Type t, const Loc& at) {
        if (frame.graph().find(n)) raise(Code::AG5404, "two values of the step are named `" + n + "`", place);
        return frame.input(n, std::move(t), at);
      };
      Tensors in;
      for (const Argument& a : args) {
        Type t{lazy::ir(a.dtype), {}};
        for (const Size& d : a.sizes) t.shape.push_back(d.is_symbol() ? Dim::symbol(d.symbol()) : Dim(d.number()));
        in.push_back(lazy::make_tensor(stand_in(a.name, std::move(t), lazy::loc_of(place))));
      }
      std::vector<std::pair<std::string, lazy::ValueRef>> before;
      auto lend = [&](const std::string& n, const Tensor& t) {
        begin.emplace_back(n, lazy::make_tensor(t.impl()->value));
        before.emplace_back(n, stand_in(n, t.impl()->value->type->type, {}));
        lent.lend(t.impl(), before.back().second);
      };
      for (const auto& [n, t] : parameters)
        if (t.requires_grad()) {
          lend(n, t);
          spec.parameters.push_back(n);
        }
      for (const auto& [n, t] : buffers) lend(n, t);
      for (auto& [out, t] : f(in)) frame.output(out, lazy::value_of(t, "the result of ag::train_step", place), place);
      if (spec.parameters.empty()) raise(Code::AG5303, "none of the parameters requires a gradient", place);
      auto changed = before.begin();
      for (const auto& [n, t] : parameters)
        if (t.requires_grad() && t.impl()->value != (changed++)->second)
          raise(Code::AG5404, "the loss function changes the parameter `" + n + "`: that is the optimiser's part",
                place);
      for (const auto& [n, t] : buffers) {
        const lazy::ValueRef& was = (changed++)->second;
        const std::string next = n + ".next";
        frame.output(next, t.impl()->value == was ? *was : *t.impl()->value, place);
        spec.carried.emplace_back(n, next);
      }
    }
    ag::Graph& g = frame.finish();
    for (ag::Output& o : g.outputs)
      if (g.value(o.value).name.empty() && !g.find(o.name)) g.set_name(o.value, o.name);
    TrainStep step = compile_step(std::move(g), rule, spec, options);
    step.load_state_dict(begin);
    return step;
  });
}

}  // namespace detail

TrainStep train_step(const Graph& graph, const optim::Rule& rule, const std::vector<std::string>& parameters,
                     const CompileOptions& options) {
  return guarded([&] { return compile_step(graph.impl()->graph, rule, {parameters, {}}, options); });
}

std::vector<Port> TrainStep::inputs() const { return impl_->inputs; }
std::vector<Port> TrainStep::outputs() const { return impl_->outputs; }
std::vector<Port> TrainStep::state() const { return impl_->states; }

void TrainStep::run(const Bindings& inputs, const Bindings& outputs) {
  Impl& m = *impl_;
  Key key{m.generator.input, &m.key};
  settle(inputs, m.inputs, m.input_types, false, m.in, &key);
  if (key.drawn) m.key = m.generator.next_key();
  for (const Binding& b : outputs)
    if (std::none_of(m.outputs.begin(), m.outputs.end(), [&](const Port& p) { return p.name == b.name; }))
      raise(Code::AG5404, "there is no output `" + b.name + "`", {});
  m.out.resize(m.outputs.size());
  for (std::size_t i = 0; i < m.outputs.size(); ++i) {
    auto given =
        std::find_if(outputs.begin(), outputs.end(), [&](const Binding& b) { return b.name == m.outputs[i].name; });
    if (given != outputs.end()) {
      m.out[i] = host_array(given->view, m.outputs[i], m.output_types[i], true);
      continue;
    }
    const Dims& shape = m.output_types[i].shape;
    const bool fixed = std::all_of(shape.begin(), shape.end(), [](const Dim& d) { return d.is_const(); });
    if (!fixed || !m.unwanted[i].view().data) {
      auto shapes = m.context->output_shapes(m.in);
      if (!shapes) raise(shapes.error());
      if (!m.unwanted[i].view().data || m.unwanted[i].view().shape != (*shapes)[i]) {
        auto array = runtime::OwnedArray::allocate(m.output_types[i].dtype, (*shapes)[i]);
        if (!array) raise(array.error());
        m.unwanted[i] = std::move(*array);
      }
    }
    m.out[i] = m.unwanted[i].view();
  }
  if (Status s = m.context->run(m.in, m.out, *m.state); !s) raise(s.error());
}

Tensors TrainStep::operator()(const Tensors& inputs) {
  Impl& m = *impl_;
  Key key{m.generator.input, &m.key};
  settle(inputs, m.inputs, m.input_types, m.in, key);
  if (key.drawn) m.key = m.generator.next_key();
  auto shapes = m.context->output_shapes(m.in);
  if (!shapes) raise(shapes.error());
  std::vector<lazy::ValueRef> values;
  m.out.clear();
  for (std::size_t i = 0; i < shapes->size(); ++i) {
    auto type = rec::TypeInfo::make(m.output_types[i].dtype, (*shapes)[i]);
    values.push_back(lazy::Value::concrete(type, lazy::Buffer::allocate(type->bytes)));
    m.out.push_back({m.output_types[i].dtype, (*shapes)[i], values.back()->data, type->bytes});
  }
  if (Status s = m.context->run(m.in, m.out, *m.state); !s) raise(s.error());
  Tensors results;
  for (auto& v : values) results.push_back(lazy::make_tensor(std::move(v)));
  return results;
}

double TrainStep::learning_rate() const {
  double lr = 0;
  if (Status s = impl_->state->get(impl_->find("optimizer.lr"), {ag::DType::f64, {}, &lr, sizeof lr}); !s)
    raise(s.error());
  return lr;
}
void TrainStep::set_learning_rate(double lr) {
  const HostArray value{ag::DType::f64, {}, &lr, sizeof lr};
  if (Status s = impl_->state->set(impl_->find("optimizer.lr"), value); !s) raise(s.error());
}
Tensor TrainStep::state(const std::string& name) const { return impl_->copy(impl_->find(name)); }
nn::NamedTensors TrainStep::state_dict() const {
  nn::NamedTensors out;
  for (std::size_t i = 0; i < impl_->state->size(); ++i) out.emplace_back(impl_->state->name(i), impl_->copy(i));
  return out;
}
void TrainStep::load_state_dict(const nn::NamedTensors& values) {
  for (const auto& [name, t] : values) impl_->set(impl_->find(name), t);
}

namespace {
nn::NamedTensors all_of(const nn::Module& module) {
  nn::NamedTensors all = module.named_parameters();
  for (auto& b : module.named_buffers()) all.push_back(b);
  return all;
}
}  // namespace

void TrainStep::store(nn::Module& module) const {
  NoGradGuard guard;
  for (auto& [name, t] : all_of(module))
    if (const auto i = impl_->state->find(name)) t.copy_(impl_->copy(*i));
}
void TrainStep::load(const nn::Module& module) {
  for (const auto& [name, t] : all_of(module))
    if (const auto i = impl_->state->find(name)) impl_->set(*i, t);
}

}  // namespace ag::api
