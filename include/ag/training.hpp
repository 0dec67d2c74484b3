// Whole training steps as compiled programs: forward, backward and the update of all parameters, in place.
//
//   ag::nn::Sequential model(...);
//   auto step = ag::train_step("step", model, ag::optim::adamw({.lr = 1e-3}),
//                              [&](const Tensor& x, const Tensor& y) { return ag::cross_entropy(model(x), y); },
//                              ag::arg("x", ag::f32, {64, 784}), ag::arg("y", ag::i64, {64}));
//   for (...) step.run({{"x", x}, {"y", y}}, {{"loss", loss}});
//   step.store(model);
//
// Thread safety: one step at a time.
#pragma once
#include "ag/graph.hpp"
#include "ag/nn.hpp"

namespace ag {
AG_API_NAMESPACE {
  namespace optim {
  /// How a compiled step updates its parameters.
  struct Rule {
    enum class Kind : std::uint8_t { sgd, adam, adamw } kind = Kind::sgd;
    SGDOptions sgd;
    AdamOptions adam;
  };
  inline Rule sgd(SGDOptions o) { return {Rule::Kind::sgd, o, {}}; }
  inline Rule adam(AdamOptions o = {}) { return {Rule::Kind::adam, {}, o}; }
  /// Weight decay apart from the gradient: 0.01 unless it is given.
  struct AdamWOptions {
    double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  };
  inline Rule adamw(AdamWOptions o = {}) {
    return {Rule::Kind::adamw, {}, {o.lr, o.beta1, o.beta2, o.eps, o.weight_decay}};
  }
  }  // namespace optim

  /// A compiled step and the state that it changes: parameters, running statistics, what the optimiser keeps. The state
  /// lies in memory of the step's own; a run touches nothing else but its inputs and outputs, and allocates nothing
  /// after the first at given sizes. After an error half-way, a run is refused (AG5402) until all state was set.
  class TrainStep {
   public:
    TrainStep() = default;
    std::vector<Port> inputs() const, outputs() const;
    std::vector<Port> state() const;  ///< "0.weight", "0.weight.exp_avg", ..., "optimizer.step", "optimizer.lr"
    /// One step. Outputs may be left out, all of them too.
    void run(const Bindings& inputs, const Bindings& outputs = {});
    /// With new tensors as outputs, in order: the loss first.
    Tensors operator()(const Tensors& inputs);

    double learning_rate() const;
    void set_learning_rate(double lr);  ///< compiles nothing
    Tensor state(const std::string& name) const;  ///< a copy
    nn::NamedTensors state_dict() const;  ///< copies of all; save_tensors() writes them
    /// Sets the state of these names. Errors: AG5404 for a name, element type or shape that is not the step's.
    void load_state_dict(const nn::NamedTensors& values);
    /// Parameters and buffers of a module, to and from the state of the same names.
    void store(nn::Module& module) const;
    void load(const nn::Module& module);

    struct Impl;
    explicit TrainStep(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

   private:
    std::shared_ptr<Impl> impl_;
  };

  namespace detail {
  TrainStep train_step(std::string name, const nn::NamedTensors& parameters, const nn::NamedTensors& buffers,
                       const optim::Rule& rule, std::vector<Argument> args,
                       const std::function<Named(const Tensors&)>& f, const CompileOptions& options,
                       const Place& place);
  inline Named named_loss(Named out) {
    if (out.size() == 1 && out[0].first == "y") out[0].first = "loss";
    return out;
  }
  }  // namespace detail

  /// Traces `loss` once and compiles the step that trains the module's parameters (those that require a gradient). The
  /// function gives the loss, or pairs of names and tensors, the loss first; it is named `loss` if it has no name.
  /// Parameters and buffers begin with what the module has; afterwards they are the step's own (store, load).
  template <class F, class... A>
    requires(std::is_same_v<std::remove_cvref_t<A>, Argument> && ...)
  TrainStep train_step(detail::TraceName name, const nn::Module& module, const optim::Rule& rule, F loss, A&&... args) {
    return detail::train_step(
        std::move(name.text), module.named_parameters(), module.named_buffers(), rule, {std::forward<A>(args)...},
        [&loss](const Tensors& in) {
          return detail::named_loss(detail::call(loss, in, std::index_sequence_for<A...>()));
        },
        {}, name.place);
  }
  /// The same for parameters that are no module's.
  template <class F, class... A>
    requires(std::is_same_v<std::remove_cvref_t<A>, Argument> && ...)
  TrainStep train_step(detail::TraceName name, const nn::NamedTensors& parameters, const optim::Rule& rule, F loss,
                       A&&... args) {
    return detail::train_step(
        std::move(name.text), parameters, {}, rule, {std::forward<A>(args)...},
        [&loss](const Tensors& in) {
          return detail::named_loss(detail::call(loss, in, std::index_sequence_for<A...>()));
        },
        {}, name.place);
  }
  /// The step of a graph, traced or loaded: its first output is the loss. Trained are the values named, or what the
  /// graph marks as trainable.
  TrainStep train_step(const Graph& graph, const optim::Rule& rule, const std::vector<std::string>& parameters = {},
                       const CompileOptions& options = {});

}  // AG_API_NAMESPACE
}  // namespace ag
