// Reverse mode over recorded functions. The walk records the derivative of each function, newest first, into the open
// segment; where it leaves a segment for an older one it closes what it recorded, so that each forward segment has one
// backward program, however often it ran.
#include <algorithm>
#include <atomic>

#include "frontend/trace/recipes.hpp"
#include "runtime/api/tensor_impl.hpp"

namespace ag::lazy {

using api::Tensor;

namespace {

std::atomic<std::uint64_t> walks{0};

std::string size_text(const TypePtr& t) {
  std::string text = "torch.Size([";
  for (std::size_t i = 0; i < t->type.shape.size(); ++i) text += (i ? ", " : "") + t->type.shape[i].str();
  return text + "])";
}

struct ModeGuard {
  Session& s;
  bool before;
  ModeGuard(Session& session, bool mode) : s(session), before(session.grad_mode) { s.grad_mode = mode; }
  ~ModeGuard() { s.grad_mode = before; }
};

class Walk {
 public:
  Walk(Session& s, bool retain, bool create_graph, const Place& place)
      : s_(s), retain_(retain), create_graph_(create_graph), place_(place), number_(++walks) {}

  void root(const Edge& edge, Tensor seed) {
    visit(edge.node.get());
    seeds_.emplace_back(edge, std::move(seed));
  }

  /// Gradients of these edges are collected instead of accumulated; only what leads to them is run.
  void capture(const std::vector<Edge>& edges) {
    captures_ = &edges;
    found_.resize(edges.size());
  }

  void run(bool accumulate) {
    std::sort(nodes_.begin(), nodes_.end(), [](auto* a, auto* b) { return a->sequence > b->sequence; });
    for (std::uint32_t i = 0; i < nodes_.size(); ++i) nodes_[i]->mark = i;
    first_.reserve(nodes_.size());
    std::uint32_t slots = 0;
    for (GradNode* n : nodes_) {
      first_.push_back(slots);
      slots += static_cast<std::uint32_t>(std::max<std::size_t>(1, n->results.size()));
    }
    cotangents_.resize(slots);
    find_needed();
    for (auto& [edge, seed] : seeds_) give(edge, std::move(seed));
    std::optional<std::uint64_t> segment;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      GradNode& n = *nodes_[i];
      if (!needed_[i]) continue;
      const std::span<Tensor> cts(&cotangents_[first_[i]], std::max<std::size_t>(1, n.results.size()));
      if (std::none_of(cts.begin(), cts.end(), [](const Tensor& t) { return t.defined(); })) continue;
      run_hooks(n, cts);
      collect(n, cts);
      if (n.kind == GradNode::Kind::accumulate) {
        if (accumulate && !captures_) this->accumulate(n, cts[0]);
      } else if (leads_on_[i]) {
        if (segment && n.segment < *segment && !s_.frame) s_.close();
        segment = std::min(segment.value_or(n.segment), n.segment);
        apply_function(n, cts);
      }
      for (Tensor& t : cts) t = Tensor();
    }
  }

  std::vector<Tensor>& found() { return found_; }

 private:
  Session& s_;
  bool retain_, create_graph_;
  Place place_;
  std::uint64_t number_;
  std::vector<GradNode*> nodes_;
  std::vector<Tensor> cotangents_;  ///< of all results, node by node
  std::vector<std::uint32_t> first_;
  std::vector<std::pair<Edge, Tensor>> seeds_;
  const std::vector<Edge>* captures_ = nullptr;
  std::vector<Tensor> found_;
  std::vector<char> needed_, leads_on_;

  void visit(GradNode* root) {
    if (root->walk == number_) return;
    std::vector<GradNode*> stack{root};
    root->walk = number_;
    while (!stack.empty()) {
      GradNode* n = stack.back();
      stack.pop_back();
      nodes_.push_back(n);
      for (const Edge& e : n->next)
        if (e.node && e.node->walk != number_) {
          e.node->walk = number_;
          stack.push_back(e.node.get());
        }
    }
  }

  bool captured(const GradNode* n) const {
    return std::any_of(captures_->begin(), captures_->end(), [&](const Edge& e) { return e.node.get() == n; });
  }

  /// Oldest first: a function is needed if a gradient is asked at it or behind it.
  void find_needed() {
    needed_.assign(nodes_.size(), 1);
    leads_on_.assign(nodes_.size(), 1);
    if (!captures_) return;
    for (std::size_t i = nodes_.size(); i-- > 0;) {
      bool on = false;
      for (const Edge& e : nodes_[i]->next) on |= e.node && needed_[e.node->mark];
      leads_on_[i] = on;
      needed_[i] = on || captured(nodes_[i]);
    }
  }

  void give(const Edge& e, Tensor ct) {
    if (!e.node || !ct.defined() || !needed_[e.node->mark]) return;
    Tensor& slot = cotangents_[first_[e.node->mark] + e.nr];
    slot = slot.defined() ? sum_of(slot, ct) : std::move(ct);
  }
  Tensor sum_of(const Tensor& a, const Tensor& b) {
    return apply(rec::r::add, {&a, &b}, {static_cast<std::int64_t>(a.impl()->value->dtype())}, place_);
  }

  static void call_hooks(const std::shared_ptr<Hooks>& hooks, Tensor& ct) {
    if (!hooks) return;
    const auto list = hooks->list;  // a hook may remove itself
    for (const auto& [id, hook] : list) {
      Tensor replaced = hook(ct);
      if (replaced.defined()) ct = replaced;
    }
  }
  void run_hooks(GradNode& n, std::span<Tensor> cts) {
    if (n.kind == GradNode::Kind::accumulate) {
      if (n.variable->extra) call_hooks(n.variable->extra->hooks, cts[0]);
      return;
    }
    if (!n.extra) return;
    for (auto& [nr, hooks] : n.extra->hooks)
      if (nr < cts.size() && cts[nr].defined()) call_hooks(hooks, cts[nr]);
    for (auto& [nr, impl] : n.extra->retain)
      if (nr < cts.size() && cts[nr].defined()) impl->more().grad = separate(cts[nr]);
  }

  void collect(GradNode& n, std::span<const Tensor> cts) {
    if (!captures_) return;
    for (std::size_t k = 0; k < captures_->size(); ++k) {
      const Edge& e = (*captures_)[k];
      if (e.node.get() == &n && e.nr < cts.size() && cts[e.nr].defined()) found_[k] = separate(cts[e.nr]);
    }
  }

  /// A tensor of its own with the same value: changing it in place changes no other gradient.
  Tensor separate(const Tensor& t) const {
    ImplRef impl = make_impl(t.impl()->value);
    if (create_graph_) {
      impl->grad_fn = t.impl()->grad_fn;
      impl->output_nr = t.impl()->output_nr;
      impl->requires_grad = t.impl()->requires_grad;
    }
    return wrap(std::move(impl));
  }

  void accumulate(GradNode& n, const Tensor& ct) {
    before_grad_changes(*n.variable);
    Tensor& grad = n.variable->more().grad;
    if (!grad.defined()) {
      grad = separate(ct);
      return;
    }
    Tensor total = sum_of(grad, ct);
    if (create_graph_ || Session::current().frame) {
      grad = total;
    } else {
      grad.impl()->value = total.impl()->value;
      ++grad.impl()->version;
    }
  }

  [[noreturn]] void freed() const {
    raise(Code::AG3021,
          "Trying to backward through the graph a second time (or directly access saved tensors after they have "
          "already been freed). Saved intermediate values of the graph are freed when you call .backward() or "
          "autograd.grad(). Specify retain_graph=True if you need to backward through the graph a second time or if "
          "you need to access saved tensors after calling backward.",
          place_);
  }

  Tensor zeros(const TypePtr& t) const {
    std::vector<std::int64_t> params{static_cast<std::int64_t>(t->type.dtype), rec::bits(0)};
    if (!t->is_static) raise(Code::AG5404, "a gradient of a value of symbolic size is missing", place_);
    params.insert(params.end(), t->shape.begin(), t->shape.end());
    return apply(rec::r::full, std::span<const Arg>(), params, place_);
  }

  void apply_function(GradNode& n, std::span<Tensor> cts) {
    if (n.freed) freed();
    if (n.kind == GradNode::Kind::custom) return apply_custom(n, cts);
    const Vjp& vjp = *n.vjp;
    if (vjp.refused) raise(*vjp.refused);
    if (vjp.call->graph->outputs.empty()) return;
    Arg few[8];
    std::vector<Arg> many;
    Arg* args = few;
    if (vjp.inputs.size() > std::size(few)) many.resize(vjp.inputs.size()), args = many.data();
    std::vector<Tensor> keep;
    for (std::size_t i = 0; i < vjp.inputs.size(); ++i) {
      const Vjp::Source& in = vjp.inputs[i];
      if (in.kind == Vjp::Source::Kind::cotangent) {
        Tensor& ct = cts[in.index];
        if (!ct.defined()) ct = zeros(n.results[in.index]);
        args[i] = {ct.impl(), ct.impl()->value.get()};
        continue;
      }
      args[i] = {nullptr, n.saved[i].get()};
      if (!create_graph_) continue;
      // The saved value with its history, so that the derivative can be differentiated.
      const Edge edge = in.kind == Vjp::Source::Kind::operand ? n.next[in.index] : Edge{NodeRef(&n), in.index};
      if (!edge.node) continue;
      ImplRef impl = make_impl(n.saved[i]);
      impl->grad_fn = edge.node;
      impl->output_nr = edge.nr;
      args[i].impl = impl.get();
      keep.push_back(wrap(std::move(impl)));
    }
    TensorList grads = apply_some(nullptr, vjp.call, {args, vjp.inputs.size()}, {}, n.place);
    if (!retain_ && !vjp.inputs.empty()) {
      const bool saved = std::any_of(n.saved.begin(), n.saved.end(), [](const ValueRef& v) { return bool(v); });
      n.freed = saved;
      n.saved.clear();
    }
    for (std::size_t i = 0; i < n.next.size(); ++i)
      if (vjp.outputs[i] >= 0) give(n.next[i], std::move(grads[static_cast<std::size_t>(vjp.outputs[i])]));
  }

  void apply_custom(GradNode& n, std::span<Tensor> cts) {
    for (std::size_t i = 0; i < cts.size(); ++i)
      if (!cts[i].defined() && is_float(n.results[i]->type.dtype)) cts[i] = zeros(n.results[i]);
    std::vector<Tensor> grads = n.extra->custom(std::vector<Tensor>(cts.begin(), cts.end()));
    if (!retain_) {
      n.freed = true;
      n.extra->custom = nullptr;
    }
    if (grads.size() != n.next.size())
      raise(Code::AG5404,
            "function " + std::string(n.name) + " returned an incorrect number of gradients (expected " +
                std::to_string(n.next.size()) + ", got " + std::to_string(grads.size()) + ")",
            place_);
    for (std::size_t i = 0; i < n.next.size(); ++i) give(n.next[i], grads[i]);
  }
};

Tensor seed_for(const Tensor& output, const Tensor* given, std::size_t index, const Place& place) {
  Value& v = value_of(output, "backward", place);
  if (given && given->defined()) {
    Value& seed = value_of(*given, "backward", place);
    if (seed.type->type.shape != v.type->type.shape)
      raise(Code::AG3021,
            "Mismatch in shape: grad_output[" + std::to_string(index) + "] has a shape of " + size_text(seed.type) +
                " and output[" + std::to_string(index) + "] has a shape of " + size_text(v.type) + ".",
            place);
    if (seed.dtype() == v.dtype()) return *given;
    return apply(rec::r::to, {given}, {static_cast<std::int64_t>(v.dtype())}, place);
  }
  for (const Dim& d : v.type->type.shape)
    if (!d.is(1)) raise(Code::AG3021, "grad can be implicitly created only for scalar outputs", place);
  std::vector<std::int64_t> params{static_cast<std::int64_t>(v.dtype()), rec::bits(1)};
  params.insert(params.end(), v.type->shape.begin(), v.type->shape.end());
  return apply(rec::r::full, std::span<const Arg>(), params, place);
}

}  // namespace

std::vector<Tensor> differentiate(const std::vector<Tensor>& outputs, const std::vector<Tensor>& seeds,
                                  const std::vector<Tensor>* inputs, bool retain, bool create_graph, bool allow_unused,
                                  bool accumulate, const Place& place) {
  Session& s = Session::current();
  std::vector<Edge> roots;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    value_of(outputs[i], "backward", place);
    roots.push_back(gradient_edge(*outputs[i].impl()));
    if (!roots.back().node)
      raise(Code::AG3021,
            "element " + std::to_string(i) + " of tensors does not require grad and does not have a grad_fn", place);
  }
  ModeGuard mode(s, create_graph);
  Walk walk(s, retain, create_graph, place);
  for (std::size_t i = 0; i < outputs.size(); ++i)
    walk.root(roots[i], seed_for(outputs[i], i < seeds.size() ? &seeds[i] : nullptr, i, place));
  std::vector<Edge> edges;
  if (inputs) {
    for (const Tensor& t : *inputs) {
      value_of(t, "grad", place);
      edges.push_back(gradient_edge(*t.impl()));
      if (!edges.back().node) raise(Code::AG3021, "One of the differentiated Tensors does not require grad", place);
    }
    walk.capture(edges);
  }
  walk.run(accumulate);
  if (!inputs) return {};
  for (const Tensor& t : walk.found())
    if (!t.defined() && !allow_unused)
      raise(Code::AG3021,
            "One of the differentiated Tensors appears to not have been used in the graph. Set "
            "allow_unused=True if this is the desired behavior.",
            place);
  return std::move(walk.found());
}

}  // namespace ag::lazy
