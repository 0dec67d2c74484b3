// Row kernels, reductions and elementwise updates of ag beside plain streaming loops over the same arrays, taking turns
// in one process; minima of many runs, both on two threads. A loop reads each large input once and writes each large
// output once, as halves of the arrays for the threads, with ordinary stores and with non-temporal ones: a kernel bound
// by memory should reach the loop with stores like its own. Arguments: parts of names, to measure only those.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "bench/pair.hpp"
#include "frontend/load.hpp"
#include "runtime/engine.hpp"

using namespace ag;
using ag::bench::Pair;

namespace {

using Clock = std::chrono::steady_clock;
using Vector = float __attribute__((vector_size(64), aligned(4)));

/// One pass over `reads` and `writes` arrays of as many elements, from `lo` to `hi`. `temporal`: ordinary stores.
template <int reads, int writes, bool temporal>
void stream(const std::vector<float*>& arrays, std::size_t lo, std::size_t hi) {
  constexpr int n = 2;  // vectors at once
  Vector kept[n]{};
  std::array<float*, reads + writes> p;
  std::copy_n(arrays.begin(), reads + writes, p.begin());
  for (std::size_t i = lo; i + 16 * n <= hi; i += 16 * n) {
    Vector v[n]{};
    for (int k = 0; k < reads; ++k)
      for (int u = 0; u < n; ++u) v[u] += *reinterpret_cast<const Vector*>(p[k] + i + 16 * u);
    for (int k = reads; k < reads + writes; ++k)
      for (int u = 0; u < n; ++u) {
        float* to = p[k] + i + 16 * u;
        if constexpr (temporal) {
          *reinterpret_cast<Vector*>(to) = v[u];
        } else {
          for (int half = 0; half < 2; ++half)
            _mm256_stream_ps(to + 8 * half, reinterpret_cast<const __m256*>(&v[u])[half]);
        }
      }
    for (int u = 0; u < n; ++u)
      if (writes == 0) kept[u] += v[u];
  }
  if (!temporal) _mm_sfence();
  volatile float sink = kept[0][0] + kept[1][0];
  (void)sink;
}

using Stream = void (*)(const std::vector<float*>&, std::size_t, std::size_t);
template <bool temporal>
Stream find_stream(std::size_t reads, std::size_t writes) {
#define AG_ROW(r) \
  { \
    stream<r, 0, temporal>, stream<r, 1, temporal>, stream<r, 2, temporal>, stream<r, 3, temporal> \
  }
  static const Stream table[4][4] = {AG_ROW(1), AG_ROW(2), AG_ROW(3), AG_ROW(4)};
#undef AG_ROW
  return reads >= 1 && reads <= 4 && writes <= 3 ? table[reads - 1][writes] : nullptr;
}

/// An update of Adam, written out: new parameters and both moments from four arrays.
constexpr const char* adam = R"("nodes": [
  {"op": "Mul", "in": ["m", 0.9], "out": "m0"}, {"op": "Mul", "in": ["g", 0.1], "out": "g1"},
  {"op": "Add", "in": ["m0", "g1"], "out": "m1"}, {"op": "Mul", "in": ["v", 0.999], "out": "v0"},
  {"op": "Mul", "in": ["g", "g"], "out": "gg"}, {"op": "Mul", "in": ["gg", 0.001], "out": "g2"},
  {"op": "Add", "in": ["v0", "g2"], "out": "v1"}, {"op": "Sqrt", "in": ["v1"], "out": "s"},
  {"op": "Add", "in": ["s", 1e-8], "out": "d"}, {"op": "Div", "in": ["m1", "d"], "out": "q"},
  {"op": "Mul", "in": ["q", 0.001], "out": "u"}, {"op": "Mul", "in": ["p", 0.99999], "out": "p0"},
  {"op": "Sub", "in": ["p0", "u"], "out": "p1"}], "outputs": ["p1", "m1", "v1"])";

struct Work {
  const char* name;
  std::vector<std::pair<const char*, std::vector<std::int64_t>>> inputs;
  const char* rest;  ///< what follows "inputs" in the JSON graph
  const char* bound = "";  ///< what else than memory may bind it
};

const std::vector<Work>& works() {
  constexpr std::int64_t R = 4096, C = 1024;
  using Shape = std::vector<std::int64_t>;
  const Shape x{R, C}, c{C};
  static const std::vector<Work> all{
      {"relu", {{"x", x}}, R"("nodes": [{"op": "Relu", "in": ["x"], "out": "y"}], "outputs": ["y"])"},
      {"add", {{"x", x}, {"z", x}}, R"("nodes": [{"op": "Add", "in": ["x", "z"], "out": "y"}], "outputs": ["y"])"},
      {"x + bias", {{"x", x}, {"c", c}}, R"("nodes": [{"op": "Add", "in": ["x", "c"], "out": "y"}], "outputs": ["y"])"},
      {"x + x * c", {{"x", x}, {"c", c}}, R"("nodes": [{"op": "Mul", "in": ["x", "c"], "out": "a"},
         {"op": "Add", "in": ["a", "x"], "out": "y"}], "outputs": ["y"])"},
      {"relu, 1 MB", {{"x", {256, C}}}, R"("nodes": [{"op": "Relu", "in": ["x"], "out": "y"}], "outputs": ["y"])"},
      {"relu, 100 MB", {{"x", {25600, C}}}, R"("nodes": [{"op": "Relu", "in": ["x"], "out": "y"}], "outputs": ["y"])"},
      {"narrow rows + bias",
       {{"x", {419430, 10}}, {"c", {10}}},
       R"("nodes": [{"op": "Add", "in": ["x", "c"], "out": "y"}], "outputs": ["y"])"},
      {"x + bias, 64 MB",
       {{"x", {4 * R, C}}, {"c", c}},
       R"("nodes": [{"op": "Add", "in": ["x", "c"], "out": "y"}], "outputs": ["y"])"},
      {"gelu", {{"x", x}}, R"("nodes": [{"op": "Gelu", "in": ["x"], "out": "y"}], "outputs": ["y"])", "erf"},
      {"gelu tanh",
       {{"x", x}},
       R"("nodes": [{"op": "Gelu", "in": ["x"], "out": "y", "attrs": {"approximate": "tanh"}}],
         "outputs": ["y"])",
       "tanh"},
      {"sigmoid", {{"x", x}}, R"("nodes": [{"op": "Sigmoid", "in": ["x"], "out": "y"}], "outputs": ["y"])", "exp"},
      {"layer norm",
       {{"x", x}, {"g", c}, {"b", c}},
       R"("nodes": [{"op": "LayerNormalization", "in": ["x", "g", "b"], "out": "y"}], "outputs": ["y"])"},
      {"layer norm, 256",
       {{"x", {16384, 256}}, {"g", {256}}, {"b", {256}}},
       R"("nodes": [{"op": "LayerNormalization", "in": ["x", "g", "b"], "out": "y"}], "outputs": ["y"])"},
      {"layer norm, 4 MB",
       {{"x", {R / 4, C}}, {"g", c}, {"b", c}},
       R"("nodes": [{"op": "LayerNormalization", "in": ["x", "g", "b"], "out": "y"}], "outputs": ["y"])"},
      {"layer norm, 64 MB",
       {{"x", {4 * R, C}}, {"g", c}, {"b", c}},
       R"("nodes": [{"op": "LayerNormalization", "in": ["x", "g", "b"], "out": "y"}], "outputs": ["y"])"},
      {"rms norm",
       {{"x", x}, {"g", c}},
       R"("opset": 23, "nodes": [{"op": "RMSNormalization", "in": ["x", "g"], "out": "y"}], "outputs": ["y"])"},
      {"residual + norm",
       {{"x", x}, {"z", x}, {"g", c}, {"b", c}},
       R"("nodes": [{"op": "Add", "in": ["x", "z"], "out": "s"},
         {"op": "LayerNormalization", "in": ["s", "g", "b"], "out": "y"}], "outputs": ["s", "y"])"},
      {"norm's gradient",
       {{"x", x}, {"g", c}, {"b", c}, {"dy", x}},
       R"("nodes": [{"op": "LayerNormalization", "in": ["x", "g", "b"], "out": "y"}], "outputs": [],
         "grad": {"of": "y", "wrt": ["x", "g", "b"], "seed": "dy"})"},
      {"softmax", {{"x", x}}, R"("nodes": [{"op": "Softmax", "in": ["x"], "out": "y"}], "outputs": ["y"])", "exp"},
      {"softmax, 128",
       {{"x", {32768, 128}}},
       R"("nodes": [{"op": "Softmax", "in": ["x"], "out": "y"}], "outputs": ["y"])",
       "exp"},
      {"softmax, 1000",
       {{"x", {4096, 1000}}},
       R"("nodes": [{"op": "Softmax", "in": ["x"], "out": "y"}], "outputs": ["y"])",
       "exp"},
      {"softmax, 4096",
       {{"x", {1024, 4096}}},
       R"("nodes": [{"op": "Softmax", "in": ["x"], "out": "y"}], "outputs": ["y"])",
       "exp"},
      {"softmax, 32000",
       {{"x", {128, 32000}}},
       R"("nodes": [{"op": "Softmax", "in": ["x"], "out": "y"}], "outputs": ["y"])",
       "exp"},
      {"softmax's gradient",
       {{"x", x}, {"dy", x}},
       R"("nodes": [{"op": "Softmax", "in": ["x"], "out": "y"}], "outputs": [],
         "grad": {"of": "y", "wrt": ["x"], "seed": "dy"})",
       "exp"},
      {"log softmax",
       {{"x", x}},
       R"("nodes": [{"op": "LogSoftmax", "in": ["x"], "out": "y"}], "outputs": ["y"])",
       "exp"},
      {"cross entropy",
       {{"x", x}, {"labels", {R}}},
       R"("nodes": [{"op": "SoftmaxCrossEntropyLoss", "in": ["x", "labels"], "out": "y"}], "outputs": ["y"])",
       "exp"},
      {"cross entropy + gradient",
       {{"x", x}, {"labels", {R}}},
       R"("nodes": [{"op": "SoftmaxCrossEntropyLoss", "in": ["x", "labels"], "out": "y"}], "outputs": ["y"],
         "grad": {"of": "y", "wrt": ["x"]})",
       "exp"},
      {"transpose",
       {{"x", {2048, 2048}}},
       R"("nodes": [{"op": "Transpose", "in": ["x"], "out": "y"}], "outputs": ["y"])"},
      {"sum of everything",
       {{"x", x}},
       R"("nodes": [{"op": "ReduceSum", "in": ["x"], "out": "y", "attrs": {"keepdims": 0}}], "outputs": ["y"])"},
      {"sums of columns",
       {{"x", x}},
       R"("nodes": [{"op": "ReduceSum", "in": ["x", [0]], "out": "y"}], "outputs": ["y"])"},
      {"sums of narrow columns",
       {{"x", {419430, 10}}},
       R"("nodes": [{"op": "ReduceSum", "in": ["x", [0]], "out": "y"}], "outputs": ["y"])"},
      {"sums of rows", {{"x", x}}, R"("nodes": [{"op": "ReduceSum", "in": ["x", [1]], "out": "y"}], "outputs": ["y"])"},
      {"adam, 4 MB", {{"p", {R * C / 4}}, {"g", {R * C / 4}}, {"m", {R * C / 4}}, {"v", {R * C / 4}}}, adam},
      {"adam, 13 MB", {{"p", {3 << 20}}, {"g", {3 << 20}}, {"m", {3 << 20}}, {"v", {3 << 20}}}, adam},
  };
  return all;
}

std::string json_of(const Work& w) {
  std::string inputs;
  for (const auto& [name, shape] : w.inputs)
    inputs += fmt::format(R"({}{{"name": "{}", "type": "{}[{}]"}})", inputs.empty() ? "" : ", ", name,
                          std::string_view(name) == "labels" ? "i64" : "f32", fmt::join(shape, ","));
  return fmt::format(R"({{"ag": 1, "inputs": [{}], {}}})", inputs, w.rest);
}

/// The first address is a multiple of a huge page for all large arrays, as it is for those of a program.
Array filled(std::string_view name, const std::vector<std::int64_t>& shape) {
  Array a(name == "labels" ? DType::i64 : DType::f32, shape);
  for (std::int64_t i = 0; i < a.elems(); ++i)
    if (name == "labels")
      a.set_int(i, i % 1000);
    else
      a.as_mutable<float>()[static_cast<std::size_t>(i)] = static_cast<float>(i * 7919 % 1000) * 0.004f + 0.001f;
  return a;
}

/// Percent of the stream of the same run below which work has become slower: well under what it reaches on a busy
/// machine.
double floor_of(std::string_view name) {
  constexpr std::pair<std::string_view, double> floors[] = {
      {"relu", 60},     {"add", 60},     {"x + bias", 50},     {"x + x * c", 50},   {"layer norm", 45},
      {"rms norm", 45}, {"softmax", 25}, {"sums of rows", 60}, {"adam, 13 MB", 50}, {"transpose", 15}};
  for (const auto& [of, least] : floors)
    if (of == name) return least;
  return 0;
}

/// Times of one of those that take turns, in ms. A turn is long enough for a sleeping thread to take part and for the
/// caches to hold what they hold when this runs again and again, which takes some ten milliseconds where a turn before
/// it stored around them: the first half of a turn does not count.
class Times {
 public:
  template <class F>
  void turn(F&& f) {
    std::vector<double> times;
    for (const auto begun = Clock::now(); times.size() < 8 || Clock::now() - begun < std::chrono::milliseconds(20);) {
      const auto start = Clock::now();
      f();
      times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
    times.erase(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
    least_ = std::min(least_, *std::min_element(times.begin(), times.end()));
    typical_.push_back(median(std::move(times)));
    std::this_thread::sleep_for(std::chrono::microseconds(1300));
  }
  double least() const { return least_; }
  double typical() const { return median(typical_); }
  /// The median over the rounds of the other's median in the round to the own.
  double paired(const Times& other) const {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < typical_.size(); ++i) ratios.push_back(other.typical_[i] / typical_[i]);
    return median(std::move(ratios));
  }

 private:
  double least_ = 1e9;
  std::vector<double> typical_;  // a turn's median

  static double median(std::vector<double> v) {
    const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
    std::nth_element(v.begin(), middle, v.end());
    return *middle;
  }
};

/// Whether some store goes around the caches.
bool goes_around(const loop::Program& p) {
  for (const loop::Kernel& k : p.kernels)
    for (const loop::Stmt& s : k.stmts)
      if (s.attr.nontemporal) return true;
  return false;
}

/// Counts those below their floor.
bool measure(runtime::Engine& engine, Pair& pair, const Work& w, int& below) {
  Sources sources;
  auto g = load_text(json_of(w), "rows.json", "", sources);
  auto compiled = g ? engine.compile(*g) : std::unexpected(g.error());
  if (!compiled) return fmt::print("{}: {}\n", w.name, render(compiled.error(), sources)), false;
  std::vector<Array> arrays;
  std::vector<runtime::HostArray> in, out;
  for (const auto& [name, shape] : w.inputs) arrays.push_back(filled(name, shape));
  for (const Array& a : arrays) in.push_back(runtime::view_of(a));
  runtime::ExecContext context(compiled->executable, {.threads = 2, .pool = bench::patient_pool()});
  auto results = context.run_allocating(in);
  if (!results) return false;
  for (runtime::OwnedArray& a : *results) out.push_back(a.view());
  const bench::KeptCores cores;

  std::vector<float*> streams;
  std::size_t bytes = 0, reads = 0;
  for (const auto* views : {&in, &out})
    for (const auto& v : *views) bytes = std::max(bytes, v.bytes);
  for (const auto* views : {&in, &out})
    for (const auto& v : *views)
      if (v.bytes * 8 > bytes) streams.push_back(static_cast<float*>(v.data)), reads += views == &in;
  const Stream plain = find_stream<true>(reads, streams.size() - reads),
               around = find_stream<false>(reads, streams.size() - reads);
  if (!plain) return false;
  const std::size_t n = bytes / 4 / 64 * 64, half = n / 2 / 64 * 64;
  auto run = [&](Stream s) { pair.run([&](int h) { s(streams, h ? half : 0, h ? n : half); }); };
  const bool is_around = goes_around(compiled->executable->program());
  Times ag_times, plain_times, around_times;
  auto ag_turn = [&] {
    ag_times.turn([&] {
      if (!context.run(in, out)) std::abort();
    });
  };
  for (int round = 0; round < 20; ++round) {  // what comes after stores around the caches finds least there
    if (round % 2 == 0) ag_turn();
    plain_times.turn([&] { run(plain); });
    if (round % 2 != 0) ag_turn();
    around_times.turn([&] { run(around); });
  }
  const Times& like = is_around ? around_times : plain_times;
  const double best = 100 * like.least() / ag_times.least(), typical = 100 * ag_times.paired(like);
  fmt::print(
      "{:24} ag {:7.3f} {:7.3f}   stream {}+{} {:7.3f} {:7.3f}{}  non-temporal {:7.3f} {:7.3f}{}  {:5.1f} {:5.1f} %  "
      "{}\n",
      w.name, ag_times.least(), ag_times.typical(), reads, streams.size() - reads, plain_times.least(),
      plain_times.typical(), is_around ? " " : "*", around_times.least(), around_times.typical(), is_around ? "*" : " ",
      best, typical, w.bound);
  if (std::max(best, typical) < floor_of(w.name)) {
    ++below;
    fmt::print("{:24} is below {} % of the stream\n", w.name, floor_of(w.name));
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  auto engine = runtime::Engine::create();
  if (!engine) return 1;
  Pair pair;
  int below = 0;
  for (const Work& w : works()) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::string_view(w.name).find(argv[i]) != std::string_view::npos;
    if (wanted && !measure(**engine, pair, w, below)) return 1;
  }
  return below > 0;
}
