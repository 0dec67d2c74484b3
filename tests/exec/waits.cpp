// Which parts of kernels wait for each other: footprints tell no less than what is touched, and whatever order of parts
// the waits allow gives the same bits. Parts are run one after the other here, in the worst orders there are.
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include <fmt/format.h>

#include "frontend/load.hpp"
#include "ir/loop/builder.hpp"
#include "runtime/engine.hpp"
#include "runtime/exec/binding.hpp"
#include "tests/exec/programs.hpp"

using namespace ag;
using namespace ag::runtime;
using namespace ag::runtime::test;
using loop::BufferKind;

extern std::atomic<long> all_allocations;  // executable.cpp counts them

namespace {

struct Net {
  const char* name;
  const char* nodes;  // from x [M, N] (image [1, 16, 28, 28]) to y
};

const Net nets[] = {
    {"rows", R"({ "op": "Exp", "in": ["x"], "out": "a" }, { "op": "Softmax", "in": ["a"], "out": "b" },
        { "op": "Tanh", "in": ["b"], "out": "y" })"},
    {"columns between", R"({ "op": "Exp", "in": ["x"], "out": "a" }, { "op": "Transpose", "in": ["a"], "out": "b" },
        { "op": "Tanh", "in": ["b"], "out": "y" })"},
    {"rows of odd sizes and a gate", R"({ "op": "Slice", "in": ["x", [1, 3], [190, 240], [0, 1]], "out": "a" },
        { "op": "LayerNormalization", "in": ["a", 1.5], "out": "b" }, { "op": "Sigmoid", "in": ["a"], "out": "c" },
        { "op": "Mul", "in": ["b", "c"], "out": "d" }, { "op": "Softmax", "in": ["d"], "out": "y" })"},
    {"products", R"({ "op": "MatMul", "in": ["x", "w"], "out": "a" }, { "op": "Softmax", "in": ["a"], "out": "b" },
        { "op": "MatMul", "in": ["b", "w"], "out": "c" }, { "op": "Relu", "in": ["c"], "out": "d" },
        { "op": "LayerNormalization", "in": ["d", 1.5], "out": "y" })"},
    {"columns", R"({ "op": "ReduceSum", "in": ["x", [0]], "out": "a" }, { "op": "Mul", "in": ["x", "a"], "out": "b" },
        { "op": "CumSum", "in": ["b", 0], "out": "c" }, { "op": "ReduceMax", "in": ["c", [1]], "out": "d" },
        { "op": "Sub", "in": ["c", "d"], "out": "y" })"},
    {"pad and join", R"({ "op": "Pad", "in": ["x", [0, 1, 0, 1]], "out": "a" },
        { "op": "Tanh", "in": ["a"], "out": "b" }, { "op": "Concat", "in": ["b", "x"], "out": "c",
        "attrs": { "axis": 1 } }, { "op": "Exp", "in": ["c"], "out": "y" })"},
    {"images", R"({ "op": "Conv", "in": ["image", "filter"], "out": "a", "attrs": { "pads": [1, 1, 1, 1] } },
        { "op": "Relu", "in": ["a"], "out": "b" }, { "op": "Conv", "in": ["b", "point"], "out": "c" },
        { "op": "Sigmoid", "in": ["c"], "out": "d" },
        { "op": "Conv", "in": ["d", "taps"], "out": "e", "attrs": { "pads": [1, 1, 1, 1], "group": 16 } },
        { "op": "Conv", "in": ["e", "point"], "out": "f" }, { "op": "Add", "in": ["f", "c"], "out": "g" },
        { "op": "MaxPool", "in": ["g"], "out": "h", "attrs": { "kernel_shape": [2, 2], "strides": [2, 2] } },
        { "op": "GlobalAveragePool", "in": ["h"], "out": "i" }, { "op": "Mul", "in": ["h", "i"], "out": "y" })"},
    {"gather", R"({ "op": "Gather", "in": ["x", "rows"], "out": "a" }, { "op": "Tanh", "in": ["a"], "out": "b" },
        { "op": "Gather", "in": ["b", "rows"], "out": "y", "attrs": { "axis": 1 } })"},
};

std::string json_of(const Net& net, const std::string& m, const std::string& n) {
  return fmt::format(R"({{ "ag": 1, "opset": 21, "inputs": [ {{ "name": "x", "type": "f32[{0},{1}]" }},
      {{ "name": "w", "type": "f32[{1},{1}]" }}, {{ "name": "image", "type": "f32[1,16,28,28]" }},
      {{ "name": "filter", "type": "f32[16,16,3,3]" }}, {{ "name": "point", "type": "f32[16,16,1,1]" }},
      {{ "name": "taps", "type": "f32[16,1,3,3]" }}, {{ "name": "rows", "type": "i64[150]" }} ],
    "nodes": [ {2} ], "outputs": ["y"] }})",
                     m, n, net.nodes);
}

/// A program with memory for a run of its own.
class Bench {
 public:
  Bench(const std::string& text, int opt_level, int threads) : random_(7) {
    Sources sources;
    auto g = load_text(text, "test.json", "", sources);
    INFO(text << (g ? "" : g.error().front().message));
    REQUIRE(g);
    auto engine = Engine::create();
    REQUIRE(engine);
    EngineOptions options;
    options.pipeline.opt_level = opt_level;
    options.pipeline.disabled = {"merge_small"};
    auto compiled = (*engine)->compile(*g, options);
    INFO(message_of(compiled));
    REQUIRE(compiled);
    executable_ = compiled->executable;
    const loop::Program& p = executable_->program();
    for (const auto& step : p.body.steps) calls_.push_back(&std::get<loop::KernelCall>(step.value));
    DimEnv env;
    for (const auto& s : p.dim_sources) env[s.symbol] = s.axis == 0 ? 192 : 256;
    auto made = Binding::make(*executable_, env, threads);
    INFO(message_of(made));
    REQUIRE(made);
    binding_ = std::move(*made);
    storage_ = loop::resolve_storage(p).value();
    arena_.resize(static_cast<std::size_t>(binding_->arena_bytes) + 64);
    for (auto& s : scratch_) s.resize(static_cast<std::size_t>(binding_->scratch_bytes) + 64);
    memory_.resize(p.buffers.size());
    for (std::uint32_t i = 0; i < p.buffers.size(); ++i) {
      const loop::ProgramBuffer& b = p.buffers[ProgramBufferId(std::size_t{i})];
      if (storage_.home[ProgramBufferId(std::size_t{i})].index != i || b.kind == BufferKind::constant) continue;
      memory_[i].resize(static_cast<std::size_t>(binding_->bytes[i]) + 64);
      if (b.kind == BufferKind::input) fill(i, b.dtype);
      binding_->set_home(*executable_, i,
                         b.kind == BufferKind::temp ? aligned(arena_) + binding_->offsets[i] : aligned(memory_[i]));
    }
  }

  std::size_t calls() const { return calls_.size(); }
  const std::string& label(std::size_t i) const { return calls_[i]->label; }
  const BlockEntry& entry(std::size_t i) const { return binding_->entries[i]; }
  /// Divided calls that begin before the one before them, divided as well, is done in all parts.
  std::size_t without_wait() const {
    std::size_t n = 0;
    for (std::size_t i = 1; i < calls(); ++i) n += entry(i).parts > 1 && entry(i - 1).parts > 1 && entry(i).behind > 1;
    return n;
  }

  void run_part(std::size_t call, int part) {
    const BoundCall& c = binding_->calls[call];
    loop::ContextBlock context{};
    loop::KernelArgs args = c.args;
    args.context = &context;
    args.scratch = aligned(scratch_[static_cast<std::size_t>(part)]);
    const TileRange tiles = tile_range(c.tiles, part, entry(call).parts);
    if (tiles.lo < tiles.hi) c.fn(&args, tiles.lo, tiles.hi);
  }

  /// All parts of all calls, `first` as far ahead of the others as waits allow; -1: parts by chance.
  std::vector<char> run(int first) {
    std::fill(arena_.begin(), arena_.end(), char(0x5a));
    const auto parts = std::max_element(binding_->entries.begin(), binding_->entries.end(), [](auto& a, auto& b) {
                         return a.parts < b.parts;
                       })->parts;
    std::vector<std::size_t> done(parts);
    auto may = [&](std::size_t p) {
      const std::size_t i = done[p];
      if (i == calls()) return false;
      if (p >= entry(i).parts) return true;
      return std::all_of(done.begin(), done.end(), [&](std::size_t d) { return d + entry(i).behind >= i + 1; });
    };
    for (;;) {
      std::vector<std::size_t> ready;
      for (std::size_t p = 0; p < parts; ++p)
        if (may(p)) ready.push_back(p);
      if (ready.empty()) break;
      std::size_t p = ready[random_() % ready.size()];
      if (first >= 0 && static_cast<std::size_t>(first) < parts && may(static_cast<std::size_t>(first)))
        p = static_cast<std::size_t>(first);
      if (p < entry(done[p]).parts) run_part(done[p], static_cast<int>(p));
      ++done[p];
    }
    for (std::size_t d : done) REQUIRE(d == calls());
    return output();
  }
  std::vector<char> run_in_order() {
    std::fill(arena_.begin(), arena_.end(), char(0x5a));
    for (std::size_t i = 0; i < calls(); ++i)
      for (int p = 0; p < entry(i).parts; ++p) run_part(i, p);
    return output();
  }

  /// Runs a part twice, the second time with other values wherever it is not said to touch: it writes the same, and
  /// nothing there. Returns what is wrong.
  std::string check_footprint(std::size_t call, int part) {
    const loop::Program& p = executable_->program();
    const loop::KernelCall& c = *calls_[call];
    const loop::Kernel& k = p.kernels[c.kernel];
    const loop::Footprint f = loop::footprint(k);
    if (f.params.empty()) return "";
    std::vector<std::int64_t> elems;
    for (auto id : c.buffers)
      elems.push_back(binding_->bytes[id.index] / static_cast<std::int64_t>(dtype_bytes(p.buffers[id].dtype)));
    std::vector<loop::TouchedRange> ranges(c.buffers.size());
    loop::FootprintMemory memory;
    const BoundCall& bound = binding_->calls[call];
    const TileRange tiles = tile_range(bound.tiles, part, entry(call).parts);
    loop::touched(f, {bound.args.dims, c.dims.size()}, elems, tiles.lo, tiles.hi, ranges, memory);
    std::vector<std::vector<float>> before(c.buffers.size()), once, twice;
    for (std::size_t i = 0; i < c.buffers.size(); ++i) {
      if (p.buffers[c.buffers[i]].dtype != DType::f32) return "";  // indices stay as they are
      for (std::int64_t e = 0; e < elems[i]; ++e) before[i].push_back(1 + static_cast<float>(random_() % 1000) / 1000);
    }
    once = twice = before;
    for (std::size_t i = 0; i < c.buffers.size(); ++i)
      for (std::int64_t e = 0; e < elems[i]; ++e)
        if (!within(ranges[i].read, e) && !within(ranges[i].written, e)) twice[i][static_cast<std::size_t>(e)] += 7;
    for (auto* values : {&once, &twice}) call_on(call, part, *values);
    for (std::size_t i = 0; i < c.buffers.size(); ++i)
      for (std::int64_t e = 0; e < elems[i]; ++e) {
        const auto at = static_cast<std::size_t>(e);
        if (!within(ranges[i].written, e) && std::memcmp(&once[i][at], &before[i][at], 4) != 0)
          return fmt::format("`{}` part {} writes element {} of buffer {}", c.label, part, e, i);
        const bool changed = !within(ranges[i].read, e) && !within(ranges[i].written, e);
        if (!changed && std::memcmp(&once[i][at], &twice[i][at], 4) != 0)
          return fmt::format("`{}` part {}: element {} of buffer {} depends on others", c.label, part, e, i);
      }
    return "";
  }

 private:
  static bool within(const loop::ElementRange& r, std::int64_t e) { return r.lo <= e && e < r.hi; }
  static char* aligned(std::vector<char>& v) {
    const auto at = reinterpret_cast<std::uintptr_t>(v.data());
    return v.data() + (64 - at % 64) % 64;
  }
  void fill(std::size_t i, DType t) {
    char* to = aligned(memory_[i]);
    for (std::int64_t e = 0; e < binding_->bytes[i] / static_cast<std::int64_t>(dtype_bytes(t)); ++e)
      if (t == DType::f32) {
        const float v = static_cast<float>(random_() % 2000) / 1000 - 1;
        std::memcpy(to + 4 * e, &v, 4);
      } else {
        const std::int64_t v = static_cast<std::int64_t>(random_() % 150);
        std::memcpy(to + 8 * e, &v, 8);
      }
  }
  std::vector<char> output() {
    const auto id = executable_->program().outputs[0];
    const char* at = static_cast<const char*>(binding_->address(storage_, id));
    return {at, at + binding_->bytes[id.index]};
  }
  void call_on(std::size_t call, int part, std::vector<std::vector<float>>& values) {
    const BoundCall& c = binding_->calls[call];
    std::vector<void*> pointers;
    for (auto& v : values) pointers.push_back(v.data());
    loop::ContextBlock context{};
    loop::KernelArgs args = c.args;
    args.buffers = pointers.data();
    args.context = &context;
    args.scratch = aligned(scratch_[0]);
    const TileRange tiles = tile_range(c.tiles, part, entry(call).parts);
    if (tiles.lo < tiles.hi) c.fn(&args, tiles.lo, tiles.hi);
  }

  std::mt19937 random_;
  std::shared_ptr<const Executable> executable_;
  std::vector<const loop::KernelCall*> calls_;
  std::unique_ptr<Binding> binding_;
  loop::Storage storage_;
  std::vector<char> arena_, scratch_[8];
  std::vector<std::vector<char>> memory_;
};

}  // namespace

TEST_CASE("whatever order of parts the waits allow gives the same bits") {
  for (const Net& net : nets)
    for (const char* size : {"", "M,N"})
      for (int opt_level : {0, 2})
        for (int threads : {2, 3, 8}) {
          INFO(net.name << " -O" << opt_level << ", " << threads << " threads, sizes " << size);
          Bench bench(*size ? json_of(net, "M", "N") : json_of(net, "192", "256"), opt_level, threads);
          const auto want = bench.run_in_order();
          for (int first = -1; first < threads; ++first) CHECK(bench.run(first) == want);
          CHECK(bench.run(-1) == want);
        }
}

TEST_CASE("a footprint leaves out no element that a part touches") {
  for (const Net& net : nets)
    for (const char* size : {"", "M,N"})
      for (int opt_level : {0, 2}) {
        Bench bench(*size ? json_of(net, "M", "N") : json_of(net, "192", "256"), opt_level, 3);
        for (std::size_t call = 0; call < bench.calls(); ++call)
          for (int part = 0; part < bench.entry(call).parts; ++part) {
            INFO(net.name << " -O" << opt_level << ", sizes " << size);
            CHECK(bench.check_footprint(call, part) == "");
          }
      }
}

TEST_CASE("rows are handed on within a thread, columns are waited for") {
  const Net by_rows{"", R"({ "op": "Exp", "in": ["x"], "out": "a" },
      { "op": "ReduceMax", "in": ["a", [1]], "out": "b" }, { "op": "Sub", "in": ["a", "b"], "out": "y" })"};
  const Net turned{"", R"({ "op": "Exp", "in": ["x"], "out": "a" }, { "op": "Transpose", "in": ["a"], "out": "t" },
      { "op": "ReduceMax", "in": ["t", [1]], "out": "b" }, { "op": "Sub", "in": ["t", "b"], "out": "y" })"};
  for (int threads : {2, 4}) {
    INFO(threads << " threads");
    Bench rows(json_of(by_rows, "256", "256"), 0, threads), columns(json_of(turned, "256", "256"), 0, threads);
    REQUIRE(rows.calls() == 3);
    REQUIRE(columns.calls() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(rows.entry(i).parts == threads);
      CHECK(columns.entry(i).parts == threads);
      CHECK(rows.entry(i).behind == i + 1);
    }
    CHECK(columns.entry(1).behind == 1);
  }
}

namespace {

constexpr std::int64_t width = 64;
std::atomic<int> second_began{0};
std::atomic<bool> gave_up{false};

void pause(std::int64_t tile) {
  thread_local std::mt19937 random(static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(&random)));
  if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 60 + tile % 3));
}
/// y = 2 x + 1, a tile a row; sleeps now and then.
void slow_rows(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  for (auto t = lo; t < hi; ++t) {
    pause(t);
    for (auto i = t * width; i < (t + 1) * width; ++i) ptr<float>(a, 1)[i] = 2 * ptr<float>(a, 0)[i] + 1;
  }
}
/// The rows in the other order.
void slow_reverse(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  for (auto t = lo; t < hi; ++t) {
    pause(t);
    const auto from = ptr<float>(a, 0) + (a->dims[0] / width - 1 - t) * width;
    std::copy(from, from + width, ptr<float>(a, 1) + t * width);
  }
}
/// The last part ends only when somebody is in the next kernel.
void first_of_two(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  slow_rows(a, lo, hi);
  const auto start = std::chrono::steady_clock::now();
  while (hi * width == a->dims[0] && lo > 0 && second_began.load() == 0 && !gave_up)
    if (std::chrono::steady_clock::now() - start > std::chrono::seconds(10)) gave_up = true;
}
void second_of_two(const KernelArgs* a, std::int64_t lo, std::int64_t hi) {
  ++second_began;
  slow_rows(a, lo, hi);
}

/// What the C++ above touches, as loops say it.
loop::Footprint footprint_of(bool reversed) {
  loop::Builder b("rows");
  const Dim n = Dim::symbol("n");
  const auto x = b.param(DType::f32, n, Access::read), y = b.param(DType::f32, n, Access::write);
  const auto rows = b.dim(floordiv(n, Dim(width)));
  b.for_each(rows, {.mapping = loop::Mapping::tile}, [&](loop::ValueId t) {
    b.for_each(b.index(width), {}, [&](loop::ValueId i) {
      auto at = [&](loop::ValueId row) { return b.add(b.mul(row, b.index(width)), i); };
      const auto from = reversed ? b.op(loop::Op::sub, {b.op(loop::Op::sub, {rows, b.index(1)}), t}) : t;
      b.store(y, at(t), b.load(x, at(from)));
    });
  });
  b.kernel().tiles = floordiv(n, Dim(width));
  return loop::footprint(std::move(b).finish());
}

/// Calls of kernels on n floats, each in a temp of its own but for the last.
std::shared_ptr<const Executable> chain(const std::vector<loop::KernelFn>& kernels, bool with_footprints) {
  ProgramMaker m;
  const Dim n = Dim::symbol("n");
  auto at = m.input("x", {n});
  Dim offset = 0;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const bool last = i + 1 == kernels.size();
    const auto to = last ? m.output("y", {n}) : m.temp("t", {n});
    if (!last) m.p.buffers[to].planned = true, m.p.buffers[to].offset = offset;
    offset = offset + (last ? Dim(0) : n * Dim(4));
    const auto k = m.kernel(kernels[i], {{DType::f32, Access::read, n}, {DType::f32, Access::write, n}},
                            floordiv(n, Dim(width)), Dim(1 << 24));
    if (with_footprints) m.code.footprints.push_back(footprint_of(kernels[i] == slow_reverse));
    m.add(ProgramMaker::call(k, {at, to}, {n}));
    at = to;
  }
  m.p.arena_bytes = offset;
  return m.must();
}

std::vector<float> run_chain(const std::shared_ptr<const Executable>& e, std::vector<float> x, int threads, int runs) {
  ExecContext context(e, {.threads = threads});
  std::vector<float> y(x.size());
  for (int i = 0; i < runs; ++i) {
    std::fill(y.begin(), y.end(), -1.f);
    const HostArray in = view(x), out = view(y);
    REQUIRE(context.run({&in, 1}, {&out, 1}));
  }
  return y;
}

}  // namespace

TEST_CASE("threads that sleep between their tiles change no bit") {
  const auto e = chain({slow_rows, slow_rows, slow_reverse, slow_rows, slow_rows, slow_reverse, slow_rows}, true);
  for (std::int64_t rows : {24, 25, 31}) {
    std::vector<float> x;
    for (std::int64_t i = 0; i < rows * width; ++i) x.push_back(static_cast<float>(i % 91));
    const auto want = run_chain(e, x, 1, 1);
    for (int threads : {2, 3, 4}) CHECK(run_chain(e, x, threads, 20) == want);
  }
}

TEST_CASE("a thread goes on while another one is in the kernel before") {
  if (useful_threads(2) < 2) return;
  second_began = 0, gave_up = false;
  std::vector<float> x(64 * width, 1.f);
  (void)run_chain(chain({first_of_two, second_of_two}, true), x, 2, 1);
  CHECK(!gave_up);
  for (auto [footprints, behind] : {std::pair(true, 2), std::pair(false, 1)}) {
    const auto e = chain({slow_rows, slow_rows, slow_reverse}, footprints);
    const auto b = Binding::make(*e, {{"n", 64 * width}}, 4);
    REQUIRE(b);
    CHECK((*b)->entries[1].behind == behind);
    CHECK((*b)->entries[2].behind == 1);
  }
}

TEST_CASE("calls with footprints allocate nothing once their sizes were seen") {
  ExecContext context(chain({slow_rows, slow_rows, slow_reverse}, true), {.threads = 2});
  std::vector<float> x(24 * width, 1.f), y(x.size()), few(8 * width, 1.f), less(few.size());
  const HostArray in = view(x), out = view(y), in_few = view(few), out_less = view(less);
  bool ok = true;
  long before = 0;
  for (int i = 0; i < 4; ++i) {
    if (i == 1) before = all_allocations;
    ok = ok && context.run({&in, 1}, {&out, 1}) && context.run({&in_few, 1}, {&out_less, 1});
  }
  CHECK(all_allocations == before);
  CHECK(ok);
}
