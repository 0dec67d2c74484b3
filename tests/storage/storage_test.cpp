// Storage types: every code, every rounding, against a search of the nearest code; kernels against the host's
// conversions; moved, written and read.
#include <cmath>

#include <catch2/catch.hpp>

#include "frontend/json/import.hpp"
#include "ir/base/small_float.hpp"
#include "ir/builder.hpp"
#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

constexpr DType small_types[] = {DType::f8e4m3fn, DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz, DType::f4e2m1};
constexpr DType all_types[] = {DType::f8e4m3fn, DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz, DType::f8e8m0,
                               DType::f4e2m1,   DType::i4,         DType::u4,     DType::i2,         DType::u2};

int codes(DType t) { return t == DType::f4e2m1 ? 16 : 256; }

/// The finite value nearest to v, of two the one with an even code; what is beyond the largest is the largest.
double nearest(DType t, double v) {
  double largest = decode_float(t, static_cast<std::uint8_t>(small_float(t)->largest));
  v = std::clamp(v, -largest, largest);
  double best = NAN, distance = INFINITY;
  int best_code = 0;
  for (int c = 0; c < codes(t); ++c) {
    double x = decode_float(t, static_cast<std::uint8_t>(c));
    if (!std::isfinite(x) || (x != 0 && std::signbit(x) != std::signbit(v))) continue;
    double d = std::abs(x - v);
    if (d < distance || (d == distance && c % 2 == 0 && best_code % 2 != 0)) best = x, distance = d, best_code = c;
  }
  return best;
}

std::vector<double> special() {
  std::vector<double> out = {0.0,  -0.0, 1,    6,   7,     57344,  61440, 1e-7, 1e6,
                             -1e9, 0.25, 0.75, 2.5, 1e300, 5e-324, 448,   464};
  for (DType t : small_types)
    for (int c = 0; c + 1 < codes(t) / 2; ++c) {
      double a = decode_float(t, static_cast<std::uint8_t>(c)), b = decode_float(t, static_cast<std::uint8_t>(c + 1));
      if (!std::isfinite(a) || !std::isfinite(b)) continue;
      double tie = (a + b) / 2;  // and next to it, where a first rounding to f32 would end on the tie
      for (double v : {a, tie, tie * (1 + 1e-12), tie * (1 - 1e-12)}) out.push_back(v), out.push_back(-v);
    }
  return out;
}

bool same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

/// x converted by a graph, in the interpreter or compiled.
Array converted(const Array& x, DType to, Attrs attrs, bool compile) {
  Graph g;
  GraphBuilder b(g);
  attrs.set("to", to);
  ValueId v = b.input("x", {x.dtype(), Dims(x.shape().begin(), x.shape().end())});
  g.outputs = {{"y", b.add_op("convert", {v}, attrs), {}}};
  std::vector<Array> in{x};
  if (!compile) {
    auto out = interpret(g, in);
    REQUIRE(out);
    return (*out)[0];
  }
  static auto engine = runtime::Engine::create();
  REQUIRE(engine);
  auto compiled = (*engine)->compile(g, {});
  if (!compiled) FAIL(messages(compiled.error()));
  runtime::ExecContext context(compiled->executable);
  auto out = runtime::run(context, in);
  if (!out) FAIL(messages(out.error()));
  return (*out)[0];
}

}  // namespace

TEST_CASE("values of known codes") {
  CHECK(decode_float(DType::f8e4m3fn, 0x7e) == 448);
  CHECK(decode_float(DType::f8e4m3fn, 0x01) == std::ldexp(1.0, -9));
  CHECK(std::isnan(decode_float(DType::f8e4m3fn, 0x7f)));
  CHECK(decode_float(DType::f8e4m3fnuz, 0x7f) == 240);
  CHECK(std::isnan(decode_float(DType::f8e4m3fnuz, 0x80)));
  CHECK(decode_float(DType::f8e5m2, 0x7b) == 57344);
  CHECK(std::isinf(decode_float(DType::f8e5m2, 0xfc)));
  CHECK(decode_float(DType::f8e5m2fnuz, 0x7f) == 57344);
  CHECK(decode_float(DType::f4e2m1, 0xf) == -6);
  CHECK(decode_float(DType::f8e8m0, 127) == 1);
  CHECK(decode_int(DType::i4, 0xf8) == -8);
  CHECK(encode_int(DType::i4, 9) == 0xf9);
  CHECK(encode_int(DType::u2, -1) == 3);
}

TEST_CASE("codes come back; numbers round to the nearest code") {
  for (DType t : small_types) {
    CAPTURE(dtype_name(t));
    for (int c = 0; c < codes(t); ++c) {
      double v = decode_float(t, static_cast<std::uint8_t>(c));
      if (!std::isnan(v))
        CHECK(encode_float(t, v, false) == c);
      else
        CHECK(std::isnan(decode_float(t, encode_float(t, v, false))));
    }
    for (double v : special()) {
      double want = nearest(t, v), got = decode_float(t, encode_float(t, v));
      if (v == 0 || want == 0)
        CHECK(got == 0);
      else
        CHECK(got == want);
    }
  }
}

TEST_CASE("what is too large saturates, or becomes infinite or NaN") {
  struct Row {
    DType t;
    double largest, beyond;
  };
  for (Row r : {Row{DType::f8e4m3fn, 448, NAN},
                {DType::f8e4m3fnuz, 240, NAN},
                {DType::f8e5m2, 57344, INFINITY},
                {DType::f8e5m2fnuz, 57344, NAN},
                {DType::f4e2m1, 6, 6}})
    for (double v : {1e6, static_cast<double>(INFINITY)}) {
      CAPTURE(dtype_name(r.t), v);
      CHECK(decode_float(r.t, encode_float(r.t, v)) == r.largest);
      CHECK(decode_float(r.t, encode_float(r.t, -v)) == -r.largest);
      CHECK(same(decode_float(r.t, encode_float(r.t, v, false)), r.beyond));
    }
  using R = ScaleRounding;
  auto scale = [](double v, bool saturate, R how) { return encode_float(DType::f8e8m0, v, saturate, how); };
  CHECK(scale(1.1, true, R::up) == 128);
  CHECK(scale(1.1, true, R::down) == 127);
  CHECK(scale(1.5, true, R::nearest) == 128);
  CHECK(scale(1.4, true, R::nearest) == 127);
  CHECK(scale(0, true, R::up) == 0);
  CHECK(scale(INFINITY, true, R::up) == 0xfe);
  CHECK(scale(INFINITY, false, R::up) == 0xff);
  CHECK(scale(std::ldexp(1.9, 127), true, R::up) == 0xfe);
  CHECK(scale(std::ldexp(1.9, 127), false, R::up) == 0xff);
}

TEST_CASE("kernels convert as the host does") {
  std::vector<double> values = special();
  Random random("storage");
  for (int i = 0; i < 2000; ++i)
    values.push_back(std::ldexp(random.uniform(-2, 2), static_cast<int>(random.bits() % 60) - 40));
  for (double v : {double(NAN), double(INFINITY), -double(INFINITY), 9e18, -9e18}) values.push_back(v);
  for (DType to : all_types)
    for (DType from :
         {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i8, DType::u8, DType::boolean})
      for (bool saturate : {true, false}) {
        const char* modes[] = {"up", "down", "nearest"};
        for (int mode = 0; mode < (to == DType::f8e8m0 ? 3 : 1); ++mode) {
          Array x = Array::of<double>(from, {static_cast<std::int64_t>(values.size())}, values);
          Attrs attrs{{"saturate", std::int64_t{saturate}}, {"round_mode", std::string(modes[mode])}};
          Array byte = converted(x, to, attrs, false);
          CAPTURE(dtype_name(from), dtype_name(to), saturate, modes[mode]);
          for (std::int64_t i = 0; i < x.elems(); ++i) {
            std::uint8_t got = byte.as<std::uint8_t>()[static_cast<std::size_t>(i)], want = 0;
            double v = x.get_double(i);
            if (to == DType::f8e8m0 && v < 0) continue;  // ONNX leaves them open
            if (is_storage_float(to)) {
              want = encode_float(to, v, saturate, static_cast<ScaleRounding>(mode));
              if (!same(decode_float(to, got), decode_float(to, want)))
                FAIL_CHECK(v << ": " << +got << " not " << +want);
            } else {
              Array one(DType::i32, {});
              is_float(from) ? one.set_double(0, v) : one.set_int(0, x.get_int(i));
              want = encode_int(to, one.get_int(0));
              if (got != want) FAIL_CHECK(v << ": " << +got << " not " << +want);
            }
          }
          if (saturate && (from == DType::f32 || from == DType::f64 || from == DType::i64))
            CHECK(converted(x, to, attrs, true).same_bits(byte));
        }
      }
}

TEST_CASE("every code converts to every type") {
  for (DType from : all_types) {
    Array x(from, {256});
    for (int c = 0; c < 256; ++c)
      x.as_mutable<std::uint8_t>()[static_cast<std::size_t>(c)] =
          is_storage_float(from) ? static_cast<std::uint8_t>(c % codes(from)) : encode_int(from, c);
    for (DType to : {DType::f64, DType::f32, DType::f16, DType::i32, DType::i8, DType::boolean}) {
      CAPTURE(dtype_name(from), dtype_name(to));
      Array y = converted(x, to, {}, false);
      for (std::int64_t i = 0; i < 256; ++i) {
        Array want(to, {});
        to == DType::boolean || is_float(to) ? want.set_double(0, x.get_double(i))
                                             : want.set_double(0, std::trunc(x.get_double(i)));
        bool ok = is_float(to) ? same(y.get_double(i), want.get_double(0)) : y.get_int(i) == want.get_int(0);
        if (!ok) FAIL_CHECK("code " << i << ": " << y.get_double(i) << " not " << want.get_double(0));
      }
      CHECK(converted(x, to, {}, true).same_bits(y));
    }
  }
}

TEST_CASE("elements of storage types are moved, printed and read") {
  for (DType t : all_types) {
    CAPTURE(dtype_name(t));
    Graph g;
    GraphBuilder b(g);
    Array a(t, {2, 3});
    for (std::int64_t i = 0; i < 6; ++i) a.set_double(i, static_cast<double>(i % 2 + (i > 3)));
    ValueId x = b.input("x", {t, {2, 3}}), c = b.constant(make_literal(a)),
            flag = b.input("f", {DType::boolean, {2, 3}});
    ValueId y = b.select(flag, x, c);
    y = b.transpose(y, {1, 0});
    y = b.concat({y, y}, 1);
    y = b.slice(y, {0, 1}, {3, 4});
    y = b.broadcast_in_dim(y, {2, 3, 3}, {1, 2});
    g.outputs = {{"y", b.reshape(y, {18}), {}}};
    REQUIRE(verify(g));
    std::string text = print(g);
    auto back = parse_graph(text);
    if (!back) FAIL(text << messages(back.error()));
    CHECK(print(*back) == text);
    Array flags(DType::boolean, {2, 3});
    for (std::int64_t i = 0; i < 6; i += 2) flags.set_int(i, 1);
    Array in(t, {2, 3});
    for (std::int64_t i = 0; i < 6; ++i) in.set_double(i, static_cast<double>(i / 4 + 1));
    auto want = interpret(*back, std::vector<Array>{in, flags});
    REQUIRE(want);
    CHECK((*want)[0].dtype() == t);
    auto engine = runtime::Engine::create();
    auto compiled = (*engine)->compile(g, {});
    if (!compiled) FAIL(messages(compiled.error()));
    runtime::ExecContext context(compiled->executable);
    auto got = runtime::run(context, std::vector<Array>{in, flags});
    if (!got) FAIL(messages(got.error()));
    CHECK((*got)[0].same_bits((*want)[0]));
  }
}
