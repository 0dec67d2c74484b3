// Every op of the table, every sample: compiled code against the reference interpreter, at -O2 and -O0, for this
// machine and for AVX2. Maps and data movement bit for bit; sums within a few roundings.
#include <cmath>

#include <catch2/catch.hpp>

#include "runtime/engine.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

/// sum_to_shape walks its operand like a view, but it sums.
bool exact(const OpInfo& op) {
  return op.lower_class == LowerClass::map || (op.lower_class == LowerClass::index && op.name != "sum_to_shape");
}

double tolerance(DType t) {
  switch (t) {
    case DType::f64: return 1e-13;
    case DType::f32: return 3e-6;
    case DType::f16: return 4e-3;
    case DType::bf16: return 3e-2;
    default: return 0;
  }
}

/// Empty if equal as the op promises.
std::string difference(const Array& got, const Array& want, bool bits) {
  if (got.dtype() != want.dtype() || got.shape() != want.shape()) return "another type";
  double scale = 0;
  for (std::int64_t i = 0; i < want.elems(); ++i)
    if (double w = std::abs(want.get_double(i)); std::isfinite(w)) scale = std::max(scale, w);
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double g = got.get_double(i), w = want.get_double(i);
    if (std::isnan(g) && std::isnan(w)) continue;
    bool same = g == w && std::signbit(g) == std::signbit(w);
    if (!is_float(want.dtype())) same = got.get_int(i) == want.get_int(i);
    if (same || (!bits && std::abs(g - w) <= tolerance(want.dtype()) * scale)) continue;
    return "element " + std::to_string(i) + ": " + std::to_string(g) + " instead of " + std::to_string(w);
  }
  return {};
}

struct Tally {
  int compiled = 0, refused = 0;
};

void check(runtime::Engine& engine, const Case& c, const std::string& target, int level, Tally& tally) {
  auto built = build(c);
  REQUIRE(built);
  auto want = interpret(built->graph, built->values);
  runtime::EngineOptions options{.target = target};
  options.pipeline.opt_level = level;
  auto compiled = engine.compile(built->graph, options);
  if (!compiled) {
    INFO(c.label << "\n" << messages(compiled.error()));
    for (const Diag& d : compiled.error()) CHECK((code_name(d.code) == "AG4010" || code_name(d.code) == "AG4011"));
    ++tally.refused;
    return;
  }
  ++tally.compiled;
  runtime::ExecContext context(compiled->executable);
  auto got = runtime::run(context, built->values);
  if (got.has_value() != want.has_value())
    FAIL_CHECK(c.label << " " << target << " -O" << level << ": "
                       << (got ? messages(want.error()) : messages(got.error())));
  if (!got || !want) return;
  for (std::size_t i = 0; i < want->size(); ++i)
    if (std::string d = difference((*got)[i], (*want)[i], exact(*c.op)); !d.empty())
      FAIL_CHECK(c.label << " " << target << " -O" << level << ": " << d);
}

}  // namespace

TEST_CASE("compiled ops agree with the interpreter") {
  auto engine = runtime::Engine::create();
  REQUIRE(engine);
  Tally tally;
  std::size_t n = 0;
  for (const Case& c : all_cases()) {
    check(**engine, c, "cpu:native", 2, tally);
    if (n % 3 == 0) check(**engine, c, "cpu:x86-64-v3", 2, tally);
    if (n % 5 == 0) check(**engine, c, "cpu:native", 0, tally);
    ++n;
  }
  INFO(tally.refused << " refused");
  CHECK(tally.compiled > 20 * tally.refused);
}
