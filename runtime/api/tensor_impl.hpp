// Tensors and gradient functions as the library sees them.
#pragma once
#include "runtime/api/public.hpp"
#include "runtime/api/session.hpp"

namespace ag::lazy {

struct GradNode;
struct TensorImpl;
using ImplRef = Ref<TensorImpl>;
using NodeRef = Ref<GradNode>;

struct Hooks {
  std::vector<std::pair<unsigned, std::function<api::Tensor(api::Tensor)>>> list;
  unsigned next = 0;
};

/// A view: the base and how it is seen. Its value follows the base; writing it writes the base.
struct ViewInfo {
  ImplRef base;
  const rec::Recipe* recipe = nullptr;
  std::vector<std::int64_t> params;
  std::uint32_t seen = 0;  ///< the base's version that the value was made from
};

/// What only some tensors have.
struct Extra {
  api::Tensor grad;
  GradNode* accumulator = nullptr;  ///< not owned: it owns the tensor
  std::shared_ptr<Hooks> hooks;     ///< of a leaf
  std::unique_ptr<ViewInfo> view;
};

struct TensorImpl {
  std::atomic<std::uint32_t> refs{0};
  std::uint32_t version = 0, output_nr = 0;
  bool requires_grad = false;  ///< of a leaf
  ValueRef value;
  NodeRef grad_fn;
  std::unique_ptr<Extra> extra;

  void destroy();
  Extra& more();
  bool tracked() const { return requires_grad || grad_fn; }
};

/// Before a gradient is given or dropped: a trace puts back what was there when it ends.
void before_grad_changes(TensorImpl& impl);

struct Edge {
  NodeRef node;
  std::uint32_t nr = 0;
};

/// What only some gradient functions have.
struct NodeExtra {
  std::string name;  ///< what GradNode::name refers to, if it is not a constant
  std::function<std::vector<api::Tensor>(const std::vector<api::Tensor>&)> custom;
  std::vector<std::pair<std::uint32_t, std::shared_ptr<Hooks>>> hooks;  ///< per result
  std::vector<std::pair<std::uint32_t, TensorImpl*>> retain;            ///< results whose gradient is kept
};

/// A function of the backward graph: saved values, and where its gradients go.
struct GradNode {
  enum class Kind : std::uint8_t { operation, accumulate, custom } kind = Kind::operation;
  bool freed = false;
  std::atomic<std::uint32_t> refs{0};
  std::uint32_t mark = 0;        ///< of the walk in progress
  std::uint64_t walk = 0;        ///< its number
  std::uint64_t sequence = 0, segment = 0;
  std::string_view name;
  VjpPtr vjp;
  Small<ValueRef, 3> saved;       ///< per vjp input; null for cotangents
  Small<Edge, 2> next;           ///< per operand
  Small<TypePtr, 1> results;    ///< types of what it gave
  ImplRef variable;              ///< accumulate
  api::Place place;
  std::unique_ptr<NodeExtra> extra;
  NodeExtra& more() {
    if (!extra) extra = std::make_unique<NodeExtra>();
    return *extra;
  }
  void destroy();
};

/// An operand: a tensor, or a bare value (a number).
struct Arg {
  TensorImpl* impl = nullptr;
  Value* value = nullptr;
};

inline api::Tensor wrap(ImplRef impl) { return api::Tensor(impl.leak(), true); }
inline ImplRef impl_ref(const api::Tensor& t) { return ImplRef(t.impl()); }
ImplRef make_impl(ValueRef value);
api::Tensor make_tensor(ValueRef value);
/// The tensor's value now: a view follows its base. Throws for an undefined tensor.
Value& value_of(const api::Tensor& t, std::string_view what, const Place& place);
/// Where the gradient of a tensor goes; no node if it needs none.
Edge gradient_edge(TensorImpl& t);
bool needs_grad(const api::Tensor& t);

/// The type in which operands meet, as in torch: numbers and tensors without axes do not widen within a category.
class Promotion {
 public:
  void tensor(DType t, bool has_axes);
  void scalar(api::Scalar::Kind kind);
  DType result() const;

 private:
  std::optional<DType> dim_, zero_, number_;
};

/// Records an operation, and its gradient function if one is needed.
std::vector<api::Tensor> apply_all(const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                                   std::span<const Arg> operands, rec::Params params, const Place& place);
using TensorList = Small<api::Tensor, 3>;
TensorList apply_some(const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                      std::span<const Arg> operands, rec::Params params, const Place& place);
api::Tensor apply(const rec::Recipe& recipe, std::span<const Arg> operands, rec::Params params, const Place& place);
Arg arg_of(const api::Tensor& t, const Place& place);
/// With one to three tensors.
api::Tensor apply(const rec::Recipe& recipe, std::initializer_list<const api::Tensor*> operands,
                  std::initializer_list<std::int64_t> params, const Place& place);
std::vector<api::Tensor> call_graph(const std::shared_ptr<const rec::Call>& call, const std::vector<api::Tensor>& in,
                                    const Place& place);
/// A gradient function written in C++ between tensors: outputs (not tracked so far) come to depend on `inputs`.
std::vector<api::Tensor> attach_custom(
    std::vector<api::Tensor> outputs, const std::vector<api::Tensor>& inputs, std::string name,
    std::function<std::vector<api::Tensor>(const std::vector<api::Tensor>&)> backward, const Place& place);
/// A view, which writes through.
api::Tensor apply_view(const rec::Recipe& recipe, const api::Tensor& x, rec::Params params, const Place& place);
/// The tensor takes the value and history of `result`: what an in-place operation does.
void assign(const api::Tensor& target, const api::Tensor& result, std::string_view what, const Place& place);
/// Gradients; see autograd.cpp.
std::vector<api::Tensor> differentiate(const std::vector<api::Tensor>& outputs, const std::vector<api::Tensor>& seeds,
                                       const std::vector<api::Tensor>* inputs, bool retain, bool create_graph,
                                       bool allow_unused, bool accumulate, const Place& place);
void warn(const std::string& text);
void set_console(void (*write)(const std::string& line));
void set_warning_handler(std::function<void(const std::string&)> handler);

inline DType ir(api::DType t) { return static_cast<DType>(t); }
inline api::DType pub(DType t) { return static_cast<api::DType>(t); }
std::string type_name(DType t);  ///< torch's word: "Float", "Long"

}  // namespace ag::lazy
