// Control flow that is compiled: the bodies are traced into regions, what they use from outside becomes operands. The
// whole op is recorded as a call, so that its derivative is found like that of any other operation.
#include <algorithm>

#include "ir/op.hpp"
#include "passes/batch.hpp"
#include "runtime/api/graph_impl.hpp"
#include "runtime/api/tensor_impl.hpp"
#include "runtime/api/trace_frame.hpp"

namespace ag::api {
namespace {

using lazy::raise;
using lazy::TraceFrame;
using lazy::ValueRef;

lazy::Session& session() { return lazy::Session::current(); }

Type type_of(const Tensor& t, const Place& place) { return lazy::value_of(t, "control flow", place).type->type; }

/// Runs f with stand-ins in a new frame. Gradients of what happens inside are those of the whole op.
template <class F>
std::unique_ptr<TraceFrame> region(const std::string& name, const std::vector<std::pair<std::string, Type>>& inputs,
                                   F f, const Place& place, TraceFrame::Capture capture = TraceFrame::Capture::traced) {
  auto frame = std::make_unique<TraceFrame>(session(), name, capture);
  AutoGradMode off(false);
  Tensors in;
  for (const auto& [n, t] : inputs) {
    ValueRef v = frame->input(n, t);
    if (n == "trip") frame->trip = v;
    in.push_back(lazy::make_tensor(std::move(v)));
  }
  const Tensors out = f(in);
  for (const Tensor& t : out) {
    lazy::Value& v = lazy::value_of(t, "the result of a body", place);
    if (lazy::needs_grad(t) && v.home != frame.get()) frame->histories[&v] = lazy::gradient_edge(*t.impl());
    frame->output("out" + std::to_string(frame->graph().outputs.size()), v, place);
  }
  return frame;
}

/// The node as a graph of its own, recorded as a call on tensors of the frame around.
Tensors emit(std::string_view op_name, const Tensors& operands, const std::vector<std::size_t>& left_out, Attrs attrs,
             std::vector<GraphPtr> regions, const Place& place) {
  auto call = std::make_shared<rec::Call>();
  ag::Graph g;
  g.name = std::string(op_name);
  GraphBuilder b(g);
  GraphBuilder::NodeArgs args;
  std::size_t next = 0;
  for (std::size_t slot = 0; next < operands.size() || std::count(left_out.begin(), left_out.end(), slot); ++slot) {
    if (std::count(left_out.begin(), left_out.end(), slot)) {
      args.operands.emplace_back();
      continue;
    }
    args.operands.push_back(b.input("in" + std::to_string(next), type_of(operands[next], place)));
    ++next;
  }
  args.attrs = std::move(attrs);
  args.regions = std::move(regions);
  if (Loc loc = lazy::loc_of(place); loc.known()) args.locs = {loc};
  auto node = b.try_add(op(op_name), std::move(args));
  if (!node) raise(node.error());
  const ag::Node& n = g.node(*node);
  for (std::uint32_t r = 0; r < n.result_count; ++r) {
    g.outputs.push_back({"out" + std::to_string(r), n.result(r), {}});
    call->grads.push_back(std::string(op_name) + "Backward0");
  }
  call->name = std::string(op_name);
  call->graph = std::make_shared<const ag::Graph>(std::move(g));
  return lazy::call_graph(call, operands, place);
}

/// Values from outside that several regions use, each once.
struct Captured {
  std::vector<ValueRef> values;
  std::size_t index(const ValueRef& v) {
    auto it = std::find(values.begin(), values.end(), v);
    if (it != values.end()) return static_cast<std::size_t>(it - values.begin());
    values.push_back(v);
    return values.size() - 1;
  }
};

/// A region's graph with all captures as its last inputs, in the common order. `drop_trip`: nothing needs its number.
GraphPtr with_captures(TraceFrame& frame, std::size_t own_inputs, const Captured& all, bool drop_trip = false) {
  const ag::Graph& g = frame.graph();
  ag::Graph out;
  out.name = g.name;
  GraphBuilder b(out);
  std::vector<ag::ValueId> args;
  for (std::size_t i = 0; i < own_inputs; ++i)
    args.push_back(drop_trip && g.value(g.inputs[i]).name == "trip"
                       ? b.scalar_int(ag::DType::i64, 0)
                       : b.input(g.value(g.inputs[i]).name, g.type(g.inputs[i])));
  std::vector<ag::ValueId> captured;
  for (std::size_t i = 0; i < all.values.size(); ++i)
    captured.push_back(b.input("c" + std::to_string(i), all.values[i]->type->type));
  for (const ValueRef& v : frame.captures()) {
    auto it = std::find(all.values.begin(), all.values.end(), v);
    args.push_back(captured[static_cast<std::size_t>(it - all.values.begin())]);
  }
  const auto results = b.inline_graph(g, args);
  for (std::size_t i = 0; i < results.size(); ++i) out.outputs.push_back({g.outputs[i].name, results[i], {}});
  return std::make_shared<const ag::Graph>(std::move(out));
}

/// Handles of captured values, with their histories.
Tensors tensors_of(const Captured& all, std::initializer_list<TraceFrame*> frames) {
  Tensors out;
  for (const ValueRef& v : all.values) {
    lazy::ImplRef impl = lazy::make_impl(v);
    for (TraceFrame* f : frames)
      if (auto it = f->histories.find(v.get()); it != f->histories.end()) {
        const auto& edge = std::any_cast<const lazy::Edge&>(it->second);
        impl->grad_fn = edge.node;
        impl->output_nr = edge.nr;
      }
    out.push_back(lazy::wrap(std::move(impl)));
  }
  return out;
}

void need_truth(const Tensor& c, std::string_view what, const Place& place) {
  const Type t = type_of(c, place);
  if (t.dtype != ag::DType::boolean || t.rank() != 0)
    raise(Code::AG2210, std::string(what) + " must be a bool without axes, but is " + t.str(), place);
}

/// Traces end in the reverse of the order in which they began: each region is kept as its graph and what it captured.
struct Region {
  std::unique_ptr<TraceFrame> frame;
  lazy::TraceFrame* around;
  explicit Region(std::unique_ptr<TraceFrame> f) : frame(std::move(f)), around(frame->outer()) {
    session().frame = around;
    for (const ValueRef& v : frame->captures()) keep.push_back(v);
  }
  std::vector<ValueRef> keep;
};

void append(Tensors& to, const Tensors& more) { to.insert(to.end(), more.begin(), more.end()); }
std::int64_t count(const Captured& c) { return static_cast<std::int64_t>(c.values.size()); }

std::vector<std::pair<std::string, Type>> states(const Tensors& start, const Place& place) {
  std::vector<std::pair<std::string, Type>> out;
  for (const Tensor& t : start) out.emplace_back("state" + std::to_string(out.size()), type_of(t, place));
  return out;
}

/// Runs f with its errors as ag::Error.
template <class F>
auto guarded(F f, const Place& place) {
  try {
    return f();
  } catch (const rec::Rejected& r) {
    raise(r.diags);
  } catch (const InternalError& e) {
    raise(Code::AG9001, e.message + " (" + e.file + ":" + std::to_string(e.line) + ")", place);
  }
}

Tensors traced_cond(const Tensor& condition, const MultiFunction& then, const MultiFunction& otherwise,
                    const Tensors& args, const Place& place) {
  need_truth(condition, "the condition of ag::cond", place);
  // The branches see the arguments as captures.
  Region yes(region("then", {}, [&](const Tensors&) { return then(args); }, place));
  Region no(region("else", {}, [&](const Tensors&) { return otherwise(args); }, place));
  Captured all;
  for (const ValueRef& v : yes.keep) all.index(v);
  for (const ValueRef& v : no.keep) all.index(v);
  Tensors operands{condition};
  append(operands, tensors_of(all, {yes.frame.get(), no.frame.get()}));
  return emit("If", operands, {}, {{"captures", count(all)}},
              {with_captures(*yes.frame, 0, all), with_captures(*no.frame, 0, all)}, place);
}

Tensors traced_while(const std::function<Tensor(const Tensors&)>& test, const MultiFunction& body, const Tensors& start,
                     const Place& place) {
  const Tensor first = test(start);
  need_truth(first, "the test of ag::while_loop", place);
  std::vector<std::pair<std::string, Type>> inputs{{"trip", {ag::DType::i64, {}}}, {"go", {ag::DType::boolean, {}}}};
  for (auto& s : states(start, place)) inputs.push_back(std::move(s));
  Region r(region(
      "body", inputs,
      [&](const Tensors& in) {
        Tensors next = body(Tensors(in.begin() + 2, in.end()));
        Tensors out{test(next)};
        append(out, next);
        return out;
      },
      place));
  Captured all;
  for (const ValueRef& v : r.keep) all.index(v);
  Tensors operands{first};
  append(operands, start);
  append(operands, tensors_of(all, {r.frame.get()}));
  return emit("Loop", operands, {0}, {{"captures", count(all)}}, {with_captures(*r.frame, inputs.size(), all)}, place);
}

Tensors traced_fori(std::int64_t low, std::int64_t high,
                    const std::function<Tensors(const Tensor&, const Tensors&)>& body, const Tensors& start,
                    const Place& place) {
  std::vector<std::pair<std::string, Type>> inputs{{"trip", {ag::DType::i64, {}}}, {"go", {ag::DType::boolean, {}}}};
  for (auto& s : states(start, place)) inputs.push_back(std::move(s));
  Region r(region(
      "body", inputs,
      [&](const Tensors& in) {
        const Tensor i = low ? in[0] + low : in[0];
        Tensors out{in[1]};
        append(out, body(i, Tensors(in.begin() + 2, in.end())));
        return out;
      },
      place));
  Captured all;
  for (const ValueRef& v : r.keep) all.index(v);
  TraceFrame& around = *session().frame;
  Tensors operands{lazy::make_tensor(around.constant(
      Array::scalar(ag::DType::i64, static_cast<double>(std::max<std::int64_t>(0, high - low))), place))};
  append(operands, start);
  append(operands, tensors_of(all, {r.frame.get()}));
  return emit("Loop", operands, {1}, {{"captures", count(all)}}, {with_captures(*r.frame, inputs.size(), all)}, place);
}

}  // namespace

Tensors cond(const Tensor& condition, const MultiFunction& then, const MultiFunction& otherwise, const Tensors& args,
             Place place) {
  if (!session().frame) return condition ? then(args) : otherwise(args);
  return guarded([&] { return traced_cond(condition, then, otherwise, args, place); }, place);
}
Tensor cond(const Tensor& condition, const std::function<Tensor()>& then, const std::function<Tensor()>& otherwise,
            Place place) {
  return cond(
      condition, [&](const Tensors&) { return Tensors{then()}; }, [&](const Tensors&) { return Tensors{otherwise()}; },
      {}, place)[0];
}

Tensors while_loop(const std::function<Tensor(const Tensors&)>& test, const MultiFunction& body, const Tensors& start,
                   Place place) {
  if (session().frame) return guarded([&] { return traced_while(test, body, start, place); }, place);
  Tensors state = start;
  while (test(state)) state = body(state);
  return state;
}
Tensor while_loop(const Function& test, const Function& body, const Tensor& start, Place place) {
  return while_loop([&](const Tensors& s) { return test(s[0]); }, [&](const Tensors& s) { return Tensors{body(s[0])}; },
                    Tensors{start}, place)[0];
}

Tensors fori_loop(std::int64_t low, std::int64_t high,
                  const std::function<Tensors(const Tensor&, const Tensors&)>& body, const Tensors& start,
                  Place place) {
  if (session().frame) return guarded([&] { return traced_fori(low, high, body, start, place); }, place);
  Tensors state = start;
  for (std::int64_t i = low; i < high; ++i) state = body(tensor(i), state);
  return state;
}

std::pair<Tensor, Tensor> scan(const std::function<std::pair<Tensor, Tensor>(const Tensor&, const Tensor&)>& body,
                               const Tensor& start, const Tensor& xs, Place place) {
  if (!session().frame) {
    Tensor state = start;
    Tensors out;
    for (const Tensor& x : xs.unbind(0, place)) {
      auto [next, element] = body(state, x);
      state = next;
      out.push_back(element);
    }
    return {state, stack(out, 0, place)};
  }
  return guarded(
      [&]() -> std::pair<Tensor, Tensor> {
        Type slice = type_of(xs, place);
        if (slice.shape.empty()) raise(Code::AG2204, "ag::scan runs along the first axis of xs, which has none", place);
        slice.shape.erase(slice.shape.begin());
        Region r(region(
            "body", {{"state", type_of(start, place)}, {"x", slice}, {"trip", {ag::DType::i64, {}}}},
            [&](const Tensors& in) {
              auto [state, element] = body(in[0], in[1]);
              return Tensors{state, element};
            },
            place));
        Captured all;
        for (const ValueRef& v : r.keep) all.index(v);
        Tensors operands{start, xs};
        const bool numbered = r.frame->trip_used;  // random numbers: the number of the trip is a second sequence
        Tensor each = xs;
        while (each.dim() > 1) each = each.select(1, 0);
        if (numbered) operands.push_back(cumsum(ones_like(each, api::i64), 0) - 1);
        append(operands, tensors_of(all, {r.frame.get()}));
        Attrs attrs{{"captures", count(all)}};
        attrs.set("num_scan_inputs", std::int64_t{numbered ? 2 : 1});
        Tensors out = emit("Scan", operands, {}, std::move(attrs), {with_captures(*r.frame, 3, all, !numbered)}, place);
        return {out[0], out[1]};
      },
      place);
}

/// The body is traced at each call, so that it may use other tensors each time; the structure it has decides whether it
/// was compiled before.
MultiFunction vmap(MultiFunction f, std::vector<bool> batched) {
  using Calls = std::map<std::string, std::shared_ptr<const rec::Call>>;
  return [f = std::move(f), batched = std::move(batched), seen = std::make_shared<Calls>()](const Tensors& xs) {
    const Place place{};
    return guarded(
        [&] {
          std::vector<std::pair<std::string, Type>> inputs;
          std::vector<bool> flags;
          std::optional<Dim> size;
          for (std::size_t i = 0; i < xs.size(); ++i) {
            Type t = type_of(xs[i], place);
            flags.push_back(i >= batched.size() || batched[i]);
            if (flags.back()) {
              if (t.shape.empty())
                raise(Code::AG2204, "ag::vmap maps over the first axis, but an argument has none", place);
              if (size && *size != t.shape[0])
                raise(Code::AG2208,
                      "ag::vmap: the arguments have " + size->str() + " and " + t.shape[0].str() + " members", place);
              size = t.shape[0];
              t.shape.erase(t.shape.begin());
            }
            inputs.emplace_back("x" + std::to_string(i), std::move(t));
          }
          if (!size) raise(Code::AG5404, "ag::vmap needs an argument to map over", place);
          Region r(region("vmap", inputs, f, place, TraceFrame::Capture::all));
          flags.resize(r.frame->graph().inputs.size(), false);
          auto graph = passes::batch(r.frame->graph(), flags, *size);
          if (!graph) raise(graph.error());
          auto& call = (*seen)[ag::print(*graph)];
          if (!call) {
            auto made = std::make_shared<rec::Call>();
            made->name = "vmap";
            made->grads.assign(graph->outputs.size(), "VmapBackward0");
            made->graph = std::make_shared<const ag::Graph>(std::move(*graph));
            call = std::move(made);
          }
          Captured all{r.keep};
          Tensors operands = xs;
          append(operands, tensors_of(all, {r.frame.get()}));
          return lazy::call_graph(call, operands, place);
        },
        place);
  };
}
Function vmap(Function f) {
  auto many = vmap([f = std::move(f)](const Tensors& x) { return Tensors{f(x[0])}; }, {});
  return [many = std::move(many)](const Tensor& x) { return many({x})[0]; };
}

}  // namespace ag::api
