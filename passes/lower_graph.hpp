// Lowering of one graph, the program's own or a region's, into steps. Regions are lowered into the same program: their
// inputs are buffers that are there already, their symbols are the program's.
#pragma once
#include <map>
#include <set>

#include "passes/lower_kernel.hpp"
#include "passes/lower_own.hpp"
#include "passes/pass.hpp"

namespace ag::passes {

/// What all graphs of one program share.
struct ProgramLowering {
  explicit ProgramLowering(PassContext& c) : context(c) {}
  PassContext& context;
  loop::Program program;
  std::map<std::array<std::uint64_t, 2>, loop::KernelId> kernels;  // by structure
  std::set<std::string> known;                                     // symbols that inputs or segments give
  std::map<std::string, std::size_t> segment_of;                   // the program's symbols that only the data know
  std::uint64_t next_symbol = 0;

  /// A name for a size that only the data know, which no graph of the program has.
  std::string fresh_symbol() { return "u" + std::to_string(next_symbol++) + ".0"; }
  loop::SegmentId add_segment(std::vector<std::string> symbols);
  loop::ProgramBufferId temp(DType dtype, Dims shape, std::string name = {});
};

using SymbolMap = std::map<std::string, Dim, std::less<>>;

class GraphLowering {
 public:
  GraphLowering(const Graph& g, ProgramLowering& program, loop::Seq& steps, bool is_region);

  /// Buffers of the inputs, and of outputs that shall be written in place (invalid: as it comes).
  Status run(std::span<const loop::ProgramBufferId> inputs, std::span<const loop::ProgramBufferId> targets);
  /// Inputs whose buffers this graph may write over: what a loop carries.
  void own(ValueId input) { owned_.insert(input); }
  /// The value whose buffer a chain of updates in place ends in: `v` itself if it is none.
  ValueId in_place_root(ValueId v);
  /// After run(): where output i is.
  loop::ProgramBufferId output(std::size_t i) { return buffer(g_.outputs[i].value); }
  const Graph& graph() const { return g_; }
  loop::ProgramBufferId buffer(ValueId v);
  /// What refuses the graph: ops without a lowering, sizes that nothing gives.
  Status check() const;

  // -- for the lowering of control flow
  ProgramLowering& shared() { return p_; }
  loop::Program& program() { return p_.program; }
  loop::Seq& steps() { return steps_; }
  std::uint32_t source(NodeId id);
  void call(LoweredKernel lowered, std::vector<loop::ProgramBufferId> buffers = {});
  /// The same; all statements stand for one place.
  void call_at(LoweredKernel lowered, std::vector<loop::ProgramBufferId> buffers, std::uint32_t place);
  /// Elements one after the other: shapes may differ in spelling.
  void copy(loop::ProgramBufferId from, loop::ProgramBufferId to, NodeId why);
  /// Steps that make the symbols of `segment` known; from here on they may be used.
  void bind(loop::SegmentId segment, loop::ProgramBufferId values, Dims exprs, NodeId why);

 private:
  const Graph& g_;
  ProgramLowering& p_;
  loop::Seq& steps_;
  std::size_t first_;  // of its steps
  bool is_region_;
  Plan plan_;
  std::vector<loop::ProgramBufferId> buffer_of_;
  std::map<NodeId, std::uint32_t> source_of_;
  std::set<std::size_t> own_segments_;  // bound by steps of this graph

  std::set<ValueId> owned_;
  mutable std::vector<std::vector<NodeId>> users_;  // by value; made when first needed, as the next two
  mutable std::vector<std::size_t> order_;          // by group
  mutable std::set<ValueId> copied_;

  // -- lower_state.cpp
  std::vector<std::pair<ValueId, ValueId>> states_;  // input, its next value
  void find_states();
  std::vector<GroupId> readers(ValueId v) const;
  void claim_states(GroupId gid, LoweredKernel& lowered);
  void finish_states();
  std::vector<std::size_t> updates_;  // steps that call an update of states of any size

  // -- lower_update.cpp
  void join_updates();
  std::vector<std::size_t> join(std::vector<std::size_t> steps);
  bool may_wait(const std::vector<std::size_t>& steps, const std::set<loop::ProgramBufferId>& parts) const;
  std::uint32_t next_state_ = 0;  // index of the next whole
  GroupId group_of(ValueId v) const { return plan_.group_of[g_.value(v).node.index]; }

  void count_users() const;
  bool dies_before(ValueId v, NodeId except) const;
  bool updates_in_place(NodeId id);
  /// A loop that updates a carried value in place may do so in the memory of the initial value, which dies there.
  bool takes_over(NodeId id, std::size_t operand);

  struct Region;
  struct Trips;
  struct CarriedSizes;
  struct Gathered {  ///< an output of a body whose size is known too late to be written in place
    std::size_t output;
    loop::ProgramBufferId all;
    bool backwards;
  };
  using Late = std::vector<Gathered>;

  void add_guards();
  void add_call(LoweredKernel lowered, std::vector<loop::ProgramBufferId> buffers, loop::KernelCall call);
  void claim_targets(std::span<const loop::ProgramBufferId> targets);
  Status group(GroupId gid);
  Status control(NodeId id);
  Status sizes(NodeId id);
  Status host(NodeId id);

  // -- lower_control.cpp
  Result<std::unique_ptr<Region>> region(NodeId id, std::size_t index, const std::vector<std::optional<Dims>>& given,
                                         SymbolMap own);
  CarriedSizes carried_sizes(const Graph& body, std::size_t carried);
  std::pair<loop::CheckStep, loop::CheckStep> tied_checks(NodeId id, const CarriedSizes& sizes, const Graph& body,
                                                          const std::vector<Dims>& first);
  Status lower_if(NodeId id);
  Status lower_loop(NodeId id);
  Status lower_scan(NodeId id);
  void advance(const Trips& t, loop::ProgramBufferId condition, bool first, std::uint32_t place);
  loop::ProgramBufferId carry(Trips& t, std::size_t operand, const Dims& shape, const Dims& next, bool grows,
                              bool kept);
  loop::ProgramBufferId slot(Trips& t, loop::ProgramBufferId of, const Dims& shape, bool backwards, loop::Seq& where);
  void gather(Trips& t, const Graph& body, std::size_t o, loop::ProgramBufferId all, bool backwards, Late& late);
  Status run_body(Trips& t, GraphLowering& body, const Late& late, loop::ProgramBufferId condition);
  void name_loop_results(NodeId id, const Graph& body, std::size_t carried,
                         const std::vector<loop::ProgramBufferId>& results, loop::ProgramBufferId trip,
                         std::size_t first, const std::vector<std::size_t>& axes);
  bool is_open(const Dims& shape) const;
  loop::ProgramBufferId move_axis(loop::ProgramBufferId from, const Dims& shape, std::size_t axis, std::size_t to,
                                  loop::ProgramBufferId target, NodeId why);
};

/// A kernel that is one loop over a vector works for vectors of any size from then on. False if it is none.
bool take_any_size(LoweredKernel& lowered);

/// Requirements of a node on its sizes that its type rule could not settle: what may be read lies within what is there.
void node_guards(const Graph& g, NodeId id, const std::function<void(Dim, loop::DimGuard::Rel, Dim, std::string)>& add);

}  // namespace ag::passes
