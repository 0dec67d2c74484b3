// run --train: some steps of training, then the outputs of the last one and the state.
#include <fmt/format.h>

#include "tools/values.hpp"

namespace ag::tools {
namespace {

/// Steps by the reference interpreter: what the compiled program is compared with.
Result<std::vector<Array>> interpret_steps(const Session& s, const Graph& g, const std::vector<Array>& inputs) {
  std::vector<Array> values, all = inputs;
  for (const passes::StateValue& state : s.states) all.push_back(state.initial->materialize());
  for (std::int64_t step = 0; step < s.options.steps; ++step) {
    AG_TRY(values, interpret(g, all));
    for (std::size_t i = 0; i < g.inputs.size(); ++i)
      if (const std::string* next = passes::next_of_state(g, g.inputs[i]))
        for (std::size_t o = 0; o < g.outputs.size(); ++o)
          if (g.outputs[o].name == *next) all[i] = Array::from_bytes(all[i].dtype(), all[i].shape(), values[o].bytes());
  }
  values.resize(g.outputs.size() - s.states.size());  // next values are the last outputs
  values.insert(values.end(), all.begin() + static_cast<std::ptrdiff_t>(inputs.size()), all.end());
  return values;
}

Array array_of(const runtime::HostArray& view) {
  auto bytes = Array::byte_size(view.dtype, view.shape).value_or(0);
  return Array::from_bytes(view.dtype, view.shape, {static_cast<const std::byte*>(view.data), bytes});
}

Result<std::vector<Array>> compiled_steps(Session& s, const runtime::Compiled& compiled,
                                          const std::vector<Array>& inputs) {
  AG_TRY(runtime::ExecOptions options, exec_options(s));
  runtime::ExecContext context(compiled.executable, options);
  AG_TRY(std::unique_ptr<runtime::State> state, begin_state(s, compiled));
  std::vector<runtime::HostArray> views;
  for (const Array& a : inputs) views.push_back(runtime::view_of(a));
  std::vector<Array> values;
  for (std::int64_t step = 0; step < s.options.steps; ++step) {
    AG_TRY(std::vector<runtime::OwnedArray> outputs, context.run_allocating(views, *state));
    values.clear();
    for (const auto& o : outputs) values.push_back(array_of(o.view()));
  }
  for (std::size_t i = 0; i < state->size(); ++i) {
    Array value(state->dtype(i), state->shape(i));
    AG_TRY_(state->get(i, {value.dtype(), value.shape(), value.mutable_bytes().data(), value.bytes_size()}));
    values.push_back(std::move(value));
  }
  return values;
}

}  // namespace

Result<std::unique_ptr<runtime::State>> begin_state(const Session& s, const runtime::Compiled& compiled) {
  AG_TRY(std::unique_ptr<runtime::State> state, runtime::State::create(compiled.executable));
  for (const passes::StateValue& v : s.states) {
    const auto i = state->find(v.name);
    if (!i) return fail(Code::AG9001, {}, "the program lost its state `" + v.name + "`");
    const Array value = v.initial->materialize();
    AG_TRY_(state->set(*i, runtime::view_of(value)));
  }
  return state;
}

int train_command(Session& s) {
  auto g = load_model(s);
  if (!g) return s.failed(g.error());
  auto compiled = compile(s, *g, compile_options(s));
  if (!compiled) return s.failed(compiled.error());
  s.report(compiled->report.warnings);
  say_passes(s, compiled->report.passes, compiled->report.fusion);
  auto inputs = read_inputs(s, compiled->inputs);
  if (!inputs) return s.failed(inputs.error());
  auto values = s.options.interpret ? interpret_steps(s, *g, *inputs) : compiled_steps(s, *compiled, *inputs);
  if (!values) return s.failed(values.error());
  std::vector<runtime::Port> ports = compiled->outputs;
  ports.insert(ports.end(), compiled->states.begin(), compiled->states.end());
  if (auto ok = write_outputs(s, ports, *values); !ok) return s.failed(ok.error());
  print_outputs(s, ports, *values);
  if (!s.options.verify) return exit_ok;
  auto wanted = interpret_steps(s, *g, *inputs);
  if (!wanted) return s.failed(wanted.error());
  int bad = 0;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    std::string text = compare_arrays((*values)[i], (*wanted)[i], tolerance_for(s.options, (*values)[i].dtype()));
    if (text.empty()) continue;
    ++bad;
    fmt::print(stderr, "error[AG5301]: `{}` differs from the interpreter: {}\n", ports[i].name, text);
  }
  if (!bad && !s.options.quiet) fmt::print("verified: {} arrays agree with the interpreter\n", ports.size());
  return bad ? exit_mismatch : exit_ok;
}

}  // namespace ag::tools
