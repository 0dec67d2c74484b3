// Every op of the table, with every sample, as an ONNX file and back: the same values.
#include <catch2/catch.hpp>

#include <map>

#include "frontend/onnx/onnx.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

/// Largest difference that the operators of ONNX allow, relative to the largest value: forms like log(x + 1) lose bits.
double tolerance(DType t) {
  return t == DType::f64 ? 1e-7 : t == DType::f32 ? 1e-4 : t == DType::f16 ? 1e-2 : t == DType::bf16 ? 5e-2 : 0;
}

std::string compare(const Array& got, const Array& want) {
  if (got.dtype() != want.dtype() || got.shape() != want.shape()) return "another type";
  double scale = 1;
  for (std::int64_t i = 0; i < want.elems(); ++i)
    if (double v = std::abs(want.get_double(i)); std::isfinite(v)) scale = std::max(scale, v);
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double g = got.get_double(i), w = want.get_double(i);
    if (g == w || (std::isnan(g) && std::isnan(w)) || std::abs(g - w) <= tolerance(want.dtype()) * scale) continue;
    return "element " + std::to_string(i) + " is " + format_element(got, i) + ", expected " + format_element(want, i);
  }
  return {};
}

std::string round_trip(const Case& c, bool& written) {
  auto built = build(c);
  if (!built) return {};  // samples that are refused are tested elsewhere
  auto want = interpret(built->graph, built->values);
  if (!want) return {};
  auto bytes = onnx::export_model(built->graph);
  written = bytes.has_value();
  if (!written) return bytes.error().front().code == Code::AG0024 ? "" : messages(bytes.error());
  auto back = onnx::import_model(*bytes, "m.onnx");
  if (!back) return "read back: " + messages(back.error());
  auto got = interpret(*back, built->values);
  if (!got) return "run: " + messages(got.error());
  for (std::size_t i = 0; i < want->size(); ++i)
    if (std::string text = compare((*got)[i], (*want)[i]); !text.empty()) return text;
  return {};
}

}  // namespace

TEST_CASE("every op that ONNX can express means the same there", "[export]") {
  std::map<std::string_view, bool> expressed;
  for (const Case& c : all_cases()) {
    if (c.op->name == "random" || std::ranges::any_of(c.op->attrs, [](auto& a) { return a.name == "ordinal"; }))
      continue;  // numbers drawn anew
    bool written = false;
    std::string text;
    try {
      text = round_trip(c, written);
    } catch (const InternalError& e) {
      text = e.message;
    }
    expressed[c.op->name] = expressed[c.op->name] || written;
    INFO(c.label);
    if (!text.empty()) FAIL_CHECK(text);
  }
  std::size_t yes = 0;
  for (auto [name, written] : expressed) yes += written;
  CHECK(yes * 10 > expressed.size() * 9);
}
