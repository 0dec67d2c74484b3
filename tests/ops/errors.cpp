// What the type rules say when operands do not fit: every message stands in an expectation file.
#include <catch2/catch.hpp>

#include "ir/ops/common.hpp"
#include "tests/diag/golden.hpp"
#include "tests/ops/cases.hpp"

using namespace ag;
using namespace ag::test;
using ops::Ints;
using ops::sample_ints;
using ops::sample_operand;

namespace {

struct Wrong {
  std::string_view op;
  std::vector<OpSample::Operand> operands;
  Attrs attrs = {};
};

OpSample::Operand of(std::string_view type) { return sample_operand(type); }

std::vector<Wrong> wrong_nodes() {
  return {
      {"add", {of("f32[2,3]"), of("f32[4]")}},
      {"Softmax", {of("f32[2,3]")}, {{"axis", std::int64_t{2}}}},
      {"reduce_sum", {of("f32[2,3]")}, {{"axes", Ints{1, 1}}}},
      {"MatMul", {of("f32[3,4]"), of("f32[6,4]")}},
      {"MatMul", {of("f32[3,4]"), of("f32[]")}},
      {"Gemm", {of("f32[3,4]"), of("f32[5,2]")}},
      {"dot_general", {of("f32[3,4]"), of("f32[5,2]")}, {{"lhs_contract", Ints{1}}, {"rhs_contract", Ints{0}}}},
      {"Reshape", {of("f32[2,3]"), sample_ints({4, -1})}},
      {"Reshape", {of("f32[2,3]"), sample_ints({-1, -1})}},
      {"Reshape", {of("f32[2,3]"), sample_ints({2, 2})}},
      {"Reshape", {of("f32[2,3]"), of("i64[2]")}},
      {"transpose", {of("f32[2,3]")}, {{"perm", Ints{0, 0}}}},
      {"concat", {of("f32[2,3]"), of("f32[2,4]")}, {{"axis", std::int64_t{0}}}},
      {"Expand", {of("f32[2,3]"), sample_ints({4, 3})}},
      {"Expand", {of("f32[]"), sample_ints({1099511627776, 1099511627776})}},
      {"Squeeze", {of("f32[2,3]"), sample_ints({0})}},
      {"Slice", {of("f32[4]"), sample_ints({0}), sample_ints({2}), sample_ints({0}), sample_ints({0})}},
      {"Split", {of("f32[4]"), sample_ints({1, 2})}},
      {"Gather", {of("f32[4]"), sample_ints({4})}},
      {"BatchNormalization", {of("f32[2,3,4]"), of("f32[2]"), of("f32[3]"), of("f32[3]"), of("f32[3]")}},
      {"SoftmaxCrossEntropyLoss", {of("f32[4,3]"), of("i64[3]")}},
      {"Dropout", {of("f32[4]"), of("f32[2]"), of("bool[]")}},
      {"Einsum", {of("f32[2,3]"), of("f32[4,5]")}, {{"equation", std::string("ij,jk->ik")}}},
      {"Range", {sample_operand("i64[]"), of("i64[]"), of("i64[]")}},
  };
}

}  // namespace

TEST_CASE("type rules name both shapes and what would fit") {
  std::string got;
  for (const Wrong& w : wrong_nodes()) {
    const OpInfo* op = op_table().find(w.op);
    if (!op) continue;
    Case c{op, {w.operands, w.attrs}, "error"};
    auto built = build(c);
    got += std::string(w.op) + ": ";
    if (built)
      got += "accepted\n";
    else {
      const Diag& d = built.error()[0];
      got += code_name(d.code) + " " + d.message + "\n";
      for (const SubDiag& s : d.children) got += "    " + s.message + "\n";
    }
  }
  check_golden("op_rules.txt", got);
}
