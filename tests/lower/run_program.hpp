// Runs a Program with the loop interpreter: no LLVM, any stage of lowering.
#pragma once
#include <cstring>
#include <map>
#include <optional>

#include "ir/graph.hpp"
#include "ir/loop/interp.hpp"
#include "ir/loop/program.hpp"

namespace ag::test {

/// Buffers get their memory when their sizes are known: at once, or by a bind step.
struct ProgramRun {
  const loop::Program& p;
  const std::vector<Array>& inputs;
  DimEnv env;
  std::vector<std::optional<Array>> buffers;

  ProgramRun(const loop::Program& program, const std::vector<Array>& in)
      : p(program), inputs(in), buffers(program.buffers.size()) {
    for (const loop::DimSource& s : p.dim_sources) env[s.symbol] = inputs[s.input].shape()[s.axis];
    allocate();
  }

  void allocate() {
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const loop::ProgramBuffer& b = p.buffers[loop::ProgramBufferId(i)];
      if (buffers[i]) continue;
      std::vector<std::int64_t> shape;
      for (const Dim& d : b.shape)
        if (auto size = d.eval(env)) shape.push_back(*size);
      if (shape.size() != b.shape.size()) continue;
      Array a(b.dtype, shape);
      if (b.kind == loop::BufferKind::input) a = inputs[b.index];
      if (b.kind == loop::BufferKind::constant) std::memcpy(a.mutable_bytes().data(), b.constant.get(), a.bytes_size());
      if (b.kind == loop::BufferKind::temp || b.kind == loop::BufferKind::output)
        for (std::byte& x : a.mutable_bytes()) x = std::byte{0xCB};  // what nobody wrote shows
      buffers[i] = std::move(a);
    }
  }

  void bind(const loop::BindStep& step) {
    const auto& symbols = p.segments[step.segment].symbols;
    for (std::size_t i = 0; i < symbols.size(); ++i)
      env[symbols[i]] = buffers[step.values.index]->get_int(static_cast<std::int64_t>(i));
    allocate();
  }

  Status call(const loop::KernelCall& call, bool races) {
    std::vector<loop::BufferView> views;
    for (loop::ProgramBufferId id : call.buffers) {
      Array& a = buffers[id.index].value();
      views.push_back({a.mutable_bytes().data(), a.elems()});
    }
    std::vector<std::int64_t> dims;
    for (const Dim& d : call.dims) dims.push_back(d.eval(env).value());
    loop::InterpOptions options;
    options.detect_races = races;
    AG_TRY(loop::TrapRecord trap, loop::interpret(p.kernels[call.kernel], views, dims, options));
    if (trap.kind) return fail(Code::AG5201, {}, "trap " + std::to_string(trap.kind));
    return {};
  }
};

inline Result<std::vector<Array>> run_program(const loop::Program& p, const std::vector<Array>& inputs,
                                              bool races = true, std::span<const GraphPtr> hosts = {}) {
  ProgramRun run(p, inputs);
  for (const loop::Step& step : p.body.steps) {
    if (const auto* host = std::get_if<loop::HostCall>(&step.value)) {
      std::vector<Array> in;
      for (loop::ProgramBufferId id : host->inputs) in.push_back(run.buffers[id.index].value());
      AG_TRY(std::vector<Array> out, interpret(*hosts[host->function], in));
      for (std::size_t i = 0; i < out.size(); ++i) run.buffers[host->outputs[i].index] = out[i];
      continue;
    }
    if (const auto* bind = std::get_if<loop::BindStep>(&step.value))
      run.bind(*bind);
    else
      AG_TRY_(run.call(std::get<loop::KernelCall>(step.value), races));
  }
  std::vector<Array> out;
  for (loop::ProgramBufferId id : p.outputs) out.push_back(run.buffers[id.index].value());
  return out;
}

}  // namespace ag::test
