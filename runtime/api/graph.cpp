// Traced and loaded graphs, and what is compiled from them.
#include <algorithm>
#include <mutex>

#include "frontend/load.hpp"
#include "passes/attention.hpp"
#include "passes/pass.hpp"
#include "runtime/api/graph_impl.hpp"
#include "runtime/api/tensor_impl.hpp"
#include "runtime/api/trace_frame.hpp"

namespace ag::api {

using lazy::raise;
using runtime::HostArray;

Port port_of(const std::string& name, const Type& t) {
  Port p{name, lazy::pub(t.dtype), {}};
  for (const Dim& d : t.shape) p.sizes.push_back(d.str());
  return p;
}

std::string Port::str() const {
  std::string text = name + ": " + dtype_name(dtype) + "[";
  for (std::size_t i = 0; i < sizes.size(); ++i) text += (i ? "," : "") + sizes[i];
  return text + "]";
}

const std::string& Graph::name() const { return impl_->graph.name; }
std::vector<Port> Graph::inputs() const {
  std::vector<Port> out;
  for (ag::ValueId v : impl_->graph.inputs) out.push_back(port_of(impl_->graph.value(v).name, impl_->graph.type(v)));
  return out;
}
std::vector<Port> Graph::outputs() const {
  std::vector<Port> out;
  for (const ag::Output& o : impl_->graph.outputs) out.push_back(port_of(o.name, impl_->graph.type(o.value)));
  for (const ag::GradRequest& r : impl_->graph.grads)
    for (const std::string& w : r.wrt) {
      const ag::ValueId v = impl_->graph.find(w);
      std::string name = w + "_grad";
      for (const auto& [from, to] : r.names)
        if (from == w) name = to;
      if (v) out.push_back(port_of(name, impl_->graph.type(v)));
    }
  return out;
}
std::string Graph::str() const { return ag::print(impl_->graph); }

namespace detail {

Graph trace(std::string name, std::vector<Argument> args, const std::function<Named(const Tensors&)>& f,
            const Place& place) {
  return guarded([&] {
    lazy::Session& s = lazy::Session::current();
    lazy::TraceFrame frame(s, std::move(name), lazy::TraceFrame::Capture::none);
    Tensors in;
    for (const Argument& a : args) {
      Type t{lazy::ir(a.dtype), {}};
      for (const Size& d : a.sizes) t.shape.push_back(d.is_symbol() ? Dim::symbol(d.symbol()) : Dim(d.number()));
      if (frame.graph().find(a.name)) raise(Code::AG5404, "two arguments are named `" + a.name + "`", place);
      in.push_back(lazy::make_tensor(frame.input(a.name, std::move(t), lazy::loc_of(place))));
    }
    for (auto& [out, t] : f(in)) {
      lazy::Value& v = lazy::value_of(t, "the result of ag::trace", place);
      frame.output(out, v, place);
    }
    ag::Graph& g = frame.finish();
    for (ag::Output& o : g.outputs)
      if (g.value(o.value).name.empty() && !g.find(o.name)) g.set_name(o.value, o.name);
    auto impl = std::make_shared<Graph::Impl>();
    impl->graph = std::move(g);
    return Graph(std::move(impl));
  });
}

}  // namespace detail

Graph load(const std::string& path) {
  return guarded([&] {
    Sources sources;
    auto g = ag::load(path, sources);
    if (!g) {
      const Diags& diags = g.error();
      const Diag& d = diags.front();
      throw Error(code_name(d.code), d.message, d.spans.empty() ? "" : d.spans[0].loc.str(),
                  ag::render(diags, sources));
    }
    auto impl = std::make_shared<Graph::Impl>();
    impl->graph = std::move(*g);
    return Graph(std::move(impl));
  });
}
Result<Graph> try_load(const std::string& path) {
  try {
    return load(path);
  } catch (const Error& e) {
    return std::unexpected(e);
  }
}

namespace {
Graph with_gradients(const Graph& g, const GradOptions& o, bool values) {
  auto impl = std::make_shared<Graph::Impl>(*g.impl());
  ag::Graph& to = impl->graph;
  ag::GradRequest r;
  if (to.outputs.empty()) raise(Code::AG3021, "the graph has no output to differentiate", {});
  r.of = o.of.empty() ? to.outputs[0].name : o.of;
  r.wrt = o.wrt;
  r.seed = o.seed;
  if (r.wrt.empty())
    for (ag::ValueId v : to.inputs)
      if (is_float(to.type(v).dtype)) r.wrt.push_back(to.value(v).name);
  to.grads.push_back(std::move(r));
  const std::size_t before = to.outputs.size();
  return guarded([&] {
    passes::PassContext context;
    auto found = passes::attention.on_graph(to, context);  // a backward pass would not be recognised
    if (!found) raise(found.error());
    auto done = passes::autodiff.on_graph(*found, context);
    if (!done) raise(done.error());
    for (const Diag& d : context.diagnostics) lazy::warn(d.message);
    impl->graph = std::move(*done);
    auto& outputs = impl->graph.outputs;
    if (!values) outputs.erase(outputs.begin(), outputs.begin() + static_cast<std::ptrdiff_t>(before));
    return Graph(impl);
  });
}
}  // namespace
Graph value_and_grad(const Graph& g, const GradOptions& options) { return with_gradients(g, options, true); }
Graph grad(const Graph& g, const GradOptions& options) { return with_gradients(g, options, false); }

// ---- Executables ----------------------------------------------------------------------------------------------------

struct Executable::Impl {
  std::vector<Port> inputs, outputs;
  std::vector<Type> input_types, output_types;
  std::shared_ptr<const runtime::Executable> executable;
  runtime::ExecOptions options;
  Generator generator;
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<runtime::ExecContext>> free;  ///< contexts that nobody uses

  std::unique_ptr<runtime::ExecContext> take() const {
    {
      std::lock_guard lock(mutex);
      if (!free.empty()) {
        auto c = std::move(free.back());
        free.pop_back();
        return c;
      }
    }
    return std::make_unique<runtime::ExecContext>(executable, options);
  }
  void give(std::unique_ptr<runtime::ExecContext> c) const {
    std::lock_guard lock(mutex);
    free.push_back(std::move(c));
  }
};

Generator Generator::of(const ag::Graph& g, const std::vector<Port>& inputs) {
  Generator out;
  for (const auto& [key, text] : g.extras) {
    if (key == "x-draws") out.draws = std::strtoull(text.c_str(), nullptr, 10);
    if (key != "x-generator") continue;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if ('"' + inputs[i].name + '"' == text) out.input = i;
  }
  return out;
}

Executable compile(const Graph& g, const CompileOptions& o) {
  return guarded([&] {
    runtime::EngineOptions options = lazy::engine_options();
    options.target = o.target == "cpu" ? "cpu:native" : o.target;
    options.pipeline.opt_level = o.opt_level;
    options.memory_limit = o.memory_limit;
    ag::Graph graph = g.impl()->graph;
    auto compiled = lazy::engine().compile(std::move(graph), options);
    if (!compiled) raise(compiled.error());
    auto impl = std::make_shared<Executable::Impl>();
    for (const auto& p : compiled->inputs) {
      impl->inputs.push_back(port_of(p.name, p.type));
      impl->input_types.push_back(p.type);
    }
    const auto names = g.outputs();
    for (std::size_t i = 0; i < compiled->outputs.size(); ++i) {
      Port p = port_of(compiled->outputs[i].name, compiled->outputs[i].type);
      if (i < names.size()) p.name = names[i].name;
      impl->outputs.push_back(std::move(p));
      impl->output_types.push_back(compiled->outputs[i].type);
    }
    impl->generator = Generator::of(g.impl()->graph, impl->inputs);
    impl->executable = compiled->executable;
    impl->options = lazy::exec_options();
    if (o.threads > 0) {
      impl->options.threads = runtime::useful_threads(o.threads);
      const int workers = impl->options.threads - 1;
      impl->options.pool = workers > 0 ? std::make_shared<runtime::ThreadPool>(workers) : nullptr;
    }
    impl->options.memory_limit = o.memory_limit;
    return Executable(std::move(impl));
  });
}
Result<Executable> try_compile(const Graph& g, const CompileOptions& options) {
  try {
    return compile(g, options);
  } catch (const Error& e) {
    return std::unexpected(e);
  }
}

std::vector<Port> Executable::inputs() const { return impl_->inputs; }
std::vector<Port> Executable::outputs() const { return impl_->outputs; }

View::View(const Tensor& t) : data(nullptr), dtype(t.dtype()), count(0), shape(t.sizes()), shaped(true) {
  t.eval();
  data = t.impl()->value->data;
  count = static_cast<std::size_t>(t.numel());
}

HostArray host_array(const View& v, const Port& port, const Type& type, bool output) {
  if (output && !v.writable) raise(Code::AG5404, "output `" + port.name + "` is bound to constant memory", {});
  HostArray a{lazy::ir(v.dtype), v.shape, v.data, v.count * dtype_bytes(lazy::ir(v.dtype))};
  if (v.shaped) return a;
  std::int64_t known = 1;
  int open = 0;
  for (const Dim& d : type.shape) {
    if (d.is_const())
      known *= d.value();
    else
      ++open;
  }
  if (open > 1)
    raise(Code::AG5404, "`" + port.str() + "` has several sizes that are not fixed: bind it with its shape", {});
  for (const Dim& d : type.shape)
    a.shape.push_back(d.is_const() ? d.value() : known ? static_cast<std::int64_t>(v.count) / known : 0);
  std::int64_t elems = 1;
  for (std::int64_t d : a.shape) elems *= d;
  if (elems != static_cast<std::int64_t>(v.count))
    raise(Code::AG5404, std::to_string(v.count) + " values are bound to `" + port.str() + "`", {});
  return a;
}

void settle(const Bindings& given, const std::vector<Port>& ports, const std::vector<Type>& types, bool output,
            std::vector<HostArray>& arrays, Key* key) {
  const char* what = output ? "output" : "input";
  for (const Binding& b : given)
    if (std::none_of(ports.begin(), ports.end(), [&](const Port& p) { return p.name == b.name; }))
      raise(Code::AG5404, std::string("there is no ") + what + " `" + b.name + "`", {});
  arrays.clear();
  for (std::size_t i = 0; i < ports.size(); ++i) {
    auto it = std::find_if(given.begin(), given.end(), [&](const Binding& b) { return b.name == ports[i].name; });
    if (it == given.end() && key && key->input == i) {
      key->drawn = true;
      arrays.push_back(key->array());
      continue;
    }
    if (it == given.end()) raise(Code::AG5404, std::string(what) + " `" + ports[i].str() + "` is not bound", {});
    arrays.push_back(host_array(it->view, ports[i], types[i], output));
  }
}

void settle(const Tensors& given, const std::vector<Port>& ports, const std::vector<Type>& types,
            std::vector<HostArray>& arrays, Key& key) {
  const std::size_t needed = ports.size() - (key.input ? 1 : 0);
  key.drawn = key.input && given.size() == needed;
  if (given.size() != needed && given.size() != ports.size())
    raise(Code::AG5404, std::to_string(given.size()) + " inputs are given, " + std::to_string(needed) + " are needed",
          {});
  arrays.clear();
  for (std::size_t i = 0, next = 0; i < ports.size(); ++i)
    arrays.push_back(key.drawn && i == *key.input ? key.array()
                                                  : host_array(View(given[next++]), ports[i], types[i], false));
}

void Executable::run(const Bindings& inputs, const Bindings& outputs) const {
  std::vector<HostArray> in, out;
  std::uint64_t memory = 0;
  Key key{impl_->generator.input, &memory};
  settle(inputs, impl_->inputs, impl_->input_types, false, in, &key);
  settle(outputs, impl_->outputs, impl_->output_types, true, out);
  if (key.drawn) memory = impl_->generator.next_key();
  auto context = impl_->take();
  const Status s = context->run(in, out);
  impl_->give(std::move(context));
  if (!s) raise(s.error());
}

struct BoundCall::Impl {
  std::shared_ptr<const Executable::Impl> executable;
  std::unique_ptr<runtime::ExecContext> context;
  std::vector<HostArray> inputs, outputs;
  bool draws = false;  ///< each call takes a key from the generator
  std::uint64_t key = 0;
};
BoundCall::BoundCall(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BoundCall::~BoundCall() {
  if (impl_) impl_->executable->give(std::move(impl_->context));
}
BoundCall::BoundCall(BoundCall&&) noexcept = default;
BoundCall& BoundCall::operator=(BoundCall&& o) noexcept {
  std::swap(impl_, o.impl_);
  return *this;
}
void BoundCall::operator()() {
  if (impl_->draws) impl_->key = impl_->executable->generator.next_key();
  if (Status s = impl_->context->run(impl_->inputs, impl_->outputs); !s) [[unlikely]]
    raise(s.error());
}

BoundCall Executable::bind(const Bindings& inputs, const Bindings& outputs) const {
  auto call = std::make_unique<BoundCall::Impl>();
  Key key{impl_->generator.input, &call->key};
  settle(inputs, impl_->inputs, impl_->input_types, false, call->inputs, &key);
  call->draws = key.drawn;
  settle(outputs, impl_->outputs, impl_->output_types, true, call->outputs);
  call->executable = impl_;
  call->context = impl_->take();
  return BoundCall(std::move(call));
}

Tensors Executable::operator()(const Tensors& inputs) const {
  std::uint64_t memory = 0;
  Key key{impl_->generator.input, &memory};
  std::vector<HostArray> in, out;
  settle(inputs, impl_->inputs, impl_->input_types, in, key);
  if (key.drawn) memory = impl_->generator.next_key();
  auto context = impl_->take();
  auto shapes = context->output_shapes(in);
  if (!shapes) raise(shapes.error());
  std::vector<lazy::ValueRef> values;
  for (std::size_t i = 0; i < shapes->size(); ++i) {
    const ag::DType t = impl_->output_types[i].dtype;
    auto type = rec::TypeInfo::make(t, (*shapes)[i]);
    values.push_back(lazy::Value::concrete(type, lazy::Buffer::allocate(type->bytes)));
    out.push_back({t, (*shapes)[i], values.back()->data, type->bytes});
  }
  const Status s = context->run(in, out);
  impl_->give(std::move(context));
  if (!s) raise(s.error());
  Tensors results;
  for (auto& v : values) results.push_back(lazy::make_tensor(std::move(v)));
  return results;
}

}  // namespace ag::api
