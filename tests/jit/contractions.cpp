// Products of shapes that take every path of the schedule (tails of rows and columns, blocks of depth, packed and
// transposed panels, steps of 4 KiB, one row, sums along lanes, batches, sizes known at run time): the bits of the
// interpreter, at -O0 and -O2, at 1, 2 and 3 threads, for this machine and for AVX2.
#include <cmath>
#include <cstring>

#include <catch2/catch.hpp>

#include "codegen/backend.hpp"
#include "ir/attr.hpp"
#include "ir/builder.hpp"
#include "passes/pass.hpp"
#include "runtime/engine.hpp"

using namespace ag;

namespace {

struct Shape {
  std::int64_t m, n, k, batch = 1;
  bool left_transposed = false, right_transposed = false, weights = false, symbolic = false;
  DType dtype = DType::f32;
  bool epilogue = false;

  std::string text() const {
    std::string s = std::to_string(batch) + " x " + std::to_string(m) + "x" + std::to_string(n) + "x" +
                    std::to_string(k) + " " + std::string(dtype_name(dtype));
    for (auto [on, what] : {std::pair{left_transposed, " TN"}, std::pair{right_transposed, " NT"},
                            std::pair{weights, " weights"}, std::pair{symbolic, " symbolic"}})
      if (on) s += what;
    return s;
  }
};

Array filled(DType t, const std::vector<std::int64_t>& shape, int seed) {
  Array a(t, shape);
  for (std::int64_t i = 0; i < a.elems(); ++i) {
    double v = std::sin(0.7 * static_cast<double>(i % 1013) + seed);
    is_float(t) ? a.set_double(i, v) : a.set_int(i, static_cast<std::int64_t>(v * 9));
  }
  return a;
}

struct Product {
  Graph graph;
  std::vector<Array> inputs;
};

Product make(const Shape& s) {
  Product p;
  GraphBuilder g(p.graph);
  auto shape = [&](std::int64_t a, std::int64_t b) {
    return s.batch > 1 ? std::vector<std::int64_t>{s.batch, a, b} : std::vector<std::int64_t>{a, b};
  };
  std::vector<std::int64_t> left = s.left_transposed ? shape(s.k, s.m) : shape(s.m, s.k);
  std::vector<std::int64_t> right = s.right_transposed ? shape(s.n, s.k) : shape(s.k, s.n);
  Array x = filled(s.dtype, left, 1), y = filled(s.dtype, right, 2);
  auto dims = [&](const std::vector<std::int64_t>& sizes, std::initializer_list<const char*> names) {
    Dims out(sizes.begin(), sizes.end());
    std::size_t at = sizes.size() - 2;
    for (const char* name : names) {
      if (s.symbolic) out[at] = Dim::symbol(name);
      ++at;
    }
    return out;
  };
  Dims left_dims = s.left_transposed ? dims(left, {"K", "M"}) : dims(left, {"M", "K"});
  Dims right_dims = s.right_transposed ? dims(right, {"N", "K"}) : dims(right, {"K", "N"});
  ValueId a = g.input("x", {s.dtype, left_dims});
  p.inputs.push_back(x);
  ValueId b = s.weights ? g.constant(make_literal(y)) : g.input("y", {s.dtype, right_dims});
  if (!s.weights) p.inputs.push_back(y);
  std::int64_t at = s.batch > 1 ? 1 : 0;
  std::vector<std::int64_t> batch = s.batch > 1 ? std::vector<std::int64_t>{0} : std::vector<std::int64_t>{};
  ValueId z =
      g.dot_general(a, b, {at + (s.left_transposed ? 0 : 1)}, {at + (s.right_transposed ? 1 : 0)}, batch, batch);
  if (s.epilogue) z = g.unary("tanh", z);
  p.graph.outputs.push_back({"z", z, {}});
  return p;
}

bool same_bits(const Array& a, const Array& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes().size() == b.bytes().size() &&
         std::memcmp(a.bytes().data(), b.bytes().data(), a.bytes().size()) == 0;
}

/// The graph as the target's products read their operands and order their sums.
Graph ordered(const Graph& g, const std::string& target) {
  passes::PassContext context;
  context.target = codegen::describe_target(target).value();
  passes::PipelineOptions options;
  options.passes = {"order_sums"};
  auto out = passes::run_pipeline(g, options, context);
  REQUIRE(out);
  return std::get<Graph>(out->stage);
}

bool has_lanes(const Graph& g) {
  for (NodeId id : g.node_ids())
    if (g.node(id).attrs.get_or<std::int64_t>("lanes", 1) > 1) return true;
  return false;
}

void check(runtime::Engine& engine, const Shape& s, bool lanes = false) {
  INFO(s.text());
  Product p = make(s);
  for (const char* target : {"cpu:native", "cpu:x86-64-v3"})
    for (int level : {0, 2}) {
      const Graph graph = level == 0 ? p.graph : ordered(p.graph, target);
      CHECK(has_lanes(graph) == (lanes && level > 0));
      auto want = interpret(graph, p.inputs);
      REQUIRE(want);
      runtime::EngineOptions options{.target = target};
      options.pipeline.opt_level = level;
      auto compiled = engine.compile(p.graph, options);
      REQUIRE(compiled);
      for (int threads : {1, 2, 3}) {
        if (level == 0 && threads > 1) continue;
        INFO(target << " -O" << level << ", " << threads << " threads");
        runtime::ExecContext context(compiled->executable, {.threads = threads});
        auto got = runtime::run(context, p.inputs);
        REQUIRE(got);
        CHECK(same_bits((*got)[0], (*want)[0]));
      }
    }
}

}  // namespace

TEST_CASE("products have the interpreter's bits at every shape") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  std::vector<Shape> shapes;
  for (auto [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{1, 2, 7},
                                                                 {2, 3, 1},
                                                                 {6, 64, 9},
                                                                 {7, 65, 33},
                                                                 {13, 48, 20},
                                                                 {31, 130, 17},
                                                                 {64, 64, 64},
                                                                 {96, 96, 96},
                                                                 {5, 17, 300},
                                                                 {1, 200, 70},
                                                                 {3, 129, 40},
                                                                 {200, 10, 12},
                                                                 {66, 2, 50},
                                                                 {97, 31, 3}})
    for (int layout = 0; layout < 4; ++layout) {
      Shape s{m, n, k};
      s.left_transposed = layout & 1, s.right_transposed = layout & 2;
      shapes.push_back(s);
    }
  for (const Shape& s : shapes) check(**engine, s);
}

TEST_CASE("sums along lanes of a few rows or columns have the bits of their order") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  for (auto [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {1, 300, 301}, {1, 16, 5000}, {2, 257, 256}, {3, 130, 520}, {7, 65, 1030}, {10, 259, 300}, {32, 256, 263}})
    for (DType t : {DType::f32, DType::f64}) {
      Shape s{m, n, k};
      s.right_transposed = true, s.dtype = t, s.epilogue = m == 3;
      check(**engine, s, true);
    }
  for (auto [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{300, 2, 301}, {130, 9, 520}, {65, 5, 1030}})
    for (int kind = 0; kind < 4; ++kind) {
      Shape s{m, n, k};
      s.right_transposed = kind & 1, s.dtype = kind & 2 ? DType::f64 : DType::f32, s.epilogue = n == 9;
      check(**engine, s, true);
    }
  for (bool in_order : {true, false}) {  // too small; terms of the left side far apart
    Shape s{3, in_order ? 100 : 300, 300};
    s.right_transposed = true, s.left_transposed = !in_order;
    check(**engine, s);
  }
}

TEST_CASE("products of every element type have the interpreter's bits") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  for (DType t : {DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::i8})
    for (bool turned : {false, true}) {
      Shape s{35, 70, 41};
      s.dtype = t, s.left_transposed = turned, s.right_transposed = turned;
      check(**engine, s);
    }
}

TEST_CASE("blocks of depth and packed panels keep the bits of a product") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  Shape deep{20, 70, 5000}, deep_turned{40, 70, 4999}, steps{60, 1024, 200}, rows{520, 260, 300};
  deep_turned.right_transposed = true;
  rows.left_transposed = true;  // rows 2080 bytes apart
  Shape rows_collide{1024, 256, 300};
  rows_collide.left_transposed = true;
  Shape both{1024, 256, 290};
  both.left_transposed = both.right_transposed = true;
  for (const Shape& s : {deep, deep_turned, steps, rows, rows_collide, both}) check(**engine, s);
}

TEST_CASE("batches of products, constant operands and epilogues keep the bits") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  for (bool turned : {false, true}) {
    Shape heads{40, 37, 24, 5};
    heads.right_transposed = turned;
    check(**engine, heads);
    Shape weights{33, 100, 60};
    weights.weights = true, weights.right_transposed = turned;
    check(**engine, weights);
    Shape one{1, 300, 75};
    one.weights = true, one.right_transposed = turned;
    check(**engine, one);
  }
  Shape epilogue{50, 90, 30};
  epilogue.epilogue = true;
  check(**engine, epilogue);
}

TEST_CASE("sums that wait for a long epilogue keep the bits") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  Shape tails{50, 90, 90}, row{1, 300, 75}, tasks{523, 260, 70}, deep{20, 70, 5000}, batches{40, 37, 80, 5}, half, wide;
  half = wide = tails;
  half.dtype = DType::bf16, wide.dtype = DType::f64;
  Shape packed = tasks, known{101, 65, 200}, constant{70, 130, 100};
  packed.right_transposed = packed.left_transposed = true;
  known.symbolic = true;
  constant.weights = true;
  for (Shape s : {tails, row, tasks, deep, batches, half, wide, packed, known, constant}) {
    s.epilogue = true;
    check(**engine, s);
  }
}

TEST_CASE("products of sizes that the run knows have the interpreter's bits") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  for (auto [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{1, 1, 1}, {10, 70, 33}, {101, 65, 2000}})
    for (int layout = 0; layout < 4; ++layout) {
      Shape s{m, n, k};
      s.left_transposed = layout & 1, s.right_transposed = layout & 2, s.symbolic = true;
      check(**engine, s);
    }
}

TEST_CASE("a product of rows that the run counts has the bits of the same rows known") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  auto product = [](DType t, const Dim& rows, std::int64_t n, std::int64_t k, bool turned, bool epilogue) {
    Graph graph;
    GraphBuilder g(graph);
    ValueId x = g.input("x", {t, {rows, Dim(k)}}), w = g.input("w", {t, turned ? Dims{n, k} : Dims{k, n}});
    ValueId b = g.input("b", {t, {Dim(n)}});
    ValueId z = g.add_op("add", {g.dot_general(x, w, {1}, {turned ? 1 : 0}, {}, {}), b});
    graph.outputs.push_back({"z", epilogue ? g.unary("tanh", z) : z, {}});
    return graph;
  };
  struct Case {
    std::int64_t n, k;
    bool turned, epilogue = false;
    DType dtype = DType::f32;
  };
  // Sums along lanes up to 32 rows, in order beyond; panels that only many rows copy; both with tails.
  for (const Case& c : {Case{300, 301, true}, Case{1029, 258, true, true}, Case{130, 520, true, false, DType::f64},
                        Case{20, 300, true}, Case{512, 600, false}, Case{1000, 512, false, true}})
    for (const char* target : {"cpu:native", "cpu:x86-64-v3"}) {
      INFO(c.n << " x " << c.k << (c.turned ? " NT " : " NN ") << target);
      const Graph counted = product(c.dtype, Dim::symbol("M"), c.n, c.k, c.turned, c.epilogue);
      auto compiled = engine->get()->compile(counted, {.target = target});
      REQUIRE(compiled);
      runtime::ExecContext one(compiled->executable, {.threads = 1}), two(compiled->executable, {.threads = 2});
      for (std::int64_t rows : {0, 1, 2, 3, 4, 7, 15, 23, 32, 33, 41, 255, 256, 400}) {
        INFO(rows << " rows");
        const std::vector<Array> in{filled(c.dtype, {rows, c.k}, 1),
                                    filled(c.dtype, c.turned ? std::vector{c.n, c.k} : std::vector{c.k, c.n}, 2),
                                    filled(c.dtype, {c.n}, 3)};
        auto want = interpret(ordered(counted, target), in);
        REQUIRE(want);
        for (runtime::ExecContext* context : {&one, &two}) {
          auto got = runtime::run(*context, in);
          REQUIRE(got);
          CHECK(same_bits((*got)[0], (*want)[0]));
        }
        if (rows < 1 || rows > 41) continue;  // beyond, the tile of known rows sums in the same order anyway
        auto known = interpret(ordered(product(c.dtype, rows, c.n, c.k, c.turned, c.epilogue), target), in);
        REQUIRE(known);
        CHECK(same_bits((*known)[0], (*want)[0]));
      }
    }
}

TEST_CASE("a product without rows is compiled") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  Graph graph;
  GraphBuilder g(graph);
  ValueId x = g.input("x", {DType::f32, {Dim(0), Dim(70), Dim(64)}}), w = g.input("w", {DType::f32, {Dim(64), Dim(2)}});
  graph.outputs.push_back({"z", g.dot_general(g.transpose(x, {1, 0, 2}), w, {2}, {0}, {}, {}), {}});
  auto compiled = engine->get()->compile(graph);
  REQUIRE(compiled);
  runtime::ExecContext context(compiled->executable);
  const std::vector<Array> in{filled(DType::f32, {0, 70, 64}, 1), filled(DType::f32, {64, 2}, 2)};
  auto got = runtime::run(context, in);
  REQUIRE(got);
  CHECK((*got)[0].shape() == std::vector<std::int64_t>{70, 0, 2});
}
