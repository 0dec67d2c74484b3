// Automatic differentiation: gradient mode, the graph of functions, gradients by name, the tape.
#pragma once
#include "ag/functions.hpp"

namespace ag {
AG_API_NAMESPACE {
/// While it lives, nothing is recorded for differentiation in this thread.
  class NoGradGuard {
   public:
    NoGradGuard();
    ~NoGradGuard();
    NoGradGuard(const NoGradGuard&) = delete;
    NoGradGuard& operator=(const NoGradGuard&) = delete;

   private:
    bool before_;
  };
/// Sets gradient mode while it lives.
  class AutoGradMode {
   public:
    explicit AutoGradMode(bool enabled);
    ~AutoGradMode();
    AutoGradMode(const AutoGradMode&) = delete;
    AutoGradMode& operator=(const AutoGradMode&) = delete;

   private:
    bool before_;
  };
  bool is_grad_enabled();

/// A function of the backward graph.
  class Node : public std::enable_shared_from_this<Node> {
   public:
    struct Edge {
      std::shared_ptr<Node> function;  ///< null if no gradient flows there
      std::uint32_t input_nr = 0;
    };
    explicit Node(lazy::GradNode* node);
    ~Node();
    std::string name() const;  ///< "MulBackward0", "AccumulateGrad"
    std::vector<Edge> next_functions() const;
    std::vector<Edge> next_edges() const { return next_functions(); }
    Tensor variable() const;  ///< of an AccumulateGrad: the leaf
    bool operator==(const Node& o) const { return node_ == o.node_; }

   private:
    lazy::GradNode* node_;
  };

  namespace autograd {

/// Gradients of the sum of `outputs`, weighted by `seeds`, with respect to `inputs`; `.grad` is left alone.
/// retain_graph defaults to create_graph. An input that was not used is an error, or with allow_unused undefined.
  std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                           const std::vector<Tensor>& seeds = {}, std::optional<bool> retain_graph = {},
                           bool create_graph = false, bool allow_unused = false, Place place = Place::current());
  void backward(const std::vector<Tensor>& outputs, const std::vector<Tensor>& seeds = {},
                std::optional<bool> retain_graph = {}, bool create_graph = false, Place place = Place::current());

  }  // namespace autograd

// ---- Functional forms
// ----------------------------------------------------------------------------------------------

  using Tensors = std::vector<Tensor>;
  using Function = std::function<Tensor(const Tensor&)>;
  using MultiFunction = std::function<Tensors(const Tensors&)>;

/// The gradient of a function of one element, as a function. Nests: grad(grad(f)).
  Function grad(Function f);
  std::function<std::pair<Tensor, Tensor>(const Tensor&)> value_and_grad(Function f);
  std::function<std::pair<Tensor, Tensors>(const Tensors&)> value_and_grad(std::function<Tensor(const Tensors&)> f);
/// The value at x, and the function from a cotangent of it to one of x.
  std::pair<Tensor, Function> vjp(const Function& f, const Tensor& x);
  std::pair<Tensors, std::function<Tensors(const Tensors&)>> vjp(const MultiFunction& f, const Tensors& x);
/// The value at x and its derivative in direction v.
  std::pair<Tensor, Tensor> jvp(const Function& f, const Tensor& x, const Tensor& v);
  Tensor jacobian(const Function& f, const Tensor& x);  ///< shape: that of f(x), then that of x
  Tensor hessian(const Function& f, const Tensor& x);   ///< of a function of one element
  Tensor hvp(const Function& f, const Tensor& x, const Tensor& v);
  /// f of each member along the first axis of its arguments, at once; results have that axis in front. `batched` says
  /// which arguments have it: all, if it is empty.
  Function vmap(Function f);
  MultiFunction vmap(MultiFunction f, std::vector<bool> batched = {});
  Tensor stop_gradient(const Tensor& x, Place place = Place::current());
  /// f(x) with its intermediate values computed again in backward instead of kept.
  Tensor checkpoint(const Function& f, const Tensor& x);
  Tensors checkpoint(const MultiFunction& f, const Tensors& x);
  /// A function with a derivative of its own. `forward` gives outputs and what to save; `backward` gets the saved
  /// values and the cotangents of the outputs and gives those of the inputs (undefined: none).
  MultiFunction custom_vjp(std::function<std::pair<Tensors, Tensors>(const Tensors&)> forward,
                           std::function<Tensors(const Tensors& saved, const Tensors& cotangents)> backward,
                           std::string name = "CustomBackward");

  /// Gradients in TensorFlow's manner: what is computed from watched tensors while the tape lives can be
  /// differentiated.
  class GradientTape {
   public:
    explicit GradientTape(bool persistent = false);
    ~GradientTape();
    GradientTape(const GradientTape&) = delete;
    GradientTape& operator=(const GradientTape&) = delete;
    void watch(const Tensor& t);
    void watch(const Tensors& ts);
    /// While the result lives, nothing is recorded.
    [[nodiscard]] NoGradGuard stop_recording() const { return NoGradGuard(); }
    /// Undefined where the target does not depend on the source. A tape that is not persistent answers once.
    Tensor gradient(const Tensor& target, const Tensor& source, const Tensor& seed = {});
    Tensors gradient(const Tensor& target, const Tensors& sources, const Tensor& seed = {});
    Tensor jacobian(const Tensor& target, const Tensor& source);
    void reset();

   private:
    bool persistent_, used_ = false;
    std::vector<Tensor> watched_;
  };

}  // AG_API_NAMESPACE
}  // namespace ag
