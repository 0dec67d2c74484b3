// A whole training step as one graph: the value of the loss, the gradients of all trainable parameters, and their
// update by an optimiser. What a step keeps (parameters, slots of the optimiser, running statistics) are inputs that
// carry the attribute `state`: the name of the output that is their next value, element by element in row-major order
// (its shape may be another). Compiled, they are buffers of the kind `state`, which whoever runs the program owns and
// each step changes in place.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "passes/pass.hpp"

namespace ag::passes {

/// Rules and defaults are torch's (torch.optim.SGD, Adam, AdamW).
struct Optimiser {
  enum class Kind : std::uint8_t { sgd, adam, adamw };
  Kind kind = Kind::sgd;
  double lr = 1e-3, weight_decay = 0;
  double momentum = 0, dampening = 0;          ///< sgd
  bool nesterov = false;                       ///< sgd
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  ///< adam, adamw
};
Optimiser default_optimiser(Optimiser::Kind kind);

/// "adamw,lr=1e-3", "optimizer=sgd,momentum=0.9": a name, then options of that optimiser. Errors: AG0402, without
/// place.
Result<Optimiser> parse_optimiser(std::string_view text);

/// What is trained and what else a step changes, where the graph does not say so itself.
struct TrainSpec {
  std::vector<std::string> parameters;  ///< constants or inputs; empty: the constants marked `trainable`
  std::vector<std::pair<std::string, std::string>> carried;  ///< inputs, and the output that is the next value of each
};
struct StateValue {
  std::string name;
  LiteralPtr initial;  ///< null if it was an input
};
struct TrainStep {
  Graph graph;  ///< differentiated; inputs of its own first, then states; next values last of outputs
  std::vector<StateValue> states;  ///< in the order of the inputs they became
};
/// The first output is the loss. State are: every parameter under its name; `<name>.momentum_buffer`,
/// `<name>.exp_avg` and `<name>.exp_avg_sq` of each; `optimizer.step` and `optimizer.lr`, which may be set between
/// steps; running statistics that a batch norm in training mode gives new values. Requests for gradients that the graph
/// has are dropped. Errors: AG5303, and those of autodiff.
Result<TrainStep> train_step(Graph graph, const Optimiser& optimiser, PassContext& context, const TrainSpec& spec = {});

/// The output that holds the next value of an input, if the input is state.
const std::string* next_of_state(const Graph& graph, ValueId input);

}  // namespace ag::passes
