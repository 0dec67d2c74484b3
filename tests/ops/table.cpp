// Machine-made tests over the whole op table: rules infer, values evaluate, specs are sound.
#include <catch2/catch.hpp>
#include <set>

#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

TEST_CASE("every op has samples, or a reason to have none") {
  std::set<std::string_view> without = {"input",  "constant", "If",    "Loop",          "Scan",
                                        "Scan_8", "Gradient", "sizes", "FlexAttention", "ImageDecoder"};
  for (const OpInfo& op : op_table().all()) {
    CAPTURE(op.name);
    CHECK((op.samples || op.lower_class == LowerClass::map || without.contains(op.name)));
  }
}

TEST_CASE("specs are sound") {
  for (const OpInfo& op : op_table().all()) {
    CAPTURE(op.name);
    CHECK(op.infer);
    CHECK(!op.summary.empty());
    CHECK(op.since <= op.until);
    if (op.tier == Tier::composite) {
      CHECK(op.decompose);
      bool claimed = op.lower_class == LowerClass::window || op.lower_class == LowerClass::sort;  // by kernels
      CHECK((op.lower_class == LowerClass::none || claimed));
    } else {
      CHECK(op.lower_class != LowerClass::none);
      CHECK((op.eval || op.scalar || op.name == "input"));
      if (op.lower_class == LowerClass::map) CHECK(op.scalar);
      if (op.lower_class == LowerClass::index) CHECK(op.element);
      if (op.lower_class == LowerClass::reduce) CHECK(op.reduce);
      if (op.lower_class == LowerClass::contraction) CHECK(op.contraction);
      // A derivative is stated in one way, or it is said that there is none.
      int rules = (op.partials != nullptr) + (op.transpose != nullptr) + (op.vjp != nullptr) + op.zero_gradient +
                  !op.no_gradient.empty();
      CHECK((rules == 1 || (rules == 0 && !op.regions.empty())));  // regions are differentiated themselves
      if (op.transpose) CHECK((op.linearity != Linearity::none && op.linear_in != 0));
      if (op.vjp) CHECK(op.jvp);
    }
    for (std::size_t i = 0; i + 1 < op.operands.size(); ++i) CHECK(!op.operands[i].variadic);
    for (const AttrSpec& a : op.attrs)
      if (a.fallback) CHECK(kind_of(*a.fallback) == a.kind);
  }
}

TEST_CASE("no two ops claim one ONNX spelling in one opset") {
  const auto& all = op_table().all();
  for (std::size_t i = 0; i < all.size(); ++i)
    for (std::size_t k = i + 1; k < all.size(); ++k) {
      if (all[i].onnx.empty() || all[i].onnx != all[k].onnx || all[i].domain != all[k].domain) continue;
      CAPTURE(all[i].name, all[k].name);
      CHECK((all[i].until < all[k].since || all[k].until < all[i].since));
    }
}

TEST_CASE("every sample is inferred, verified and evaluated") {
  for (const Case& c : all_cases()) {
    CAPTURE(c.label);
    auto built = build(c);
    if (!built) FAIL(messages(built.error()));
    auto sound = verify(built->graph);
    if (!sound) FAIL(messages(sound.error()));
    auto out = interpret(built->graph, built->values);
    if (!out) FAIL(messages(out.error()));
    for (std::size_t r = 0; r < out->size(); ++r) {
      const Type& t = built->graph.type(built->graph.outputs[r].value);
      CHECK((*out)[r].dtype() == t.dtype);
      if (is_static(t))
        CHECK((*out)[r].shape() == sizes(t));
      else
        CHECK((*out)[r].shape().size() == t.shape.size());
    }
  }
}

TEST_CASE("what is known of an integer result at compile time is what is computed") {
  std::size_t checked = 0;
  for (const Case& c : all_cases()) {
    auto built = build(c);
    REQUIRE(built);
    const Value& v = built->graph.value(built->graph.node(built->node).result());
    if (!v.known_ints) continue;
    CAPTURE(c.label);
    auto out = interpret(built->graph, built->values);
    REQUIRE(out);
    REQUIRE(static_cast<std::int64_t>(v.known_ints->size()) == (*out)[0].elems());
    for (std::int64_t i = 0; i < (*out)[0].elems(); ++i)
      CHECK((*v.known_ints)[static_cast<std::size_t>(i)].is((*out)[0].get_int(i)));
    ++checked;
  }
  CHECK(checked >= 8);
}
