// Whole programs in the cache of files: what comes from it is what would be compiled, to the bit, whatever the weights.
#include "runtime/program_cache.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <random>

#include "codegen/backend.hpp"
#include "frontend/load.hpp"
#include "ir/builder.hpp"
#include "passes/train.hpp"
#include "runtime/engine.hpp"
#include "runtime/exec/state.hpp"

namespace fs = std::filesystem;
using namespace ag;
using namespace ag::runtime;

namespace {

struct Folder {
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "ag-programs-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()));
    path = name;
  }
  ~Folder() { fs::remove_all(path); }
};

template <class T>
T must(Result<T> r) {
  if (!r) FAIL(r.error().front().message);
  return std::move(*r);
}

Array weights(std::vector<std::int64_t> shape, unsigned seed) {
  Array a(DType::f32, std::move(shape));
  std::mt19937 random(seed);
  for (float& v : a.as_mutable<float>()) v = static_cast<float>(random() % 2001) * 1e-3f - 1;
  return a;
}

Loc line(std::uint32_t n, std::string file = "net.json") { return make_loc(std::move(file), n, 3); }

/// Constants of every origin: a matrix that is packed, one that takes a factor a column, filters that are scaled and
/// transformed, two that are joined, a small one, an unchanged one.
Graph net(unsigned seed, Dim batch = 4) {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("image", Type{DType::f32, {batch, 32, 28, 28}}, line(1));
  ValueId w = b.constant(make_literal(weights({32, 32, 3, 3}, seed)), line(2));
  ValueId scale = b.constant(make_literal(weights({32, 1, 1, 1}, seed + 1)), line(3));
  b.set_origin({line(4)});
  ValueId y = b.add_op("Conv", {x, b.mul(w, b.broadcast_to(scale, {32, 32, 3, 3}))},
                       {{"pads", std::vector<std::int64_t>{1, 1, 1, 1}}});
  y = b.unary("tanh", y);
  y = b.reduce("reduce_sum", y, {2, 3});
  b.set_origin({line(5)});
  ValueId shift = b.constant(make_literal(weights({32}, seed + 2)), line(6));
  y = b.add(y, b.broadcast_to(shift, b.type(y).shape));
  std::vector<ValueId> parts;
  for (unsigned i = 0; i < 3; ++i)
    parts.push_back(b.dot_general(y, b.constant(make_literal(weights({32, 80}, seed + 3 + i)), line(7 + i)), {1}, {0}));
  ValueId factor = b.constant(make_literal(weights({80}, seed + 6)), line(10));
  parts[1] = b.mul(parts[1], b.broadcast_to(factor, b.type(parts[1]).shape));
  ValueId z = b.dot_general(b.mul(parts[0], parts[1]), parts[2], {1}, {1});
  g.outputs.push_back({"z", z, line(20)});
  g.outputs.push_back({"first", parts[0], line(21)});
  return g;
}

EngineOptions options(const Folder& folder) {
  EngineOptions o;
  o.compile_threads = 2;
  o.cache_folder = folder.path.string();
  return o;
}

/// By an engine of its own, as in another process.
Compiled compile(Graph g, const EngineOptions& o) { return must(must(Engine::create())->compile(std::move(g), o)); }

std::vector<Array> run(const Compiled& c, std::vector<Array> inputs) {
  ExecContext context(c.executable, {.threads = 2});
  return must(run(context, inputs));
}

void same(const std::vector<Array>& a, const std::vector<Array>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i].same_bits(b[i]));
}

}  // namespace

TEST_CASE("a program that is found again gives the same bits", "[program_cache]") {
  Folder folder;
  const auto o = options(folder);
  auto plain = o;
  plain.cache_folder.clear();
  const Array image = weights({4, 32, 28, 28}, 99);
  const auto wanted = run(compile(net(1), plain), {image});
  Compiled cold = compile(net(1), o), warm = compile(net(1), o);
  CHECK(!cold.report.kept);
  REQUIRE(warm.report.kept);
  CHECK(warm.report.passes.empty());
  same(run(cold, {image}), wanted);
  same(run(warm, {image}), wanted);
  CHECK(warm.inputs.size() == 1);
  CHECK(warm.inputs[0].name == "image");
  CHECK(warm.inputs[0].type == cold.inputs[0].type);
  CHECK(warm.outputs[1].name == "first");
  CHECK(warm.report.fusion == cold.report.fusion);
  REQUIRE(warm.report.kernels.size() == cold.report.kernels.size());
  for (std::size_t i = 0; i < warm.report.kernels.size(); ++i) {
    const KernelReport &a = warm.report.kernels[i], &b = cold.report.kernels[i];
    CHECK(a.cached);
    CHECK((a.name == b.name && a.label == b.label && a.calls == b.calls && a.object_bytes == b.object_bytes &&
           a.statements == b.statements));
  }
}

TEST_CASE("weights are not in the entry", "[program_cache]") {
  Folder folder;
  const auto o = options(folder);
  std::size_t code = 0;
  for (const KernelReport& k : compile(net(1), o).report.kernels) code += k.object_bytes;
  const GraphSurvey found = survey(net(1), 1);
  auto target = must(codegen::describe_target(o.target));
  auto entry = must(DiskCache::open(o.cache_folder))->load(program_key(found, target, o));
  REQUIRE(entry);
  CHECK(entry->size() < code + 30000);  // nor what became of them: that is twice as much
  for (const LiteralPtr& l : found.literals) {
    const auto bytes = l->materialize().bytes();
    if (bytes.size() >= 4096) CHECK(entry->find({reinterpret_cast<const char*>(bytes.data()), 64}) == entry->npos);
  }
}

TEST_CASE("other weights are another program", "[program_cache]") {
  Folder folder;
  const auto o = options(folder);
  auto plain = o;
  plain.cache_folder.clear();
  const Array image = weights({4, 32, 28, 28}, 99);
  compile(net(1), o);
  Compiled other = compile(net(2), o), again = compile(net(2), o);
  CHECK(!other.report.kept);
  CHECK(again.report.kept);
  const auto wanted = run(compile(net(2), plain), {image});
  same(run(other, {image}), wanted);
  same(run(again, {image}), wanted);
  // A single bit of a single weight, wherever it is.
  const GraphSurvey first = survey(net(1), 1);
  for (std::size_t at : {std::size_t{0}, std::size_t{4001}, std::size_t{9215}}) {
    Graph g = net(1);
    for (NodeId id : g.node_ids())
      if (const LiteralPtr* l = g.node(id).attrs.get<LiteralPtr>("value"); l && (*l)->array.elems() == 9216) {
        Array changed = (*l)->array;
        changed.mutable_bytes()[4 * at] ^= std::byte{1};
        g.node(id).attrs.set("value", make_literal(changed));
      }
    CHECK(survey(g, 1).digest != first.digest);
    CHECK(survey(g, 1).digest == survey(g, 3).digest);
  }
}

TEST_CASE("other options are another program", "[program_cache]") {
  Folder folder;
  const auto o = options(folder);
  compile(net(1), o);
  auto kept = [&](auto change) {
    EngineOptions other = o;
    change(other);
    return compile(net(1), other).report.kept;
  };
  CHECK(kept([](EngineOptions&) {}));
  CHECK(!kept([](EngineOptions& e) { e.fast_math = true; }));
  CHECK(!kept([](EngineOptions& e) { e.winograd_tile = 4; }));
  CHECK(!kept([](EngineOptions& e) { e.pipeline.opt_level = 0; }));
  CHECK(!kept([](EngineOptions& e) { e.pipeline.disabled = {"winograd"}; }));
  CHECK(!kept([](EngineOptions& e) { e.target = "cpu:x86-64-v3"; }));
  CHECK(!kept([](EngineOptions& e) { e.line_info = true; }));
  CHECK(!kept([](EngineOptions& e) { e.memory_limit = 1 << 30; }));
  CHECK(!kept([](EngineOptions& e) { e.keep_programs = false; }));
  CHECK(!kept([](EngineOptions& e) { e.use_cache = false; }));
  CHECK(!kept([](EngineOptions& e) { e.pipeline.track_changes = true; }));  // the passes are to be seen
  CHECK(kept([](EngineOptions& e) { e.fast_math = true; }));
  CHECK(kept([](EngineOptions& e) { e.compile_threads = 1; }));
}

TEST_CASE("a kept program of symbolic sizes runs at any", "[program_cache]") {
  Folder folder;
  const auto o = options(folder);
  Compiled cold = compile(net(1, Dim::symbol("N")), o), warm = compile(net(1, Dim::symbol("N")), o);
  REQUIRE(warm.report.kept);
  for (std::int64_t n : {1, 3, 0, 5}) {
    const Array image = weights({n, 32, 28, 28}, 99);
    same(run(warm, {image}), run(cold, {image}));
  }
}

TEST_CASE("errors of a kept program point into the user's file", "[program_cache]") {
  Folder folder;
  const auto o = options(folder);
  auto graph = [](std::string file) {
    Graph g;
    GraphBuilder b(g);
    ValueId x = b.input("x", Type{DType::i64, {8}}, line(1, file));
    ValueId table = b.input("t", Type{DType::f32, {16}}, line(2, file));
    b.set_origin({line(7, file)});
    g.outputs.push_back({"y", b.add_op("Gather", {table, x}), line(9, file)});
    return g;
  };
  auto place = [&](const Compiled& c) {
    ExecContext context(c.executable, {});
    Array index(DType::i64, {8}), table(DType::f32, {16});
    index.set_int(5, 77);
    std::vector<Array> inputs{index, table};
    auto result = runtime::run(context, inputs);
    REQUIRE(!result);
    REQUIRE(!result.error().front().spans.empty());
    return result.error().front().message + result.error().front().spans.front().loc.str();
  };
  const std::string wanted = place(compile(graph("a.json"), o));
  CHECK(wanted.find("a.json:7") != wanted.npos);
  Compiled warm = compile(graph("a.json"), o), moved = compile(graph("elsewhere/b.json"), o);
  REQUIRE(warm.report.kept);
  REQUIRE(moved.report.kept);
  CHECK(place(warm) == wanted);
  CHECK(place(moved).find("elsewhere/b.json:7") != std::string::npos);
}

TEST_CASE("a kept training step goes on as the other", "[program_cache]") {
  Folder folder;
  const auto o = options(folder);
  Sources sources;
  auto made = [&] {
    Graph g = must(load(AG_SOURCE_DIR "/examples/bench/mlp.json", sources, {}));
    passes::PassContext context;
    return must(passes::train_step(std::move(g), must(passes::parse_optimiser("adamw,lr=1e-2")), context));
  };
  auto trained = [&](const Compiled& c, const std::vector<passes::StateValue>& states) {
    auto state = must(State::create(c.executable));
    for (const auto& v : states) REQUIRE(state->set(state->find(v.name).value(), view_of(v.initial->materialize())));
    ExecContext context(c.executable, {.threads = 2});
    std::vector<Array> inputs, out;
    std::vector<HostArray> views;
    for (const Port& p : c.inputs) {
      auto shape = static_shape(p.type.shape).value();
      inputs.push_back(p.type.dtype == DType::f32 ? weights(shape, 5) : Array(p.type.dtype, shape));
    }
    for (const Array& a : inputs) views.push_back(view_of(a));
    for (int step = 0; step < 3; ++step) must(context.run_allocating(views, *state));
    for (std::size_t i = 0; i < state->size(); ++i) {
      out.emplace_back(state->dtype(i), state->shape(i));
      REQUIRE(state->get(i, {out[i].dtype(), out[i].shape(), out[i].mutable_bytes().data(), out[i].bytes_size()}));
    }
    return out;
  };
  auto step = made();
  Compiled cold = compile(step.graph, o), warm = compile(made().graph, o);
  REQUIRE(warm.report.kept);
  REQUIRE(warm.states.size() == cold.states.size());
  same(trained(warm, step.states), trained(cold, step.states));
}

TEST_CASE("damaged entries are as good as absent", "[program_cache]") {
  Folder folder;
  const auto o = options(folder);
  compile(net(1), o);
  const GraphSurvey whole = survey(net(1), 1);
  auto target = must(codegen::describe_target(o.target));
  const std::string entry = must(DiskCache::open(o.cache_folder))->load(program_key(whole, target, o)).value();
  // The checksum would find these; the reader must stand them nevertheless.
  std::mt19937 random(7);
  std::size_t refused = 0, others = 0;
  const std::size_t head = std::min<std::size_t>(entry.size(), 6000);
  for (int i = 0; i < 3000; ++i) {
    std::string bad = entry;
    const int changes = 1 + static_cast<int>(random() % 3);
    for (int c = 0; c < changes && !bad.empty(); ++c) {
      const std::size_t at = random() % (i % 3 ? std::min(head, bad.size()) : bad.size());
      switch (random() % 4) {
        case 0: bad[at] = static_cast<char>(random()); break;
        case 1: bad.erase(at, 1 + random() % 5); break;
        case 2: bad.insert(at, 1 + random() % 5, static_cast<char>(random())); break;
        default: bad.resize(at); break;
      }
    }
    GraphSurvey found = whole;
    double ms = 0;
    auto kept = read_entry(bad, found, 1, [] {}, ms);
    if (!kept || !*kept) {
      ++refused;
      continue;
    }
    ++others;  // a name, a size: what it is, the executable says
    KernelCode code;
    code.functions.resize((*kept)->program.kernels.size(), [](auto...) {});
    (void)Executable::create(std::move((*kept)->program), std::move(code));
  }
  CHECK(refused > 500);
  CHECK(others > 10);
}
