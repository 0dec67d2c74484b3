#include "frontend/trace/recipe.hpp"

#include "ir/op.hpp"

namespace ag::rec {

std::vector<ValueId> Emit::ops(std::string_view name, std::vector<ValueId> operands, Attrs attrs) {
  GraphBuilder::NodeArgs args;
  args.operands = std::move(operands);
  args.attrs = std::move(attrs);
  if (loc_.known()) args.locs = {loc_};
  args.remat = remat_;
  const OpInfo* info = op_table().find(name);
  if (!info) reject(Code::AG2211, "`" + std::string(name) + "` is not supported yet");
  auto node = b_.try_add(*info, std::move(args));
  if (!node) throw Rejected{std::move(node).error()};
  const Node& n = b_.graph().node(*node);
  std::vector<ValueId> results;
  for (std::uint32_t r = 0; r < n.result_count; ++r) results.push_back(n.result(r));
  return results;
}

ValueId Emit::op(std::string_view name, std::vector<ValueId> operands, Attrs attrs) {
  return ops(name, std::move(operands), std::move(attrs)).at(0);
}

void Emit::reject(Code code, std::string message) const { throw Rejected{{error(code, loc_, std::move(message))}}; }

std::int64_t Emit::axis(std::int64_t axis, int rank) const {
  const int span = rank == 0 ? 1 : rank;  // torch allows dim 0 and -1 of a scalar
  if (axis < -span || axis >= span)
    reject(Code::AG2202, "Dimension out of range (expected to be in range of [" + std::to_string(-span) + ", " +
                             std::to_string(span - 1) + "], but got " + std::to_string(axis) + ")");
  return axis < 0 ? axis + span : axis;
}

}  // namespace ag::rec
