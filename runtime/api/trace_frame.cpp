#include "runtime/api/trace_frame.hpp"

#include "ir/op.hpp"

namespace ag::lazy {

TraceFrame::TraceFrame(Session& session, std::string name, Capture capture)
    : session_(session), outer_(session.frame), capture_(capture) {
  graph_.name = std::move(name);
  session_.frame = this;
}

TraceFrame::~TraceFrame() {
  while (!undo.empty()) {
    undo.back()();
    undo.pop_back();
  }
  session_.frame = outer_;
  static const auto over = std::make_shared<const std::string>("the trace that this tensor belongs to has ended");
  for (Value* v : made_)
    if (v) {
      v->home = nullptr;
      v->failed = over;
    }
}

ValueRef TraceFrame::value_for(ValueId id) {
  ValueRef v(new Value);
  v->home = this;
  v->index = id.index;
  v->type = rec::TypeInfo::make(graph_.type(id));
  made_.push_back(v.get());
  keep_.push_back(v);  // few, and gone with the trace
  return v;
}

ValueRef TraceFrame::input(const std::string& name, Type type, const Loc& loc) {
  return value_for(GraphBuilder(graph_).input(name, std::move(type), loc));
}

ValueRef TraceFrame::constant(const Array& array, const Place& place) {
  return value_for(GraphBuilder(graph_).constant(make_literal(array), loc_of(place)));
}

ValueId TraceFrame::id_of(Value& value, const Place& place) {
  if (value.home == this) return ValueId(value.index);
  if (auto it = outside_.find(&value); it != outside_.end()) return it->second;
  GraphBuilder b(graph_);
  bool traced_outside = false;
  for (TraceFrame* f = outer_; f; f = f->outer_) traced_outside |= value.home == f;
  if (traced_outside && capture_ == Capture::none)
    raise(Code::AG5401, "this tensor belongs to a trace around this one; pass it as an argument", place);
  if (traced_outside || capture_ == Capture::all) {
    const ValueId id = b.input("capture" + std::to_string(captures_.size()), value.type->type, loc_of(place));
    captures_.emplace_back(&value);
    outside_[&value] = id;
    return id;
  }
  session_.materialise(value, place);
  const ValueId id = b.constant(make_literal(to_array(value)), loc_of(place));
  keep_.emplace_back(&value);
  outside_[&value] = id;
  return id;
}

void TraceFrame::record(const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                        std::span<Value* const> operands, rec::Params params, Results& results, const Place& place) {
  std::vector<ValueId> in;
  for (Value* v : operands) in.push_back(id_of(*v, place));
  try {
    rec::Emit e(graph_, loc_of(place), session_.remat);
    for (ValueId v : call ? e.b().inline_graph(*call->graph, in) : recipe->build(e, in, params))
      results.push_back(value_for(v));
  } catch (const rec::Rejected& r) {
    raise(r.diags);
  } catch (const InternalError& e) {
    raise(Code::AG9001, e.message + " (" + e.file + ":" + std::to_string(e.line) + ")", place);
  }
}

std::vector<ValueRef> TraceFrame::control(std::string_view name, std::span<Value* const> operands, Attrs attrs,
                                          std::vector<GraphPtr> regions, const Place& place) {
  GraphBuilder::NodeArgs args;
  for (Value* v : operands) args.operands.push_back(v ? id_of(*v, place) : ValueId{});
  args.attrs = std::move(attrs);
  args.regions = std::move(regions);
  if (Loc loc = loc_of(place); loc.known()) args.locs = {loc};
  auto node = GraphBuilder(graph_).try_add(op(name), std::move(args));
  if (!node) raise(node.error());
  std::vector<ValueRef> results;
  const Node& n = graph_.node(*node);
  for (std::uint32_t r = 0; r < n.result_count; ++r) results.push_back(value_for(n.result(r)));
  return results;
}

ValueRef TraceFrame::generator(const Place& place) {
  if (generator_) return generator_;
  std::string name = "rng";
  while (graph_.find(name)) name += '_';
  generator_ = input(name, {DType::u64, {}}, loc_of(place));
  graph_.extras.emplace_back("x-generator", '"' + name + '"');
  return generator_;
}

Graph& TraceFrame::finish() {
  if (draws) graph_.extras.emplace_back("x-draws", std::to_string(draws));
  return graph_;
}

void TraceFrame::output(const std::string& name, Value& value, const Place& place) {
  const ValueId id = id_of(value, place);
  graph_.outputs.push_back({name, id, graph_.loc(id)});
}

}  // namespace ag::lazy
