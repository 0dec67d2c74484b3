// Runs a Program with the loop interpreter: no LLVM, any stage of lowering. Every temp has memory of its own.
#pragma once
#include <cstring>
#include <map>

#include "ir/graph.hpp"
#include "ir/loop/interp.hpp"
#include "ir/loop/program.hpp"

namespace ag::test {

class ProgramRun {
 public:
  ProgramRun(const loop::Program& p, const std::vector<Array>& inputs, bool races, std::span<const GraphPtr> hosts)
      : p_(p), races_(races), hosts_(hosts) {
    for (const loop::DimSource& s : p.dim_sources) env_[s.symbol] = inputs[s.input].shape()[s.axis];
    memory_.resize(p.buffers.size());
    data_.resize(p.buffers.size());
    for (std::size_t i = 0; i < p.buffers.size(); ++i) {
      const loop::ProgramBuffer& b = p.buffers[loop::ProgramBufferId(i)];
      place(i);
      const void* from = b.kind == loop::BufferKind::input ? inputs[b.index].bytes().data() : b.constant.get();
      if (from && !memory_[i].empty()) std::memcpy(memory_[i].data(), from, static_cast<std::size_t>(bytes(i)));
    }
  }

  Result<std::vector<Array>> run() {
    AG_TRY_(seq(p_.body));
    std::vector<Array> out;
    for (loop::ProgramBufferId id : p_.outputs) out.push_back(array(id));
    return out;
  }

 private:
  const loop::Program& p_;
  bool races_;
  std::span<const GraphPtr> hosts_;
  DimEnv env_;
  std::vector<std::vector<std::byte>> memory_;
  std::vector<std::byte*> data_;

  std::int64_t bytes(std::size_t i) const {
    const loop::ProgramBuffer& b = p_.buffers[loop::ProgramBufferId(i)];
    return product(b.shape).eval(env_).value_or(0) * static_cast<std::int64_t>(dtype_bytes(b.dtype));
  }
  void place(std::size_t i) {  // what nobody wrote shows
    if (p_.buffers[loop::ProgramBufferId(i)].place == loop::Place::slot) return;
    if (memory_[i].size() < static_cast<std::size_t>(bytes(i)) + 1)
      memory_[i].resize(static_cast<std::size_t>(bytes(i)) + 1, std::byte{0xCB});
    data_[i] = memory_[i].data();
  }
  Array array(loop::ProgramBufferId id) {
    std::vector<std::int64_t> shape;
    for (const Dim& d : p_.buffers[id].shape) shape.push_back(d.eval(env_).value());
    Array a(p_.buffers[id].dtype, shape);
    if (a.elems()) std::memcpy(a.mutable_bytes().data(), at(id), a.bytes_size());
    return a;
  }
  std::byte* at(loop::ProgramBufferId id) {
    std::int64_t begin = 0;
    for (; p_.buffers[id].alias_of; id = p_.buffers[id].alias_of) begin += p_.buffers[id].offset.eval(env_).value_or(0);
    return data_[id.index] + begin;
  }

  Status seq(const loop::Seq& s) {
    for (const loop::Step& step : s.steps) AG_TRY_(std::visit([&](const auto& x) { return visit(x); }, step.value));
    return {};
  }
  Status visit(const loop::KernelCall& call) {
    std::vector<loop::BufferView> views;
    for (loop::ProgramBufferId id : call.buffers)
      views.push_back({at(id), bytes(id.index) / static_cast<std::int64_t>(dtype_bytes(p_.buffers[id].dtype))});
    std::vector<std::int64_t> dims;
    for (const Dim& d : call.dims) dims.push_back(d.eval(env_).value());
    loop::InterpOptions options;
    options.detect_races = races_;
    AG_TRY(loop::TrapRecord trap, loop::interpret(p_.kernels[call.kernel], views, dims, options));
    if (trap.kind) return fail(Code::AG5201, {}, "trap " + std::to_string(trap.kind));
    return {};
  }
  Status visit(const loop::HostCall& call) {
    std::vector<Array> in;
    for (loop::ProgramBufferId id : call.inputs) in.push_back(array(id));
    AG_TRY(std::vector<Array> out, interpret(*hosts_[call.function], in));
    for (std::size_t i = 0; i < out.size(); ++i)
      if (out[i].elems()) std::memcpy(at(call.outputs[i]), out[i].bytes().data(), out[i].bytes_size());
    return {};
  }
  Status visit(const loop::IfStep& s) { return seq(at(s.predicate)[0] != std::byte{0} ? *s.then : *s.otherwise); }
  Status visit(const loop::WhileStep& s) {
    for (;;) {
      AG_TRY_(seq(*s.cond));
      if (at(s.predicate)[0] == std::byte{0}) return {};
      AG_TRY_(seq(*s.body));
    }
  }
  Status visit(const loop::BindStep& s) {
    const loop::Segment& segment = p_.segments[s.segment];
    std::vector<std::int64_t> values;
    for (std::size_t i = 0; i < segment.symbols.size(); ++i) {
      std::int64_t v = 0;
      if (s.values)
        std::memcpy(&v, at(s.values) + i * sizeof v, sizeof v);
      else
        v = s.exprs[i].eval(env_).value_or(-1);
      if (v < 0) return fail(Code::AG5021, {}, "a negative size");
      values.push_back(v);
    }
    for (std::size_t i = 0; i < values.size(); ++i) env_[segment.symbols[i]] = values[i];
    AG_TRY_(guards(segment.guards));
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      loop::ProgramBufferId root(i);
      while (p_.buffers[root].alias_of) root = p_.buffers[root].alias_of;
      if (!p_.buffers[root].constant && p_.buffers[root].kind != loop::BufferKind::input) place(i);
    }
    return {};
  }
  Status visit(const loop::SwapStep& s) {
    std::swap(memory_[s.a.index], memory_[s.b.index]);
    place(s.a.index), place(s.b.index);
    return {};
  }
  Status visit(const loop::SlotStep& s) {
    std::int64_t index;
    std::memcpy(&index, at(s.index), sizeof index);
    if (s.backwards) index = s.count.eval(env_).value() - 1 - index;
    const std::int64_t row = bytes(s.view.index);
    loop::ProgramBufferId of = s.of;
    while (p_.buffers[of].alias_of) of = p_.buffers[of].alias_of;
    if (p_.buffers[of].place == loop::Place::growable &&
        memory_[of.index].size() < static_cast<std::size_t>((index + 1) * row)) {
      memory_[of.index].resize(static_cast<std::size_t>((index + 1) * row));
      data_[of.index] = memory_[of.index].data();
    }
    data_[s.view.index] = data_[of.index] + index * row;
    return {};
  }
  Status visit(const loop::CheckStep& s) { return guards(s.guards); }
  Status guards(const std::vector<loop::DimGuard>& list) const {
    for (const loop::DimGuard& g : list) {
      auto a = g.lhs.eval(env_), b = g.rhs.eval(env_);
      if (!a || !b || (g.rel == loop::DimGuard::Rel::eq && *a != *b) || (g.rel == loop::DimGuard::Rel::le && *a > *b))
        return fail(Code::AG5014, {}, g.text);
    }
    return {};
  }
};

inline Result<std::vector<Array>> run_program(const loop::Program& p, const std::vector<Array>& inputs,
                                              bool races = true, std::span<const GraphPtr> hosts = {}) {
  return ProgramRun(p, inputs, races, hosts).run();
}

}  // namespace ag::test
