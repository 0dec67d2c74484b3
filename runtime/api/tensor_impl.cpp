#include "runtime/api/tensor_impl.hpp"

#include <atomic>

#include "frontend/trace/recipes.hpp"
#include "runtime/api/trace_frame.hpp"

namespace ag::lazy {

void before_grad_changes(TensorImpl& impl) {
  TraceFrame* frame = Session::current().frame;
  if (!frame) return;
  frame->undo.push_back([keep = ImplRef(&impl), was = impl.extra ? impl.extra->grad : api::Tensor()] {
    if (keep->extra) keep->extra->grad = was;
  });
}

using api::Tensor;

void TensorImpl::destroy() {
  if (extra && grad_fn && grad_fn->extra)
    std::erase_if(grad_fn->extra->retain, [this](const auto& r) { return r.second == this; });
  delete this;
}
Extra& TensorImpl::more() {
  if (!extra) extra = std::make_unique<Extra>();
  return *extra;
}

void GradNode::destroy() {
  // A chain of functions may be long: taken apart without recursion.
  static thread_local std::vector<GradNode*>* doomed = nullptr;
  if (doomed) return doomed->push_back(this);
  std::vector<GradNode*> list{this};
  doomed = &list;
  while (!list.empty()) {
    GradNode* n = list.back();
    list.pop_back();
    if (n->kind == Kind::accumulate && n->variable) n->variable->more().accumulator = nullptr;
    delete n;
  }
  doomed = nullptr;
}

ImplRef make_impl(ValueRef value) {
  ImplRef impl(new TensorImpl);
  impl->value = std::move(value);
  return impl;
}
Tensor make_tensor(ValueRef value) { return wrap(make_impl(std::move(value))); }

bool needs_grad(const Tensor& t) { return t.defined() && t.impl()->tracked(); }

Edge gradient_edge(TensorImpl& t) {
  if (t.grad_fn) return {t.grad_fn, t.output_nr};
  if (!t.requires_grad) return {};
  Extra& extra = t.more();
  if (extra.accumulator) return {NodeRef(extra.accumulator), 0};
  NodeRef node(new GradNode);
  node->kind = GradNode::Kind::accumulate;
  node->name = "AccumulateGrad";
  node->variable = ImplRef(&t);
  node->sequence = ++Session::current().sequence;
  node->results.push_back(t.value->type);
  extra.accumulator = node.get();
  return {node, 0};
}

namespace {

/// Brings a view up to its base's value.
void refresh(TensorImpl& impl, const Place& place) {
  ViewInfo& view = *impl.extra->view;
  if (view.base->extra && view.base->extra->view) refresh(*view.base, place);
  if (view.seen == view.base->version) return;
  view.seen = view.base->version;
  const Arg base{view.base.get(), view.base->value.get()};
  Tensor again = apply(*view.recipe, std::span(&base, 1), view.params, place);
  impl.value = again.impl()->value;
  impl.grad_fn = again.impl()->grad_fn;
  impl.output_nr = again.impl()->output_nr;
  ++impl.version;
}

}  // namespace

Value& value_of(const Tensor& t, std::string_view what, const Place& place) {
  if (!t.defined()) raise(Code::AG5404, "expected a tensor in " + std::string(what) + ", but got None", place);
  TensorImpl& impl = *t.impl();
  if (impl.extra && impl.extra->view) [[unlikely]]
    refresh(impl, place);
  return *impl.value;
}

Arg arg_of(const Tensor& t, const Place& place) {
  Value& v = value_of(t, "an operation", place);
  return {t.impl(), &v};
}

// ---- Types ----------------------------------------------------------------------------------------------------------

namespace {

int category(DType t) { return t == DType::boolean ? 0 : is_int(t) ? 1 : 2; }

/// torch.promote_types
DType promote(DType a, DType b) {
  if (a == b) return a;
  if (category(a) != category(b)) return category(a) > category(b) ? a : b;
  if (is_float(a)) {
    if (a == DType::f64 || b == DType::f64) return DType::f64;
    return DType::f32;  // f32 with a half, or the two halves
  }
  auto bytes = [](DType t) { return dtype_bytes(t); };
  const bool mixed = is_signed_int(a) != is_signed_int(b);
  if (!mixed) return bytes(a) > bytes(b) ? a : b;
  const DType s = is_signed_int(a) ? a : b, u = is_signed_int(a) ? b : a;
  if (bytes(s) > bytes(u)) return s;
  switch (bytes(u)) {
    case 1: return DType::i16;
    case 2: return DType::i32;
    default: return DType::i64;
  }
}

void join(std::optional<DType>& to, DType t) { to = to ? promote(*to, t) : t; }

}  // namespace

void Promotion::tensor(DType t, bool has_axes) { join(has_axes ? dim_ : zero_, t); }
void Promotion::scalar(api::Scalar::Kind kind) {
  join(number_, kind == api::Scalar::Kind::real      ? DType::f32
                : kind == api::Scalar::Kind::integer ? DType::i64
                                                     : DType::boolean);
}
DType Promotion::result() const {
  std::optional<DType> t = dim_;
  for (const auto& next : {zero_, number_})
    if (next && (!t || category(*next) > category(*t))) t = next;
  return t.value_or(DType::f32);
}

std::string type_name(DType t) {
  static constexpr const char* names[] = {"Double", "Float", "Half", "BFloat16", "Long", "Int", "Short",
                                          "Char",   "ULong", "UInt", "UShort",   "Byte", "Bool"};
  return names[static_cast<int>(t)];
}

// ---- Recording ------------------------------------------------------------------------------------------------------

namespace {
/// Bodies of control flow use values of the traces around them: their histories belong to the whole op.
void note_history(Session& s, const Arg& a) {
  for (TraceFrame* f = s.frame; f && f->captures_values() && a.value->home != f; f = f->outer())
    f->histories[a.value] = gradient_edge(*a.impl);
}
}  // namespace

TensorList apply_some(const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                      std::span<const Arg> operands, rec::Params params, const Place& place) {
  Session& s = Session::current();
  Value* few[8];
  std::vector<Value*> many;
  Value** values = few;
  if (operands.size() > std::size(few)) many.resize(operands.size()), values = many.data();
  std::uint64_t wanted = 0;
  const bool tracks = s.grad_mode && (call || !recipe->grad.empty());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    values[i] = operands[i].value;
    if (s.frame && operands[i].impl && operands[i].impl->tracked()) [[unlikely]]
      note_history(s, operands[i]);
    if (tracks && operands[i].impl && operands[i].impl->tracked() && is_float(values[i]->dtype()))
      wanted |= std::uint64_t{1} << std::min<std::size_t>(i, 63);
  }
  Results results;
  const auto recorded = s.record(recipe, call, {values, operands.size()}, params, results, place);
  TensorList out;
  for (ValueRef& v : results) out.push_back(make_tensor(std::move(v)));
  if (!wanted) return out;

  const VjpPtr* known = s.known_derivative(recorded.node, wanted);
  NodeRef node(new GradNode);
  if (known) {
    node->vjp = *known;
  } else {
    std::vector<TypePtr> types;
    for (std::size_t i = 0; i < operands.size(); ++i) types.push_back(values[i]->type);
    node->vjp = s.derivative(recorded.node, recipe, call, types, params, wanted, place);
  }
  node->segment = s.segment_number();
  node->place = place;
  if (recipe)
    node->name = recipe->grad;
  else
    node->name = call->grads.empty() ? std::string_view("CallBackward0") : std::string_view(call->grads[0]);
  for (const Vjp::Source& in : node->vjp->inputs) {
    using Kind = Vjp::Source::Kind;
    node->saved.push_back(in.kind == Kind::operand  ? ValueRef(values[in.index])
                          : in.kind == Kind::result ? out[in.index].impl()->value
                                                    : ValueRef());
  }
  node->next.resize(operands.size());
  for (std::size_t i = 0; i < operands.size(); ++i)
    if (operands[i].impl && (wanted >> std::min<std::size_t>(i, 63) & 1u))
      node->next[i] = gradient_edge(*operands[i].impl);
  node->sequence = ++s.sequence;  // above that of the leaves' functions, which the line before may have made
  for (std::uint32_t k = 0; k < out.size(); ++k) {
    TensorImpl& impl = *out[k].impl();
    node->results.push_back(impl.value->type);
    if (!is_float(impl.value->dtype())) continue;
    impl.grad_fn = node;
    impl.output_nr = k;
  }
  return out;
}

std::vector<Tensor> apply_all(const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                              std::span<const Arg> operands, rec::Params params, const Place& place) {
  TensorList out = apply_some(recipe, call, operands, params, place);
  return std::vector<Tensor>(std::make_move_iterator(out.begin()), std::make_move_iterator(out.end()));
}

Tensor apply(const rec::Recipe& recipe, std::span<const Arg> operands, rec::Params params, const Place& place) {
  return std::move(apply_some(&recipe, nullptr, operands, params, place)[0]);
}

Tensor apply(const rec::Recipe& recipe, std::initializer_list<const Tensor*> operands,
             std::initializer_list<std::int64_t> params, const Place& place) {
  Arg few[8];
  std::size_t n = 0;
  for (const Tensor* t : operands) few[n++] = arg_of(*t, place);
  return apply(recipe, std::span<const Arg>(few, n), rec::Params(params.begin(), params.size()), place);
}

std::vector<Tensor> call_graph(const std::shared_ptr<const rec::Call>& call, const std::vector<Tensor>& in,
                               const Place& place) {
  std::vector<Arg> args;
  for (const Tensor& t : in) args.push_back(arg_of(t, place));
  return apply_all(nullptr, call, args, {}, place);
}

std::vector<Tensor> attach_custom(std::vector<Tensor> outputs, const std::vector<Tensor>& inputs, std::string name,
                                  std::function<std::vector<Tensor>(const std::vector<Tensor>&)> backward,
                                  const Place& place) {
  Session& s = Session::current();
  bool any = false;
  for (const Tensor& t : inputs) any |= needs_grad(t);
  if (!any || !s.grad_mode) return outputs;
  NodeRef node(new GradNode);
  node->kind = GradNode::Kind::custom;
  node->more().name = std::move(name);
  node->name = node->extra->name;
  node->extra->custom = std::move(backward);
  node->segment = s.segment_number();
  node->place = place;
  for (const Tensor& t : inputs) node->next.push_back(t.defined() ? gradient_edge(*t.impl()) : Edge{});
  node->sequence = ++s.sequence;
  for (std::uint32_t k = 0; k < outputs.size(); ++k) {
    // A new tensor: the function's own result may be one of its inputs.
    ImplRef impl = make_impl(ValueRef(&value_of(outputs[k], "an output", place)));
    node->results.push_back(impl->value->type);
    if (is_float(impl->value->dtype())) {
      impl->grad_fn = node;
      impl->output_nr = k;
    }
    outputs[k] = wrap(std::move(impl));
  }
  return outputs;
}

// ---- Views and changes in place
// ---------------------------------------------------------------------------------------

Tensor apply_view(const rec::Recipe& recipe, const Tensor& x, rec::Params params, const Place& place) {
  const Arg a = arg_of(x, place);
  Tensor y = apply(recipe, std::span(&a, 1), params, place);
  auto view = std::make_unique<ViewInfo>();
  view->base = impl_ref(x);
  view->recipe = &recipe;
  view->params.assign(params.begin(), params.end());
  view->seen = x.impl()->version;
  y.impl()->more().view = std::move(view);
  return y;
}

void assign(const Tensor& target, const Tensor& result, std::string_view what, const Place& place) {
  TensorImpl& to = *target.impl();
  Value& from = value_of(result, what, place);
  const Value& old = value_of(target, what, place);
  Session& s = Session::current();
  if (s.grad_mode && !to.grad_fn && to.requires_grad)
    raise(Code::AG3020, "a leaf Variable that requires grad is being used in an in-place operation.", place);
  if (s.grad_mode && to.extra && to.extra->view) {
    for (TensorImpl* base = to.extra->view->base.get(); base;
         base = base->extra && base->extra->view ? base->extra->view->base.get() : nullptr)
      if (base->requires_grad && !base->grad_fn)
        raise(Code::AG3020, "a view of a leaf Variable that requires grad is being used in an in-place operation.",
              place);
  }
  if (old.type->type.shape != from.type->type.shape)
    raise(Code::AG2208,
          "output with shape " + shape_str(old.type->type.shape) + " doesn't match the broadcast shape " +
              shape_str(from.type->type.shape),
          place);
  Tensor same = result;
  if (old.dtype() != from.dtype()) {
    if (category(from.dtype()) > category(old.dtype()))
      raise(Code::AG2102,
            "result type " + type_name(from.dtype()) + " can't be cast to the desired output type " +
                type_name(old.dtype()),
            place);
    same = apply(rec::r::to, {&result}, {static_cast<std::int64_t>(old.dtype())}, place);
  }
  if (!s.grad_mode && to.requires_grad && !to.grad_fn) s.updated = true;
  if (to.extra && to.extra->view) {
    ViewInfo& view = *to.extra->view;
    const rec::Recipe* back = rec::r::write_back(*view.recipe);
    if (!back)
      raise(Code::AG5405,
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            "Please clone() the tensor before performing the operation.",
            place);
    Tensor base = wrap(view.base);
    const Arg args[] = {arg_of(base, place), arg_of(same, place)};
    Tensor whole = apply(*back, args, view.params, place);
    assign(base, whole, what, place);
    return;  // the view follows its base
  }
  if (to.extra && to.grad_fn && to.grad_fn->extra)
    std::erase_if(to.grad_fn->extra->retain, [&](const auto& r) { return r.second == &to; });
  to.value = same.impl()->value;
  if (s.grad_mode || same.impl()->grad_fn) {
    to.grad_fn = same.impl()->grad_fn;
    to.output_nr = same.impl()->output_nr;
  }
  ++to.version;
}

// ---- Warnings
namespace {
std::atomic<void (*)(const std::string&)> console{nullptr};
}
void to_console(const std::string& line) {
  if (auto* write = console.load()) write(line);
}
void set_console(void (*write)(const std::string&)) { console = write; }

// ---------------------------------------------------------------------------------------------------------

namespace {
std::function<void(const std::string&)>& warning_handler() {
  static thread_local std::function<void(const std::string&)> handler = [](const std::string& text) {
    to_console("Warning: " + text);
  };
  return handler;
}
}  // namespace

void warn(const std::string& text) {
  if (warning_handler()) warning_handler()(text);
}
void set_warning_handler(std::function<void(const std::string&)> handler) { warning_handler() = std::move(handler); }

}  // namespace ag::lazy
