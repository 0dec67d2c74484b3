// Recording straight into a graph: what runs inside ag::trace and inside the bodies of cond, while_loop and scan.
#pragma once
#include <any>
#include <map>

#include "runtime/api/session.hpp"

namespace ag::lazy {

class TraceFrame final : public Recording {
 public:
  /// Which values from outside become inputs of the graph instead of constants.
  enum class Capture : std::uint8_t {
    none,    ///< of a trace of its own
    traced,  ///< those of the traces around it: bodies of control flow
    all,     ///< a function that is called with other values next time
  };
  TraceFrame(Session& session, std::string name, Capture capture);
  ~TraceFrame() override;
  TraceFrame(const TraceFrame&) = delete;
  TraceFrame& operator=(const TraceFrame&) = delete;

  ValueRef input(const std::string& name, Type type, const Loc& loc = {});
  void record(const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call, std::span<Value* const> operands,
              rec::Params params, Results& results, const Place& place);
  /// Adds a node with regions; its results.
  std::vector<ValueRef> control(std::string_view op, std::span<Value* const> operands, Attrs attrs,
                                std::vector<GraphPtr> regions, const Place& place);
  /// A constant of known elements that shapes may depend on.
  ValueRef constant(const Array& array, const Place& place);
  void output(const std::string& name, Value& value, const Place& place);
  Graph& graph() { return graph_; }
  /// The graph, with what running it must know of its random numbers.
  Graph& finish();
  TraceFrame* outer() const { return outer_; }
  /// Values of the outside that became inputs, in order.
  const std::vector<ValueRef>& captures() const { return captures_; }
  void forget(std::uint32_t) override {}
  bool captures_values() const { return capture_ != Capture::none; }
  /// The key that random numbers of this trace follow from: an input that the caller or the generator gives.
  ValueRef generator(const Place& place);
  std::uint64_t draws = 0;  ///< of random numbers, in this trace and the bodies inside
  ValueRef trip;            ///< the body of a loop: the number of the trip (i64)
  bool trip_used = false;
  /// Where the gradient of a captured value goes (an Edge): kept for the operation that the region belongs to.
  std::map<const Value*, std::any> histories;
  /// Run when the trace ends, the last first: what it changed outside is as it was.
  std::vector<std::function<void()>> undo;

 private:
  ValueId id_of(Value& value, const Place& place);
  ValueRef value_for(ValueId id);
  Session& session_;
  TraceFrame* outer_;
  Graph graph_;
  Capture capture_;
  std::map<const Value*, ValueId> outside_;
  std::vector<ValueRef> keep_;       ///< concrete values that became constants
  std::vector<ValueRef> captures_;
  ValueRef generator_;
  std::vector<Value*> made_;         ///< pending values of this frame, to be cut off at its end
  friend class Session;
};

}  // namespace ag::lazy
