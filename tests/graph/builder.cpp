// The builder: cases left out where bits allow, movement, copies, inlining, interning; the verifier.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

#include "ir/op.hpp"

using namespace ag;

namespace {
Type type(const char* text) { return *Type::parse(text); }
Array f32s(std::vector<std::int64_t> shape, std::vector<double> v) {
  return Array::of<double>(DType::f32, std::move(shape), v);
}
Array run1(Graph& g, ValueId v, std::vector<Array> in) {
  g.outputs = {{"", v, {}}};
  auto out = interpret(g, in);
  if (!out) FAIL(out.error()[0].message);
  return (*out)[0];
}

/// A Loop that doubles the length of its operand `trips` times: a size that only the run knows.
ValueId growing(GraphBuilder& b, ValueId x, std::int64_t trips) {
  auto body = std::make_shared<Graph>();
  GraphBuilder r(*body);
  r.input("i", type("i64[]"));
  ValueId cond = r.input("c", type("bool[]")), y = r.input("x", type("f32[L]"));
  body->outputs = {{"c", cond, {}}, {"x", r.concat({y, y}, 0), {}}};
  ValueId n = b.scalar_int(DType::i64, trips);
  return b.graph().node(b.try_add(op("Loop"), {.operands = {n, {}, x}, .regions = {body}}).value()).result();
}
}  // namespace

TEST_CASE("neutral constants vanish exactly where no bit changes") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", type("f32[N]")), i = b.input("i", type("i32[N]")), s = b.input("s", type("f32[]"));
  auto c = [&](double v) { return b.scalar(DType::f32, v); };
  CHECK(b.mul(x, c(1)) == x);
  CHECK(b.mul(c(1), x) == x);
  CHECK(b.div(x, c(1)) == x);
  CHECK(b.add(x, c(-0.0)) == x);
  CHECK(b.sub(x, c(0.0)) == x);
  CHECK(b.add(x, c(0.0)) != x);   // -0 + 0 is +0
  CHECK(b.sub(x, c(-0.0)) != x);  // -0 - -0 is +0
  CHECK(b.mul(x, c(-1)) != x);
  CHECK(b.add(i, b.scalar_int(DType::i32, 0)) == i);
  CHECK(b.mul(i, b.scalar_int(DType::i32, 1)) == i);
  CHECK(b.mul(s, b.ones(type("f32[N]"))) != s);  // it broadcasts
  CHECK(b.mul(x, b.ones(type("f32[N]"))) == x);
  CHECK(b.convert(x, DType::f32) == x);
  CHECK(b.reshape(x, {Dim::symbol("N")}) == x);
  CHECK(b.transpose(x, {0}) == x);
  CHECK(b.splat_value(b.full(type("f32[2,N]"), 3)) == 3);
  CHECK_FALSE(b.splat_value(x));
  CHECK(verify(g));
}

TEST_CASE("sum_to undoes broadcasting") {
  for (auto [from, to, expect] : {std::tuple{"f32[2,3]", "f32[3]", "[3, 5, 7]"},
                                  {"f32[2,3]", "f32[2,1]", "[[3], [12]]"},
                                  {"f32[2,3]", "f32[]", "15"},
                                  {"f32[2,3]", "f32[2,3]", "[[0, 1, 2], [3, 4, 5]]"},
                                  {"f32[2,3]", "f32[1,1,3]", ""}}) {
    if (!*expect) continue;
    Graph g;
    GraphBuilder b(g);
    ValueId x = b.input("x", type(from));
    ValueId y = b.sum_to(x, type(to).shape);
    CHECK(g.type(y) == type(to));
    CHECK(format_values(run1(g, y, {f32s({2, 3}, {0, 1, 2, 3, 4, 5})})) == expect);
  }
  // A symbol that may be 1: settled at run time.
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", type("f32[N]")), y = b.input("y", type("f32[M]"));
  ValueId z = b.sum_to(b.add(x, y), g.type(y).shape);
  CHECK(g.type(z) == g.type(y));
  if (op_table().find("sum_to_shape")) {
    CHECK(format_values(run1(g, z, {f32s({3}, {1, 2, 3}), f32s({1}, {10})})) == "[36]");
    CHECK(format_values(run1(g, z, {f32s({1}, {1}), f32s({2}, {10, 20})})) == "[11, 21]");
  }
}

TEST_CASE("movement evaluates as numpy does") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", type("f32[2,3]"));
  Array a = f32s({2, 3}, {0, 1, 2, 3, 4, 5});
  CHECK(format_values(run1(g, b.transpose(x, {1, 0}), {a})) == "[[0, 3], [1, 4], [2, 5]]");
  CHECK(format_values(run1(g, b.reshape(x, {3, 2}), {a})) == "[[0, 1], [2, 3], [4, 5]]");
  CHECK(format_values(run1(g, b.slice(x, {0, 1}, {2, 3}), {a})) == "[[1, 2], [4, 5]]");
  CHECK(format_values(run1(g, b.slice(x, {0, 0}, {2, 3}, {1, 2}), {a})) == "[[0, 2], [3, 5]]");
  CHECK(format_values(run1(g, b.concat({x, x}, 0), {a})) == "[[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5]]");
  CHECK(format_values(run1(g, b.reduce("reduce_sum", x, {1}, true), {a})) == "[[3], [12]]");
  CHECK(format_values(run1(g, b.broadcast_to(b.reduce("reduce_sum", x, {0}), {2, 3}), {a})) ==
        "[[3, 5, 7], [3, 5, 7]]");
  CHECK(format_values(run1(g, b.iota(type("i64[2,2]"), 1), {a})) == "[[0, 1], [0, 1]]");
  CHECK(format_values(run1(g, b.dot_general(x, x, {1}, {1}), {a})) == "[[5, 14], [14, 50]]");
  CHECK(format_values(run1(g, b.dot_general(x, x, {1}, {1}, {0}, {0}), {a})) == "[5, 50]");
}

TEST_CASE("interning merges equal pure nodes and their places, and nothing else") {
  Graph g;
  GraphBuilder b(g, true);
  ValueId x = b.input("x", type("f32[3]")), y = b.input("y", type("f32[3]"));
  b.set_origin({make_loc("m", 1, 1)});
  ValueId a = b.add_op("add", {x, y});
  b.set_origin({make_loc("m", 2, 2), make_loc("m", 1, 1)});
  CHECK(b.add_op("add", {x, y}) == a);
  CHECK(g.def(a).locs.size() == 2);
  CHECK(b.add_op("add", {y, x}) != a);  // operand order can show in NaN bits
  CHECK(b.add_op("mul", {x, y}) != a);
  CHECK(g.node(b.try_add(op("add"), {.operands = {x, y}, .remat = 1}).value()).result() != a);
  CHECK(growing(b, x, 2) == growing(b, x, 2));  // regions are compared by what they compute
  CHECK(growing(b, x, 2) != growing(b, x, 3));
  ValueId nan1 = b.scalar(DType::f32, NAN);
  CHECK(b.scalar(DType::f32, NAN) == nan1);
  GraphBuilder plain(g);
  CHECK(plain.add_op("add", {x, y}) != a);
}

TEST_CASE("copies keep names, places and the sense of unbacked symbols") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", type("f32[3]"));
  b.set_origin({make_loc("m", 1, 1)});
  ValueId grown = growing(b, x, 2);
  g.set_name(grown, "grown");
  // The unbacked size stands in an attribute.
  ValueId wide = b.broadcast_in_dim(grown, {2, g.type(grown).shape[0]}, {1});
  g.outputs = {{"wide", wide, {}}};
  Graph to;
  GraphBuilder c(to);
  // Shift the numbers: another unbacked symbol comes first.
  ValueId first = c.input("first", type("f32[5]"));
  ValueId other = growing(c, first, 1);
  std::vector<ValueId> map(g.value_count());
  for (NodeId id : g.node_ids()) {
    NodeId fresh = c.copy(g, id, [&](ValueId v) { return map[v.index]; });
    map[g.node(id).first_result.index] = to.node(fresh).first_result;
  }
  to.outputs = {{"", map[wide.index], {}}, {"", other, {}}};
  CHECK(to.find("grown") == map[grown.index]);
  CHECK(to.loc(map[grown.index]).str() == "m:1:1");
  CHECK(to.type(map[grown.index]).shape != to.type(other).shape);
  REQUIRE(verify(to));
  auto out = interpret(to, std::vector{Array(DType::f32, {5}), f32s({3}, {1, 2, 3})});
  REQUIRE(out);
  CHECK((*out)[0].shape() == std::vector<std::int64_t>{2, 12});
  CHECK((*out)[1].shape() == std::vector<std::int64_t>{10});
}

TEST_CASE("inlining binds inputs and their symbols") {
  Graph f;
  GraphBuilder fb(f);
  ValueId x = fb.input("x", type("f32[N]"));
  f.outputs = {{"", fb.broadcast_in_dim(x, {2, Dim::symbol("N")}, {1}), {}}};
  Graph g;
  GraphBuilder b(g);
  ValueId m = b.input("m", type("f32[M]")), k = b.input("x", type("f32[4]"));
  CHECK(g.type(b.inline_graph(f, std::vector{m})[0]).str() == "f32[2,M]");
  CHECK(g.type(b.inline_graph(f, std::vector{k})[0]).str() == "f32[2,4]");
  CHECK(verify(g));
}

TEST_CASE("references into a graph outlive appends") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", type("f32[N]"));
  const Type& t = g.type(x);
  const Node& n = g.def(x);
  for (int i = 0; i < 5000; ++i) b.neg(x);
  CHECK(&t == &g.type(x));
  CHECK(&n == &g.def(x));
}

TEST_CASE("the verifier names every violation") {
  Graph g;
  GraphBuilder b(g);
  ValueId x = b.input("x", type("f32[N]"));
  ValueId y = b.neg(x), z = b.add_op("exp", {y});
  g.outputs = {{"z", z, {}}};
  REQUIRE(verify(g));
  auto codes = [&](auto damage) {
    Graph bad = g;
    damage(bad);
    Status s = verify(bad);
    std::vector<std::string> out;
    if (!s)
      for (const Diag& d : s.error()) out.push_back(code_name(d.code));
    return out;
  };
  using Codes = std::vector<std::string>;
  CHECK(codes([&](Graph& h) { h.value(y).type = type("f32[M]"); }) ==
        Codes{"AG2103", "AG2103"});  // y itself, and exp of it
  CHECK(codes([&](Graph& h) { h.value(z).type = type("f64[N]"); }) == Codes{"AG2103"});
  CHECK(codes([&](Graph& h) { h.node(NodeId(1u)).operands[0] = z; }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.node(NodeId(1u)).operands[0] = ValueId(77u); }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.node(NodeId(1u)).operands.clear(); }) == Codes{"AG1101"});
  CHECK(codes([&](Graph& h) { h.node(NodeId(1u)).attrs.set("a", 1.0); }) == Codes{"AG1102"});
  CHECK(codes([&](Graph& h) { h.node(NodeId(1u)).op = nullptr; }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.node(NodeId(1u)).first_result = z; }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.node(NodeId(1u)).grad_of = ValueId(9u); }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.value(y).name = "x"; }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.inputs.clear(); }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.inputs.push_back(y); }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.outputs.push_back({"q", ValueId(50u), {}}); }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.outputs.push_back({"z", y, {}}); }) == Codes{"AG1107"});
  CHECK(codes([&](Graph& h) { h.node(NodeId(1u)).operands.clear(), h.value(z).type = type("i8[]"); }) ==
        Codes{"AG1101", "AG2103"});
}

TEST_CASE("every op's samples build, verify, evaluate and round-trip through text") {
  std::size_t built = 0, evaluated = 0;
  for (const OpInfo& o : op_table().all()) {
    if (!o.samples) continue;
    for (const OpSample& s : o.samples()) {
      INFO(o.name);
      Graph g;
      GraphBuilder b(g);
      GraphBuilder::NodeArgs args{.operands = {}, .attrs = s.attrs};
      std::vector<Array> in;
      for (const auto& operand : s.operands) {
        if (operand.literal) {
          args.operands.push_back(b.constant(operand.literal));
          continue;
        }
        args.operands.push_back(b.input("in" + std::to_string(in.size()), operand.type));
        auto shape = static_shape(operand.type.shape);
        if (!shape) break;
        Array a(operand.type.dtype, *shape);
        for (std::int64_t i = 0; i < a.elems(); ++i)
          a.set_double(i, operand.low + (operand.high - operand.low) * static_cast<double>(i * 7 % 11) / 11);
        in.push_back(std::move(a));
      }
      auto id = b.try_add(o, std::move(args));
      if (!id) FAIL(id.error()[0].message);
      ++built;
      for (std::uint32_t r = 0; r < g.node(*id).result_count; ++r)
        g.outputs.push_back({"y" + std::to_string(r), g.node(*id).result(r), {}});
      REQUIRE(verify(g));
      auto back = parse_graph(print(g));
      if (!back) FAIL(print(g) << back.error()[0].message);
      REQUIRE(print(*back) == print(g));
      if (in.size() != g.inputs.size() || (in.size() && static_shape(g.type(g.inputs.back()).shape) == std::nullopt))
        continue;
      auto out = interpret(g, in);
      if (!out) FAIL(out.error()[0].message);
      ++evaluated;
    }
  }
  CHECK(built > 50);
  CHECK(evaluated > 50);
}
