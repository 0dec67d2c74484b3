// Blocks of pixels as channels and back: DepthToSpace, SpaceToDepth.
#include "ir/ops/common.hpp"
#include "ir/ops/dims.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

Types infer_depth_space(const InferCtx& c) {
  bool to_space = c.op().name == "DepthToSpace";
  std::int64_t k = attr_int(c.attrs(), "blocksize", 0);
  const Dims& s = c.in(0).shape;
  if (s.size() != 4)
    return c.error(Code::AG2204,
                   fmt::format("`{}` needs rank 4: {} is {}", c.op().onnx, operand_name(c, 0), c.in(0).str()), {}, {0});
  auto divides = [](const Dim& d, std::int64_t by) { return !d.is_const() || d.value() % by == 0; };
  bool fits = k > 0 && k < (1 << 20) && (to_space ? divides(s[1], k * k) : divides(s[2], k) && divides(s[3], k));
  if (!fits)
    return c.error(Code::AG2206,
                   fmt::format("`{}` with blocks of {} does not divide {}", c.op().onnx, k, c.in(0).str()), {}, {0});
  if (to_space) return std::vector<Type>{{c.in(0).dtype, {s[0], floordiv(s[1], k * k), s[2] * Dim(k), s[3] * Dim(k)}}};
  return std::vector<Type>{{c.in(0).dtype, {s[0], s[1] * Dim(k * k), floordiv(s[2], k), floordiv(s[3], k)}}};
}
std::vector<ValueId> depth_to_space(Builder& b, const View& n) {
  Dims s = n.in(0).shape, out = n.out().shape;
  std::int64_t k = attr_int(n.attrs(), "blocksize", 1);
  bool dcr = attr_string(n.attrs(), "mode", "DCR") == "DCR";
  ValueId x =
      b.reshape(n.operand(0), dcr ? Dims{s[0], k, k, out[1], s[2], s[3]} : Dims{s[0], out[1], k, k, s[2], s[3]});
  return {b.reshape(b.transpose(x, dcr ? Ints{0, 3, 4, 1, 5, 2} : Ints{0, 1, 4, 2, 5, 3}), out)};
}
std::vector<ValueId> space_to_depth(Builder& b, const View& n) {
  Dims s = n.in(0).shape, out = n.out().shape;
  std::int64_t k = attr_int(n.attrs(), "blocksize", 1);
  bool dcr = attr_string(n.attrs(), "mode", "DCR") == "DCR";
  ValueId x = b.reshape(n.operand(0), {s[0], s[1], out[2], k, out[3], k});
  return {b.reshape(b.transpose(x, dcr ? Ints{0, 3, 5, 1, 2, 4} : Ints{0, 1, 3, 5, 2, 4}), out)};
}

}  // namespace

std::vector<OpInfo> block_ops() {
  OperandSpec data{.name = "data"};
  return {
      composite({.name = "DepthToSpace",
                 .summary = "blocks of channels become pixels",
                 .operands = {data},
                 .attrs = {{"blocksize", AttrKind::integer, true}, choice_attr("mode", {"DCR", "CRD"})},
                 .infer = infer_depth_space,
                 .decompose = depth_to_space,
                 .samples =
                     [] {
                       return std::vector<OpSample>{
                           sample({"f64[1,8,2,3]"}, {{"blocksize", std::int64_t{2}}}),
                           sample({"f64[1,4,1,2]"}, {{"blocksize", std::int64_t{2}}, {"mode", std::string("CRD")}})};
                     }}),
      composite({.name = "SpaceToDepth",
                 .summary = "blocks of pixels become channels",
                 .operands = {data},
                 .attrs = {{"blocksize", AttrKind::integer, true}, choice_attr("mode", {"DCR", "CRD"})},
                 .infer = infer_depth_space,
                 .decompose = space_to_depth,
                 .samples =
                     [] { return std::vector<OpSample>{sample({"f64[1,2,4,6]"}, {{"blocksize", std::int64_t{2}}})}; }}),
  };
}

}  // namespace ag
