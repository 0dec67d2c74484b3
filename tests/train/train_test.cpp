// Whole training steps: gradients, optimisers, state that is changed in place.
#include <catch2/catch.hpp>

#include <cmath>
#include <filesystem>
#include <map>

#include "frontend/data/arrays.hpp"
#include "frontend/load.hpp"
#include "ir/loop/storage.hpp"
#include "passes/train.hpp"
#include "runtime/engine.hpp"
#include "runtime/exec/state.hpp"

using namespace ag;
using namespace ag::runtime;

namespace {

std::string messages(const Diags& d) {
  std::string out;
  for (const Diag& x : d) out += std::string(code_name(x.code)) + " " + x.message + "\n";
  return out;
}
template <class T>
T must(Result<T> r) {
  if (!r) FAIL(messages(r.error()));
  return std::move(*r);
}
void must(const Status& s) {
  if (!s) FAIL(messages(s.error()));
}
template <class T>
std::string code_of(const Result<T>& r) {
  return r ? "" : std::string(code_name(r.error().front().code));
}

std::shared_ptr<Engine> engine() {
  static const std::shared_ptr<Engine> one = must(Engine::create());
  return one;
}

Array value_of(const State& state, std::size_t i) {
  Array a(state.dtype(i), state.shape(i));
  must(state.get(i, {a.dtype(), a.shape(), a.mutable_bytes().data(), a.bytes_size()}));
  return a;
}

/// A program with its state, and the same as the reference interpreter runs it.
struct Trained {
  Graph graph;
  Compiled compiled;
  std::unique_ptr<State> state;
  std::unique_ptr<ExecContext> context;
  std::vector<Array> reference;  ///< of all inputs of the graph, states included

  Trained(Graph g, const std::vector<passes::StateValue>& initial, int opt_level = 2) : graph(std::move(g)) {
    EngineOptions options;
    options.pipeline.opt_level = opt_level;
    compiled = must(engine()->compile(graph, options));
    state = must(State::create(compiled.executable));
    context = std::make_unique<ExecContext>(compiled.executable, ExecOptions{.threads = 2});
    reference.resize(graph.inputs.size() - initial.size());
    for (const passes::StateValue& v : initial) {
      reference.push_back(v.initial->materialize());
      must(state->set(state->find(v.name).value(), view_of(reference.back())));
    }
  }

  Result<std::vector<OwnedArray>> step(const std::vector<Array>& inputs) {
    std::vector<HostArray> views;
    for (const Array& a : inputs) views.push_back(view_of(a));
    return context->run_allocating(views, *state);
  }

  std::vector<Array> interpreted_step(const std::vector<Array>& inputs) {
    std::copy(inputs.begin(), inputs.end(), reference.begin());
    const std::vector<Array> before = reference;
    std::vector<Array> values = must(interpret(graph, before));
    for (std::size_t i = 0; i < graph.inputs.size(); ++i)
      if (const std::string* next = passes::next_of_state(graph, graph.inputs[i]))
        for (std::size_t o = 0; o < values.size(); ++o)
          if (graph.outputs[o].name == *next)
            reference[i] = Array::from_bytes(before[i].dtype(), before[i].shape(), values[o].bytes());
    return values;
  }

  Array value(std::string_view name) const { return value_of(*state, state->find(name).value()); }

  /// Kernels that only copy a state.
  std::size_t copies() const {
    const loop::Program& p = compiled.executable->program();
    std::size_t n = 0;
    loop::for_each_step(p.body, [&](const loop::Step& step) {
      const auto* call = std::get_if<loop::KernelCall>(&step.value);
      if (!call || call->label != "copy") return;
      for (loop::ProgramBufferId b : call->buffers) n += p.buffers[b].kind == loop::BufferKind::state;
    });
    return n;
  }
};

double largest_difference(const Array& a, const Array& b) {
  REQUIRE(a.shape() == b.shape());
  double worst = 0;
  for (std::int64_t i = 0; i < a.elems(); ++i) worst = std::max(worst, std::abs(a.get_double(i) - b.get_double(i)));
  return worst;
}

const char* const net = R"({ "ag": 1,
  "inputs": [ { "name": "x", "type": "f32[6,5]" }, { "name": "y", "type": "i64[6]" } ],
  "initializers": [
    { "name": "w1", "type": "f32[5,7]", "random": "normal", "key": 1, "trainable": true },
    { "name": "b1", "type": "f32[7]", "random": "normal", "key": 2, "trainable": true },
    { "name": "w2", "type": "f32[7,3]", "random": "normal", "key": 3, "trainable": true },
    { "name": "scale", "type": "f32[]", "fill": 1.5, "trainable": true } ],
  "nodes": [
    { "op": "Gemm", "in": ["x", "w1", "b1"], "out": "h" },
    { "op": "Tanh", "in": ["h"], "out": "t" },
    { "op": "MatMul", "in": ["t", "w2"], "out": "z" },
    { "op": "Mul", "in": ["z", "scale"], "out": "s" },
    { "op": "SoftmaxCrossEntropyLoss", "in": ["s", "y"], "out": "loss" } ],
  "outputs": ["loss", "z"], "grad": { "of": "loss", "wrt": ["w1"] } })";

Graph graph_of(const std::string& text) {
  Sources sources;
  return must(load_text(text, "net.json", "", sources));
}

passes::TrainStep train(Graph g, const char* optimiser) {
  passes::PassContext context;
  return must(passes::train_step(std::move(g), must(passes::parse_optimiser(optimiser)), context));
}

std::vector<Array> net_inputs() {
  Array x(DType::f32, {6, 5}), y(DType::i64, {6});
  for (std::int64_t i = 0; i < 30; ++i) x.set_double(i, std::sin(static_cast<double>(i)));
  for (std::int64_t i = 0; i < 6; ++i) y.set_int(i, i % 3);
  return {x, y};
}

}  // namespace

TEST_CASE("optimisers are spelled as torch's, with torch's defaults") {
  using Kind = passes::Optimiser::Kind;
  auto o = must(passes::parse_optimiser("optimizer=adamw,lr=0.5"));
  CHECK(o.kind == Kind::adamw);
  CHECK(o.lr == 0.5);
  CHECK(o.weight_decay == 1e-2);
  CHECK(must(passes::parse_optimiser("adam")).weight_decay == 0);
  CHECK(must(passes::parse_optimiser("adam,beta1=0.8,beta2=0.9,eps=0")).beta2 == 0.9);
  CHECK(must(passes::parse_optimiser("sgd,momentum=0.9,nesterov=true")).nesterov);
  for (const char* wrong :
       {"", "adamx", "sgd,momentum", "sgd,beta1=0.9", "adam,lr=-1", "adam,lr=1x", "adam,nesterov=true",
        "sgd,nesterov=true", "sgd,lr=nan", "sgd,momentum=0.9,dampening=0.1,nesterov=true"}) {
    CAPTURE(wrong);
    CHECK(code_of(passes::parse_optimiser(wrong)) == "AG0402");
  }
}

TEST_CASE("steps agree with the interpreter, and update state in place") {
  for (const char* optimiser :
       {"sgd,lr=0.1", "sgd,lr=0.1,momentum=0.9", "sgd,lr=0.1,momentum=0.9,dampening=0.3,weight_decay=0.1",
        "sgd,lr=0.1,momentum=0.9,nesterov=true", "adam,lr=0.1,weight_decay=0.1", "adamw,lr=0.1"})
    for (int level : {0, 2}) {
      CAPTURE(optimiser, level);
      passes::TrainStep made = train(graph_of(net), optimiser);
      REQUIRE(verify(made.graph));
      Trained t(std::move(made.graph), made.states, level);
      CHECK(t.compiled.inputs.size() == 2);
      CHECK(t.compiled.outputs.size() == 2);  // the loss and z: no gradient, no next value
      CHECK(t.compiled.states.size() == made.states.size());
      if (level == 2) CHECK(t.copies() == 0);
      double first = 0, last = 0;
      for (int i = 0; i < 4; ++i) {
        auto got = must(t.step(net_inputs()));
        std::vector<Array> wanted = t.interpreted_step(net_inputs());
        last = *got[0].data<float>();
        if (i == 0) first = last;
        CHECK(last == Approx(wanted[0].get_double(0)).epsilon(1e-5));
      }
      CHECK(last < first);
      for (std::size_t i = 0; i < made.states.size(); ++i) {
        CAPTURE(made.states[i].name);
        CHECK(largest_difference(t.value(made.states[i].name), t.reference[2 + i]) < 2e-5);
      }
      CHECK(largest_difference(t.value("w1"), made.states[0].initial->materialize()) > 1e-3);
    }
}

TEST_CASE("one kernel updates all parameters, which lie side by side") {
  for (const char* optimiser : {"sgd,lr=0.1", "sgd,lr=0.1,momentum=0.9", "adam,lr=0.1", "adamw,lr=0.1"}) {
    CAPTURE(optimiser);
    passes::TrainStep made = train(graph_of(net), optimiser);
    Trained t(std::move(made.graph), made.states);
    const loop::Program& p = t.compiled.executable->program();
    const loop::Storage storage = must(loop::resolve_storage(p));
    std::size_t vectors = 0, scalars = 0;
    loop::for_each_step(p.body, [&](const loop::Step& step) {
      const auto* call = std::get_if<loop::KernelCall>(&step.value);
      if (!call) return;
      for (std::size_t i = 0; i < call->buffers.size(); ++i) {
        const loop::ProgramBuffer& b = p.buffers[call->buffers[i]];
        if (b.kind != loop::BufferKind::state || p.kernels[call->kernel].buffers[i].access == loop::Access::read)
          continue;
        if (b.dtype == DType::f32) ++(product(b.shape).is(1) ? scalars : vectors);
      }
    });
    // w1, b1 and w2 are 35, 7 and 21 elements; `scale` is one.
    const std::size_t arrays = std::string(optimiser) == "sgd,lr=0.1" ? 1 : std::string(optimiser)[0] == 's' ? 2 : 3;
    CHECK(vectors == arrays);
    CHECK(scalars == arrays);
    std::size_t homes = 0;
    for (loop::ProgramBufferId id : loop::state_homes(p)) homes += product(p.buffers[id].shape).is(63);
    CHECK(homes == arrays);
    // Setting one leaves its neighbours alone.
    const Array w1 = t.value("w1"), w2 = t.value("w2");
    Array b1(DType::f32, {7});
    for (std::int64_t i = 0; i < 7; ++i) b1.set_double(i, 100 + static_cast<double>(i));
    must(t.state->set(t.state->find("b1").value(), view_of(b1)));
    CHECK(largest_difference(t.value("b1"), b1) == 0);
    CHECK(largest_difference(t.value("w1"), w1) == 0);
    CHECK(largest_difference(t.value("w2"), w2) == 0);
    CHECK(print(must(loop::parse_program(print(p)))) == print(p));
  }
}

TEST_CASE("a gradient that is an output, or that two parameters share, is in its place all the same") {
  const char* shared = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[4,8]" } ],
    "initializers": [ { "name": "a", "type": "f32[8]", "fill": 1.0, "trainable": true },
                      { "name": "b", "type": "f32[8]", "fill": 2.0, "trainable": true },
                      { "name": "c", "type": "f32[8,8]", "random": "normal", "trainable": true } ],
    "nodes": [ { "op": "Add", "in": ["x", "a"], "out": "s" }, { "op": "Add", "in": ["s", "b"], "out": "t" },
               { "op": "MatMul", "in": ["t", "c"], "out": "u" }, { "op": "Tanh", "in": ["u"], "out": "v" },
               { "op": "ReduceMean", "in": ["v"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss"] })";
  for (const char* optimiser : {"sgd,lr=0.1", "adamw,lr=0.1"}) {
    passes::TrainStep made = train(graph_of(shared), optimiser);
    Trained t(std::move(made.graph), made.states);
    Array x(DType::f32, {4, 8});
    for (std::int64_t i = 0; i < 32; ++i) x.set_double(i, std::sin(static_cast<double>(i)));
    for (int i = 0; i < 3; ++i) {
      must(t.step({x}));
      t.interpreted_step({x});
    }
    for (std::size_t i = 0; i < made.states.size(); ++i) {
      CAPTURE(optimiser, made.states[i].name);
      CHECK(largest_difference(t.value(made.states[i].name), t.reference[1 + i]) < 2e-5);
    }
  }
}

TEST_CASE("the learning rate may change between steps") {
  passes::TrainStep made = train(graph_of(net), "sgd,lr=0.1");
  Trained t(std::move(made.graph), made.states);
  const Array zero = Array::scalar(DType::f64, 0), before = t.value("w2");
  must(t.state->set(t.state->find("optimizer.lr").value(), view_of(zero)));
  must(t.step(net_inputs()));
  CHECK(largest_difference(t.value("w2"), before) == 0);
  CHECK(code_of(t.state->set(0, view_of(zero))) == "AG5002");
  CHECK(code_of(t.state->set(0, view_of(Array(DType::f32, {5, 8})))) == "AG5004");
}

TEST_CASE("old values that are wanted after the step are saved") {
  // a and b change places; c becomes c + a, its old value is an output; d stays.
  const char* text = R"(ag.ir 1 stage=autodiff opset=21
graph {
  %0: f32[3] = input {state = "a2"}  "a"
  %1: f32[3] = input {state = "b2"}  "b"
  %2: f32[3] = input {state = "c2"}  "c"
  %3: f32[3] = input {state = "d2"}  "d"
  %4: f32[3] = input  "x"
  %5: f32[3] = add %2, %0
  %6: f32[3] = mul %3, %4
  return "y" %6, "old" %2, "a2" %1, "b2" %0, "c2" %5, "d2" %3
}
)";
  Graph g = must(parse_graph(text));
  CHECK(print(g) == text);
  std::vector<passes::StateValue> states;
  for (const char* name : {"a", "b", "c", "d"})
    states.push_back({name, make_splat(DType::f32, {3}, 1 + static_cast<double>(states.size()))});
  for (int level : {0, 2}) {
    CAPTURE(level);
    EngineOptions options;
    options.pipeline.opt_level = level;
    Compiled compiled = must(engine()->compile(g, options));
    auto state = must(State::create(compiled.executable));
    for (const auto& v : states) must(state->set(state->find(v.name).value(), view_of(v.initial->materialize())));
    ExecContext context(compiled.executable);
    Array x(DType::f32, {3});
    for (std::int64_t i = 0; i < 3; ++i) x.set_double(i, 10);
    auto got = must(context.run_allocating(std::vector<HostArray>{view_of(x)}, *state));
    CHECK(got[0].data<float>()[1] == 40);
    CHECK(got[1].data<float>()[1] == 3);
    const float wanted[] = {2, 1, 4, 4};
    for (std::size_t i = 0; i < 4; ++i) CHECK(value_of(*state, i).get_double(2) == wanted[i]);
  }
}

TEST_CASE("a step that fails leaves its state spoilt until all of it is set") {
  const char* lookup = R"({ "ag": 1, "inputs": [ { "name": "i", "type": "i64[2]" } ],
    "initializers": [ { "name": "table", "type": "f32[4,3]", "fill": 1.0, "trainable": true } ],
    "nodes": [ { "op": "Gather", "in": ["table", "i"], "out": "rows" },
               { "op": "ReduceMean", "in": ["rows"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss"] })";
  passes::TrainStep made = train(graph_of(lookup), "sgd");
  Trained t(std::move(made.graph), made.states);
  auto indices = [](std::int64_t a, std::int64_t b) { return Array::ints(std::vector<std::int64_t>{a, b}); };
  const std::vector<Array> good{indices(1, 3)}, bad{indices(1, 4)};
  must(t.step(good));
  CHECK(code_of(t.step(bad)) == "AG5012");
  CHECK(t.state->spoilt());
  CHECK(code_of(t.step(good)) == "AG5402");
  CHECK(code_of(t.step({})) == "AG5001");
  const Array table = made.states[0].initial->materialize(), rate = made.states[1].initial->materialize();
  must(t.state->set(0, view_of(table)));
  CHECK(t.state->spoilt());
  must(t.state->set(1, view_of(rate)));
  CHECK_FALSE(t.state->spoilt());
  must(t.step(good));
  // What is found wrong before the step begins spoils nothing.
  CHECK(code_of(t.step({})) == "AG5001");
  CHECK_FALSE(t.state->spoilt());
}

TEST_CASE("random ops draw new numbers in every step") {
  const char* drop = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[64]" } ],
    "initializers": [ { "name": "w", "type": "f32[64]", "fill": 1.0, "trainable": true } ],
    "nodes": [ { "op": "Mul", "in": ["x", "w"], "out": "h" },
               { "op": "Dropout", "in": ["h", 0.5, true], "out": "d" },
               { "op": "ReduceMean", "in": ["d"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss", "d"] })";
  passes::TrainStep made = train(graph_of(drop), "sgd,lr=0");
  Trained t(std::move(made.graph), made.states);
  REQUIRE(t.state->find("optimizer.step"));
  Array x(DType::f32, {64});
  for (std::int64_t i = 0; i < 64; ++i) x.set_double(i, 1);
  std::vector<std::string> masks;
  for (int i = 0; i < 3; ++i) {
    auto got = must(t.step({x}));
    const std::vector<Array> wanted = t.interpreted_step({x});
    masks.emplace_back();
    for (std::int64_t k = 0; k < 64; ++k) {
      CHECK(got[1].data<float>()[k] == wanted[1].get_double(k));
      masks.back() += got[1].data<float>()[k] == 0 ? '0' : '1';
    }
  }
  CHECK(masks[0] != masks[1]);
  CHECK(masks[1] != masks[2]);
}

TEST_CASE("running statistics are state") {
  const char* norm = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[4,2,3]" } ],
    "initializers": [ { "name": "s", "type": "f32[2]", "fill": 1.0, "trainable": true },
      { "name": "b", "type": "f32[2]", "fill": 0.0, "trainable": true },
      { "name": "m", "type": "f32[2]", "fill": 0.0 }, { "name": "v", "type": "f32[2]", "fill": 1.0 } ],
    "nodes": [ { "op": "BatchNormalization", "in": ["x", "s", "b", "m", "v"], "out": ["y", "m2", "v2"],
                 "attrs": { "training_mode": 1 } },
               { "op": "Mul", "in": ["y", "y"], "out": "q" },
               { "op": "ReduceMean", "in": ["q"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss"] })";
  passes::TrainStep made = train(graph_of(norm), "sgd");
  Trained t(std::move(made.graph), made.states);
  Array x(DType::f32, {4, 2, 3});
  for (std::int64_t i = 0; i < 24; ++i) x.set_double(i, static_cast<double>(i % 5));
  for (int i = 0; i < 3; ++i) {
    must(t.step({x}));
    t.interpreted_step({x});
  }
  CHECK(largest_difference(t.value("m"), t.reference[3]) < 1e-6);
  CHECK(t.value("m").get_double(0) > 0.1);
  CHECK(largest_difference(t.value("v"), t.reference[4]) < 1e-6);
}

TEST_CASE("filters lie as their gradients do; their owner does not see it") {
  const char* net = R"({ "ag": 1, "inputs": [ { "name": "x", "type": "f32[2,16,6,6]" } ],
    "initializers": [ { "name": "w", "type": "f32[32,16,3,3]", "random": "normal", "scale": 0.1, "trainable": true },
                      { "name": "u", "type": "f32[8,32,1,1]", "random": "normal", "key": 1, "trainable": true } ],
    "nodes": [ { "op": "Conv", "in": ["x", "w"], "out": "y",
                 "attrs": { "kernel_shape": [3, 3], "pads": [1, 1, 1, 1] } },
               { "op": "Tanh", "in": ["y"], "out": "t" },
               { "op": "Conv", "in": ["t", "u"], "out": "z", "attrs": { "kernel_shape": [1, 1] } },
               { "op": "Mul", "in": ["z", "z"], "out": "q" },
               { "op": "ReduceMean", "in": ["q"], "out": "loss", "attrs": { "keepdims": 0 } } ],
    "outputs": ["loss"] })";
  for (const char* optimiser : {"sgd,lr=0.1,momentum=0.9", "adamw,lr=0.01,eps=1e-3"}) {
    passes::TrainStep made = train(graph_of(net), optimiser);
    Trained t(std::move(made.graph), made.states);
    Array x(DType::f32, {2, 16, 6, 6});
    for (std::int64_t i = 0; i < x.elems(); ++i) x.set_double(i, std::sin(static_cast<double>(i)));
    CHECK(largest_difference(t.value("w"), made.states[0].initial->materialize()) == 0);
    for (int i = 0; i < 3; ++i) {
      must(t.step({x}));
      t.interpreted_step({x});
    }
    for (std::size_t i = 0; i < made.states.size(); ++i) {
      CAPTURE(optimiser, made.states[i].name);
      CHECK(largest_difference(t.value(made.states[i].name), t.reference[1 + i]) < 2e-5);
    }
    CHECK(t.copies() == 0);
    std::size_t permuted = 0;
    for (const auto& b : t.compiled.executable->program().buffers) permuted += !b.axes.empty();
    CHECK(permuted >= 2);
  }
}

TEST_CASE("a graph without a loss or parameters is no training step") {
  passes::PassContext context;
  const passes::Optimiser sgd;
  Graph none =
      must(parse_graph("ag.ir 1 stage=import opset=21\ngraph {\n  %0: f32[] = input  \"x\"\n  return %0\n}\n"));
  CHECK(code_of(passes::train_step(none, sgd, context)) == "AG5303");
  none.outputs.clear();
  CHECK(code_of(passes::train_step(none, sgd, context)) == "AG5303");
}

TEST_CASE("every training program of the benchmarks compiles, and its loss falls") {
  const std::map<std::string, const char*> optimisers{
      {"mlp", "adam,lr=1e-3"}, {"gpt", "adamw,lr=1e-3"}, {"resnet18", "sgd,lr=1e-2,momentum=0.9"}};
  std::size_t found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(AG_SOURCE_DIR "/examples/bench")) {
    if (entry.path().extension() != ".json") continue;
    ++found;
    const std::string name = entry.path().stem().string();
    CAPTURE(name);
    Sources sources;
    Graph g = must(load(entry.path().string(), sources, {}));
    auto o = optimisers.find(name);
    passes::TrainStep made = train(std::move(g), o == optimisers.end() ? "sgd,lr=1e-2" : o->second);
    Trained t(std::move(made.graph), made.states);
    CHECK(t.copies() == 0);
    const std::string file = std::filesystem::path(entry.path()).replace_extension(".npz").string();
    const data::Bytes bytes = must(data::read_file(file, 1 << 20));
    const auto arrays = must(data::parse_npz({bytes.data(), bytes.size()}, file, nullptr, {}));
    std::vector<Array> inputs;
    for (const Port& p : t.compiled.inputs)
      for (const auto& [key, array] : arrays)
        if (key == p.name) inputs.push_back(array);
    double first = 0, last = 0;
    for (int i = 0; i < 4; ++i) {
      last = *must(t.step(inputs))[0].data<float>();
      if (i == 0) first = last;
    }
    CHECK(std::isfinite(last));
    CHECK(last < first);
  }
  CHECK(found >= 4);
}
