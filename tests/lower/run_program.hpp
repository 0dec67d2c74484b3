// Runs a Program with the loop interpreter: no LLVM, any stage of lowering.
#pragma once
#include <cstring>
#include <map>

#include "ir/graph.hpp"
#include "ir/loop/interp.hpp"
#include "ir/loop/program.hpp"

namespace ag::test {

inline Result<std::vector<Array>> run_program(const loop::Program& p, const std::vector<Array>& inputs,
                                              bool races = true, std::span<const GraphPtr> hosts = {}) {
  DimEnv env;
  for (const loop::DimSource& s : p.dim_sources) env[s.symbol] = inputs[s.input].shape()[s.axis];
  std::vector<Array> buffers;
  for (const loop::ProgramBuffer& b : p.buffers) {
    std::vector<std::int64_t> shape;
    for (const Dim& d : b.shape) shape.push_back(d.eval(env).value());
    Array a(b.dtype, shape);
    if (b.kind == loop::BufferKind::input) a = inputs[b.index];
    if (b.kind == loop::BufferKind::constant) std::memcpy(a.mutable_bytes().data(), b.constant.get(), a.bytes_size());
    if (b.kind == loop::BufferKind::temp || b.kind == loop::BufferKind::output)
      for (std::byte& x : a.mutable_bytes()) x = std::byte{0xCB};  // what nobody wrote shows
    buffers.push_back(a);
  }
  for (const loop::Step& step : p.body.steps) {
    if (const auto* host = std::get_if<loop::HostCall>(&step.value)) {
      std::vector<Array> in;
      for (loop::ProgramBufferId id : host->inputs) in.push_back(buffers[id.index]);
      AG_TRY(std::vector<Array> out, interpret(*hosts[host->function], in));
      for (std::size_t i = 0; i < out.size(); ++i) buffers[host->outputs[i].index] = out[i];
      continue;
    }
    const auto& call = std::get<loop::KernelCall>(step.value);
    std::vector<loop::BufferView> views;
    for (loop::ProgramBufferId id : call.buffers) {
      Array& a = buffers[id.index];
      views.push_back({a.mutable_bytes().data(), a.elems()});
    }
    std::vector<std::int64_t> dims;
    for (const Dim& d : call.dims) dims.push_back(d.eval(env).value());
    loop::InterpOptions options;
    options.detect_races = races;
    AG_TRY(loop::TrapRecord trap, loop::interpret(p.kernels[call.kernel], views, dims, options));
    if (trap.kind) return fail(Code::AG5201, {}, "trap " + std::to_string(trap.kind));
  }
  std::vector<Array> out;
  for (loop::ProgramBufferId id : p.outputs) out.push_back(buffers[id.index]);
  return out;
}

}  // namespace ag::test
