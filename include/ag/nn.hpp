// Modules with parameters, and optimisers. Names and defaults are torch's.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "ag/autograd.hpp"

namespace ag {
AG_API_NAMESPACE {
  namespace nn {

  using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Holds parameters, buffers and further modules by name. Copies share them.
  class Module {
   public:
    Module();
    virtual ~Module() = default;
    virtual Tensor forward(const Tensor& x) = 0;
    Tensor operator()(const Tensor& x) { return forward(x); }
    std::vector<Tensor> parameters() const;
    NamedTensors named_parameters() const;  ///< "0.weight", "0.bias", ...
    NamedTensors named_buffers() const;     ///< running statistics
    void train(bool on = true);
    void eval() { train(false); }
    bool is_training() const;
    void zero_grad(bool set_to_none = true);
    void requires_grad_(bool on = true);

   protected:
    Tensor& register_parameter(const std::string& name, Tensor t);
    Tensor& register_buffer(const std::string& name, Tensor t);
    void register_module(const std::string& name, const Module& m);

   private:
    struct State;
    static void collect(const State& s, const std::string& prefix, bool buffers, NamedTensors& out);
    static void set_training(State& s, bool on);
    std::shared_ptr<State> state_;
  };

  class Linear : public Module {
   public:
    Linear(std::int64_t in, std::int64_t out, bool bias = true);
    Tensor forward(const Tensor& x) override { return linear(x, weight, bias); }
    Tensor weight, bias;
  };
  struct Conv2dOptions {
    IntList stride = 1, padding = 0, dilation = 1;
    std::int64_t groups = 1;
    bool bias = true;
  };
  class Conv2d : public Module {
   public:
    Conv2d(std::int64_t in, std::int64_t out, IntList kernel, Conv2dOptions options = {});
    Tensor forward(const Tensor& x) override;
    Tensor weight, bias;

   private:
    Conv2dOptions options_;
  };
  class MaxPool2d : public Module {
   public:
    explicit MaxPool2d(IntList kernel) : kernel_(std::move(kernel)) {}
    Tensor forward(const Tensor& x) override { return max_pool2d(x, kernel_); }

   private:
    IntList kernel_;
  };
  class LayerNorm : public Module {
   public:
    explicit LayerNorm(IntList shape, double eps = 1e-5);
    Tensor forward(const Tensor& x) override { return layer_norm(x, shape_, weight, bias, eps_); }
    Tensor weight, bias;

   private:
    IntList shape_;
    double eps_;
  };
  class BatchNorm2d : public Module {
   public:
    explicit BatchNorm2d(std::int64_t channels, double eps = 1e-5, double momentum = 0.1);
    Tensor forward(const Tensor& x) override;
    Tensor weight, bias, running_mean, running_var;

   private:
    double eps_, momentum_;
  };
  class Embedding : public Module {
   public:
    Embedding(std::int64_t count, std::int64_t size);
    Tensor forward(const Tensor& x) override { return embedding(weight, x); }
    Tensor weight;
  };
  class Dropout : public Module {
   public:
    explicit Dropout(double p = 0.5) : p_(p) {}
    Tensor forward(const Tensor& x) override { return dropout(x, p_, is_training()); }

   private:
    double p_;
  };
  class Flatten : public Module {
   public:
    Tensor forward(const Tensor& x) override { return x.flatten(1); }
  };
#define AG_ACTIVATION(Name, function) \
  class Name : public Module { \
   public: \
    Tensor forward(const Tensor& x) override { return function; } \
  };
  AG_ACTIVATION(ReLU, x.relu())
  AG_ACTIVATION(Tanh, x.tanh())
  AG_ACTIVATION(Sigmoid, x.sigmoid())
  AG_ACTIVATION(GELU, gelu(x))
  AG_ACTIVATION(SiLU, x.silu())
#undef AG_ACTIVATION

  class Sequential : public Module {
   public:
    template <class... M>
      requires(std::is_base_of_v<Module, std::remove_cvref_t<M>> && ...)
    explicit Sequential(M&&... m) {
      (push_back(std::make_shared<std::remove_cvref_t<M>>(std::forward<M>(m))), ...);
    }
    void push_back(std::shared_ptr<Module> m);
    Tensor forward(const Tensor& x) override;
    std::size_t size() const { return modules_.size(); }
    Module& operator[](std::size_t i) { return *modules_[i]; }

   private:
    std::vector<std::shared_ptr<Module>> modules_;
  };

/// Parameters and buffers to a safetensors file, and back: by name, shapes and element types must agree.
  void save(const Module& m, const std::string& path);
  void load(Module& m, const std::string& path);

  }  // namespace nn

  void save_tensors(const std::vector<std::pair<std::string, Tensor>>& tensors, const std::string& path);
  std::vector<std::pair<std::string, Tensor>> load_tensors(const std::string& path);  ///< .npy, .npz, .safetensors

  namespace optim {

  class Optimizer {
   public:
    explicit Optimizer(std::vector<Tensor> parameters) : parameters_(std::move(parameters)) {}
    virtual ~Optimizer() = default;
    virtual void step() = 0;
    void zero_grad(bool set_to_none = true);
    double lr = 1e-3;

   protected:
    std::vector<Tensor> parameters_;
  };
  struct SGDOptions {
    double lr = 1e-3, momentum = 0, dampening = 0, weight_decay = 0;
    bool nesterov = false;
  };
  class SGD : public Optimizer {
   public:
    SGD(std::vector<Tensor> parameters, SGDOptions options);
    SGD(std::vector<Tensor> parameters, double lr) : SGD(std::move(parameters), SGDOptions{.lr = lr}) {}
    void step() override;

   private:
    SGDOptions options_;
    std::vector<Tensor> velocity_;
  };
  struct AdamOptions {
    double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  };
  class Adam : public Optimizer {
   public:
    explicit Adam(std::vector<Tensor> parameters, AdamOptions options = {});
    void step() override;

   protected:
    AdamOptions options_;
    bool decoupled_ = false;
    std::int64_t steps_ = 0;
    std::vector<Tensor> mean_, square_;
  };
/// Weight decay apart from the gradient; 0.01 by default.
  class AdamW : public Adam {
   public:
    explicit AdamW(std::vector<Tensor> parameters, AdamOptions options = {.weight_decay = 0.01});
  };

  }  // namespace optim
}  // AG_API_NAMESPACE
}  // namespace ag
