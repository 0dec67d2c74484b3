// Every sample again with symbols for sizes: what the rules accept computes the same values.
#include <catch2/catch.hpp>
#include <map>

#include "passes/autodiff.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;

namespace {

/// Equal sizes become one symbol; 0 and 1 stay, they mean something to broadcasting.
Case with_symbols(Case c) {
  for (auto& o : c.sample.operands) {
    if (o.literal) continue;
    for (Dim& d : o.type.shape)
      if (d.value() > 1) d = Dim::symbol("S" + d.str());
  }
  return c;
}

bool same(const Array& a, const Array& b) { return a.dtype() == b.dtype() && a.shape() == b.shape() && a.same_bits(b); }

}  // namespace

TEST_CASE("symbolic sizes give the values of constant ones") {
  std::size_t accepted = 0, all = 0;
  std::map<std::string, int> refused;
  for (const Case& c : all_cases()) {
    auto fixed = build(c);
    REQUIRE(fixed);
    ++all;
    INFO(c.label);
    // Values are those of the constant case: build() draws them from the label and the concrete type.
    Case symbolic = with_symbols(c);
    Graph g;
    GraphBuilder b(g);
    GraphBuilder::NodeArgs args;
    for (const auto& o : symbolic.sample.operands)
      args.operands.push_back(o.literal ? b.constant(o.literal)
                                        : b.input("x" + std::to_string(g.inputs.size()), o.type));
    args.attrs = symbolic.sample.attrs;
    auto id = b.try_add(*c.op, args);
    if (!id) {
      ++refused[std::string(c.op->name) + " " + code_name(id.error()[0].code)];
      continue;
    }
    ++accepted;
    const Node& n = g.node(*id);
    for (std::uint32_t r = 0; r < n.result_count; ++r) g.outputs.push_back({"", n.result(r), {}});
    auto sound = verify(g);
    if (!sound) FAIL_CHECK(messages(sound.error()));
    auto want = interpret(fixed->graph, fixed->values), got = interpret(g, fixed->values);
    REQUIRE(want);
    if (!got) {
      FAIL_CHECK(messages(got.error()));
      continue;
    }
    for (std::size_t i = 0; i < want->size(); ++i) CHECK(same((*got)[i], (*want)[i]));
  }
  std::string list;
  for (const auto& [what, count] : refused) list += what + "\n";
  INFO(list);
  CHECK(accepted * 10 > all * 9);
}

TEST_CASE("gradients with symbolic sizes have the operands' types and the same values") {
  for (const Case& c : all_cases()) {
    if (!c.op->differentiable() || c.op->zero_gradient) continue;
    INFO(c.label);
    auto gradients = [&](const Case& k) -> std::optional<Graph> {
      Graph g;
      GraphBuilder b(g);
      GraphBuilder::NodeArgs args;
      std::vector<ValueId> wrt;
      for (const auto& o : k.sample.operands) {
        args.operands.push_back(o.literal ? b.constant(o.literal)
                                          : b.input("x" + std::to_string(g.inputs.size()), o.type));
        if (!o.literal && o.type.dtype == DType::f64) wrt.push_back(args.operands.back());
      }
      args.attrs = k.sample.attrs;
      auto id = b.try_add(*k.op, args);
      if (!id) return std::nullopt;
      ValueId y = g.node(*id).result();
      if (g.type(y).dtype != DType::f64 || wrt.empty()) return std::nullopt;
      auto grads = passes::reverse(g, {.of = y, .seed = GraphBuilder(g).ones(Type(g.type(y))), .wrt = wrt});
      if (!grads) return std::nullopt;
      for (std::size_t i = 0; i < wrt.size(); ++i) {
        if (!(*grads)[i]) continue;
        CHECK(g.type((*grads)[i]) == g.type(wrt[i]));
        g.outputs.push_back({"", (*grads)[i], {}});
      }
      return g;
    };
    auto fixed = gradients(c), symbolic = gradients(with_symbols(c));
    if (!fixed || !symbolic) continue;
    auto values = build(c)->values;
    auto want = interpret(*fixed, values), got = interpret(*symbolic, values);
    REQUIRE(want);
    if (!got) {
      FAIL_CHECK(messages(got.error()));
      continue;
    }
    for (std::size_t i = 0; i < want->size(); ++i) {
      REQUIRE((*got)[i].shape() == (*want)[i].shape());
      for (std::int64_t e = 0; e < (*want)[i].elems(); ++e) {
        double a = (*got)[i].get_double(e), w = (*want)[i].get_double(e);
        CHECK((a == w || std::fabs(a - w) <= 1e-12 * (1 + std::fabs(w)) || (std::isnan(a) && std::isnan(w))));
      }
    }
  }
}
