// Programs: text round trip, verification, hostile text.
#include "ir/loop/program.hpp"

#include <catch2/catch.hpp>

#include "tests/loop/kernels.hpp"

using namespace ag;
using namespace ag::loop;

namespace {

ProgramBufferId add(Program& p, BufferKind kind, Dims shape, DType t = DType::f32, std::string name = "") {
  ProgramBuffer b;
  b.name = std::move(name), b.kind = kind, b.dtype = t, b.shape = std::move(shape);
  return p.buffers.push(std::move(b));
}

Program sample() {
  Program p;
  p.name = "sam\"ple\n";
  Dim n = Dim::symbol("N");
  auto x = add(p, BufferKind::input, {n}, DType::f32, "x"), y = add(p, BufferKind::output, {n}, DType::f32, "y");
  auto c = add(p, BufferKind::constant, {5}, DType::i8, "w"), t = add(p, BufferKind::temp, {n});
  auto flag = add(p, BufferKind::temp, {}, DType::boolean);
  auto bytes = std::make_shared<std::array<std::int8_t, 5>>(std::array<std::int8_t, 5>{-1, 0, 127, -128, 3});
  p.buffers[c].constant = std::shared_ptr<const void>(bytes, bytes->data());
  p.buffers[t].planned = true, p.buffers[t].offset = n * 64;
  p.buffers[flag].planned = true;
  auto same = add(p, BufferKind::temp, {n});
  p.buffers[same].alias_of = t;
  p.inputs = {x}, p.outputs = {y};
  p.dim_sources.push_back({"N", 0, 0});
  p.guards.push_back({n, Dim(1000), DimGuard::Rel::le, "N must be small"});
  p.guards.push_back({Dim(8), n, DimGuard::Rel::divides, "8 divides N"});
  p.guards.push_back({n, n * n, DimGuard::Rel::eq, ""});
  p.sources.push_back(make_loc("m.json", 3, 4));
  p.arena_bytes = n * 128 + 64;
  KernelId k = p.kernels.push(samples::square_plus_one());
  KernelCall call{k, {x, t}, {n}, {0}, "square"};
  Seq once{{Step{call}}}, host{{Step{HostCall{3, {t}, {flag, y}, "host"}}}};
  p.body.steps = {Step{call}, Step{IfStep{flag, std::make_shared<Seq>(once), std::make_shared<Seq>()}},
                  Step{WhileStep{flag, std::make_shared<Seq>(host), std::make_shared<Seq>(once)}}};
  return p;
}

}  // namespace

TEST_CASE("programs round-trip through text") {
  Program p = sample();
  REQUIRE(verify(p));
  std::string text = print(p);
  INFO(text);
  auto again = parse_program(text);
  if (!again) FAIL(again.error()[0].message << again.error()[0].spans[0].loc.str());
  CHECK(print(*again) == text);
  CHECK(again->name == p.name);
  const auto& constant = again->buffers[ProgramBufferId(std::size_t{2})].constant;
  REQUIRE(constant);
  CHECK(static_cast<const std::int8_t*>(constant.get())[3] == -128);
}

TEST_CASE("truncated and altered programs are errors, not crashes") {
  std::string text = print(sample());
  for (std::size_t n = 0; n + 2 < text.size(); n += 2) CHECK_FALSE(parse_program(text.substr(0, n)));
  for (std::size_t n = 0; n < text.size(); ++n) {
    std::string t = text;
    t[n] = t[n] == '9' ? '(' : '9';
    if (auto p = parse_program(t)) CHECK(verify(*p));
  }
}

TEST_CASE("verify refuses references that do not fit") {
  auto broken = [](auto&& change) {
    Program p = sample();
    change(p);
    return !verify(p);
  };
  auto call = [](Program& p) -> KernelCall& { return std::get<KernelCall>(p.body.steps[0].value); };
  CHECK(broken([&](Program& p) { call(p).kernel = KernelId(std::size_t{9}); }));
  CHECK(broken([&](Program& p) { call(p).buffers.pop_back(); }));
  CHECK(broken([&](Program& p) { call(p).buffers[0] = ProgramBufferId(std::size_t{77}); }));
  CHECK(broken([&](Program& p) { call(p).buffers[0] = ProgramBufferId(std::size_t{2}); }));
  CHECK(broken([&](Program& p) { call(p).dims.clear(); }));
  CHECK(broken([&](Program& p) { call(p).origins[0] = 4; }));
  CHECK(broken([&](Program& p) { std::get<IfStep>(p.body.steps[1].value).then = nullptr; }));
  CHECK(broken([&](Program& p) { std::get<IfStep>(p.body.steps[1].value).predicate = p.inputs[0]; }));
  CHECK(broken([&](Program& p) { p.dim_sources[0].axis = 2; }));
  CHECK(broken([&](Program& p) { p.buffers[p.inputs[0]].alias_of = p.outputs[0]; }));
  CHECK(broken([&](Program& p) { p.outputs.push_back({}); }));
  CHECK(broken([&](Program& p) { p.kernels[KernelId(std::size_t{0})].buffers[0].access = Access::write; }));
}
