// Types, arrays, attributes, random numbers, the builder.
#include <catch2/catch.hpp>
#include <cmath>

#include "ir/op.hpp"
#include "ir/random.hpp"

using namespace ag;

TEST_CASE("types print and parse") {
  for (const char* text :
       {"f32[]", "f32[N,4]", "i64[2*N + 1,floordiv(N, 2)]", "bool[0]", "bf16[\"a,b]\",3]", "u8[1,2,3]"}) {
    auto t = Type::parse(text);
    REQUIRE(t);
    CHECK(t->str() == text);
  }
  for (const char* text :
       {"", "f32", "f33[]", "f32[", "f32[]]", "f32[,]", "f32[-1]", "f32[1,]", "[]", "f32[N", "f32[(N]"})
    CHECK_FALSE(Type::parse(text));
}

TEST_CASE("broadcasting of shapes") {
  Dim n = Dim::symbol("N"), m = Dim::symbol("M");
  CHECK(broadcast_shapes({n, 1, 3}, {4, 3}) == Dims{n, 4, 3});
  CHECK(broadcast_shapes({n}, {m}) == Dims{Dim::bcast(n, m)});
  CHECK(broadcast_shapes({n}, {5}) == Dims{5});
  CHECK(broadcast_shapes({}, {n, 1}) == Dims{n, 1});
  CHECK_FALSE(broadcast_shapes({2}, {3}));
  CHECK(normalize_axis(-1, 3) == 2);
  CHECK_FALSE(normalize_axis(3, 3));
  CHECK_FALSE(normalize_axis(0, 0));
}

TEST_CASE("arrays convert as the semantics table says") {
  Array a(DType::i8, {6});
  double in[] = {1.9, -1.9, 1000, -1000, NAN, 127};
  for (int i = 0; i < 6; ++i) a.set_double(i, in[i]);
  CHECK(format_values(a) == "[1, -1, 127, -128, 0, 127]");
  Array u(DType::u64, {2});
  u.set_double(0, 1e30);
  u.set_double(1, -1);
  CHECK(format_values(u) == "[18446744073709551615, 0]");
  Array h(DType::bf16, {3});
  h.set_int(0, (std::int64_t{1} << 60) + (std::int64_t{1} << 52) + 1);  // just above a tie: one rounding goes up
  h.set_int(1, (std::int64_t{1} << 60) + (std::int64_t{1} << 52));      // a tie: to even
  h.set_int(2, -3);
  CHECK(h.get_int(0) == (std::int64_t{1} << 60) + (std::int64_t{1} << 53));
  CHECK(h.get_int(1) == (std::int64_t{1} << 60));
  CHECK(h.get_double(2) == -3);
  CHECK(Array::scalar(DType::f64, 1e300).get_int(0) == std::numeric_limits<std::int64_t>::max());
  CHECK_FALSE(Array::byte_size(DType::f32, std::vector<std::int64_t>{1LL << 40, 1LL << 40}));
  CHECK_FALSE(Array::byte_size(DType::f32, std::vector<std::int64_t>{-1}));
  CHECK(Array::byte_size(DType::f32, std::vector<std::int64_t>{0, 5}) == 0);
}

TEST_CASE("values print nested and shortest") {
  double v[] = {0, 4, 8.5, -0.0};
  CHECK(format_values(Array::of<double>(DType::f32, {4}, v)) == "[0, 4, 8.5, -0]");
  CHECK(format_values(Array::of<double>(DType::f32, {2, 2}, v)) == "[[0, 4], [8.5, -0]]");
  CHECK(format_values(Array::of<double>(DType::boolean, {4}, v)) == "[false, true, true, false]");
  CHECK(format_values(Array(DType::f32, {2, 0})) == "[[]]");
  CHECK(format_values(Array::scalar(DType::f32, 0.1)) == "0.1");
  CHECK(format_values(Array::scalar(DType::f16, 0.1)) == "0.1");
  CHECK(format_values(Array::scalar(DType::bf16, 65504)) == "65500");
  CHECK(format_values(Array::scalar(DType::f64, -INFINITY)) == "-inf");
  CHECK(format_values(Array::scalar(DType::f64, NAN)) == "nan");
  CHECK(format_values(Array::of<double>(DType::f32, {4}, v), 3) == "norm 9.394147114027968, min 0, max 8.5");
}

TEST_CASE("copies of an array share bytes until one is written") {
  Array a = Array::scalar(DType::f32, 1), b = a;
  CHECK(a.bytes().data() == b.bytes().data());
  b.set_double(0, 2);
  CHECK(a.get_double(0) == 1);
  CHECK(b.get_double(0) == 2);
}

TEST_CASE("Philox gives the published vectors") {
  // kat_vectors of Random123: philox4x32-10.
  CHECK(philox4x32(0, 0) == std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
}

TEST_CASE("random literals: moments, and every element on its own") {
  Array n(DType::f64, {100001}), u(DType::f64, {100001}), head(DType::f64, {3});
  fill_random(n, Distribution::normal, 2, 7);
  fill_random(head, Distribution::normal, 2, 7);
  fill_random(u, Distribution::uniform, 3, 7);
  double mean = 0, square = 0, low = 0, high = 0;
  for (std::int64_t i = 0; i < n.elems(); ++i) {
    mean += n.get_double(i) / static_cast<double>(n.elems());
    square += n.get_double(i) * n.get_double(i) / static_cast<double>(n.elems());
    low = std::min(low, u.get_double(i));
    high = std::max(high, u.get_double(i));
  }
  CHECK(std::abs(mean) < 0.03);
  CHECK(std::abs(square - 4) < 0.08);
  CHECK(low > -3);
  CHECK(low < -2.999);
  CHECK(high < 3);
  CHECK(high > 2.999);
  for (int i = 0; i < 3; ++i) CHECK(head.get_double(i) == n.get_double(i));
  // Against libm: the own log, sin and cos are right to a few units in the last place.
  auto w = philox4x32(7, 0);
  double r = std::sqrt(-2 * std::log((w[0] + 0.5) * 0x1p-32)), t = 2 * M_PI * ((w[1] + 0.5) * 0x1p-32);
  CHECK(n.get_double(0) == Approx(2 * r * std::cos(t)).margin(1e-13));
  CHECK(n.get_double(1) == Approx(2 * r * std::sin(t)).margin(1e-13));
}

TEST_CASE("attributes are a sorted map compared by bits") {
  Attrs a{{"b", std::int64_t{1}}, {"a", 2.0}}, b{{"a", 2.0}, {"b", std::int64_t{1}}};
  CHECK(equal(a, b));
  CHECK(hash(a) == hash(b));
  b.set("a", -0.0);
  a.set("a", 0.0);
  CHECK_FALSE(equal(a, b));
  a.set("a", std::nan(""));
  b.set("a", std::nan(""));
  CHECK(equal(a, b));
  a.erase("a");
  CHECK(a.find("a") == nullptr);
  Attrs x{{"v", make_splat(DType::f32, {3}, 1)}},
      y{{"v", make_literal(Array::of<int>(DType::f32, {3}, std::vector<int>{1, 1, 1}))}};
  CHECK(equal(x, y));
  CHECK(hash(x) == hash(y));
  CHECK((*x.get<LiteralPtr>("v"))->materialize().same_bits(Array::of<int>(DType::f32, {3}, std::vector<int>{1, 1, 1})));
}

TEST_CASE("the builder checks and interns") {
  Graph g;
  GraphBuilder b(g, true);
  ValueId x = b.input("x", *Type::parse("f32[N]"));
  CHECK(g.find("x") == x);
  CHECK(b.scalar(DType::f32, 2) == b.scalar(DType::f32, 2));
  CHECK(b.scalar(DType::f32, 0.0) != b.scalar(DType::f32, -0.0));
  ValueId i = b.ints(std::vector<std::int64_t>{1, -1});
  REQUIRE(g.value(i).known_ints);
  CHECK(*g.value(i).known_ints == Dims{1, -1});
  auto bad = b.try_add(op("constant"), {.operands = {x}, .attrs = {{"value", make_splat(DType::f32, {2}, 1)}}});
  REQUIRE_FALSE(bad);
  CHECK(bad.error()[0].code == Code::AG1101);
  bad = b.try_add(op("constant"), {});
  REQUIRE_FALSE(bad);
  CHECK(bad.error()[0].code == Code::AG1103);
  bad = b.try_add(op("constant"), {.attrs = {{"value", 2.0}, {"vlue", 2.0}}});
  REQUIRE_FALSE(bad);
  REQUIRE(bad.error().size() == 2);
  CHECK(bad.error()[0].code == Code::AG1102);
  CHECK(bad.error()[1].code == Code::AG1104);
}
