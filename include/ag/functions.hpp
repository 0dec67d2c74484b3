// Functions on tensors: factories, operators, reductions, products, shapes, networks.
#pragma once
#include "ag/tensor.hpp"

namespace ag {
AG_API_NAMESPACE {
// ---- Factories ---------------------------------------------------------------------------------------------------

  /// Nested lists of numbers: `ag::tensor({{1., 2.}, {3., 4.}})`. Doubles give f32, as in torch.
  class Data {
   public:
    template <detail::Number T>
    Data(T v)
        : dtype_(std::is_same_v<T, double> ? f32
                 : std::is_same_v<T, int>  ? i64
                                           : detail::dtype_of<T>()) {  // NOLINT
      push(v);
    }
    Data(std::initializer_list<Data> rows);
    template <detail::Number T>
    Data(const std::vector<T>& v)  // NOLINT
        : dtype_(std::is_same_v<T, double> ? f32
                 : std::is_same_v<T, int>  ? i64
                                           : detail::dtype_of<T>()),
          shape_{static_cast<std::int64_t>(v.size())} {
      for (std::size_t i = 0; i < v.size(); ++i) push(static_cast<T>(v[i]));
    }
    DType dtype() const { return dtype_; }
    const std::vector<std::int64_t>& shape() const { return shape_; }
    const std::vector<double>& reals() const { return reals_; }
    const std::vector<std::int64_t>& integers() const { return integers_; }

   private:
    template <class T>
    void push(T v) {
      reals_.push_back(static_cast<double>(v));
      integers_.push_back(static_cast<std::int64_t>(v));
    }
    DType dtype_ = f32;
    std::vector<std::int64_t> shape_;
    std::vector<double> reals_;
    std::vector<std::int64_t> integers_;
  };

  Tensor tensor(const Data& data, TensorOptions options = {});
  /// Copies `values` into a tensor of this shape.
  template <detail::Number T>
  Tensor from_vector(const std::vector<T>& values, IntList sizes, TensorOptions options = {});
  /// Memory of the caller's, used without a copy; it must live and stay unchanged while tensors made from it do.
  Tensor from_blob(void* data, IntList sizes, TensorOptions options = {});
  Tensor arange(Scalar end, TensorOptions options = {});
  Tensor arange(Scalar start, Scalar end, TensorOptions options = {});
  Tensor arange(Scalar start, Scalar end, Scalar step, TensorOptions options = {});
  Tensor linspace(Scalar start, Scalar end, std::int64_t steps, TensorOptions options = {});
  Tensor zeros(IntList sizes, TensorOptions options = {});
  Tensor ones(IntList sizes, TensorOptions options = {});
  Tensor empty(IntList sizes, TensorOptions options = {});  ///< zeros: nothing here is ever uninitialised
  Tensor full(IntList sizes, Scalar value, TensorOptions options = {});
  Tensor eye(std::int64_t n, TensorOptions options = {});
  Tensor eye(std::int64_t n, std::int64_t m, TensorOptions options = {});
  Tensor zeros_like(const Tensor& t, TensorOptions options = {}, Place place = Place::current());
  Tensor ones_like(const Tensor& t, TensorOptions options = {}, Place place = Place::current());
  Tensor full_like(const Tensor& t, Scalar value, TensorOptions options = {}, Place place = Place::current());
  Tensor empty_like(const Tensor& t, TensorOptions options = {}, Place place = Place::current());
  /// Random numbers of the session's generator (Philox), the same on every machine.
  Tensor randn(IntList sizes, TensorOptions options = {});
  Tensor rand(IntList sizes, TensorOptions options = {});
  Tensor randn_like(const Tensor& t, TensorOptions options = {});
  Tensor rand_like(const Tensor& t, TensorOptions options = {});
  Tensor randint(std::int64_t high, IntList sizes, TensorOptions options = {});
  Tensor randint(std::int64_t low, std::int64_t high, IntList sizes, TensorOptions options = {});
  Tensor randperm(std::int64_t n, TensorOptions options = {});
  Tensor bernoulli(const Tensor& p);
  Tensor normal(double mean, double std, IntList sizes, TensorOptions options = {});
  void manual_seed(std::uint64_t seed);  ///< of the calling thread's session

  // ---- Operators and functions -------------------------------------------------------------------------------------

  Tensor operator+(Operand a, Operand b);
  Tensor operator-(Operand a, Operand b);
  Tensor operator*(Operand a, Operand b);
  Tensor operator/(Operand a, Operand b);
  Tensor operator%(Operand a, Operand b);
  Tensor operator==(Operand a, Operand b);
  Tensor operator!=(Operand a, Operand b);
  Tensor operator<(Operand a, Operand b);
  Tensor operator<=(Operand a, Operand b);
  Tensor operator>(Operand a, Operand b);
  Tensor operator>=(Operand a, Operand b);
  Tensor operator&(Operand a, Operand b);
  Tensor operator|(Operand a, Operand b);
  Tensor operator^(Operand a, Operand b);
  Tensor operator-(Operand a);
  Tensor operator!(const Tensor& a);
  Tensor operator~(const Tensor& a);

  Tensor add(Operand a, Operand b);
  Tensor sub(Operand a, Operand b);
  Tensor mul(Operand a, Operand b);
  Tensor div(Operand a, Operand b);
  Tensor pow(Operand a, Operand b);
  Tensor remainder(Operand a, Operand b);
  Tensor fmod(Operand a, Operand b);
  Tensor floor_divide(Operand a, Operand b);
  Tensor maximum(Operand a, Operand b);
  Tensor minimum(Operand a, Operand b);
  Tensor atan2(Operand a, Operand b);
  Tensor eq(Operand a, Operand b);
  Tensor ne(Operand a, Operand b);
  Tensor lt(Operand a, Operand b);
  Tensor le(Operand a, Operand b);
  Tensor gt(Operand a, Operand b);
  Tensor ge(Operand a, Operand b);
  Tensor where(const Tensor& condition, Operand a, Operand b);
  Tensor logical_and(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor logical_or(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor logical_xor(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor lerp(const Tensor& a, const Tensor& b, Operand weight);
  Tensor clamp(const Tensor& x, std::optional<Scalar> low, std::optional<Scalar> high = {},
               Place place = Place::current());
#define AG_FUNCTION(name) Tensor name(const Tensor& x, Place place = Place::current());
  AG_EACH_UNARY(AG_FUNCTION)
#undef AG_FUNCTION
  Tensor log_sigmoid(const Tensor& x, Place place = Place::current());
  Tensor gelu(const Tensor& x, const std::string& approximate = "none", Place place = Place::current());
  Tensor leaky_relu(const Tensor& x, double slope = 0.01, Place place = Place::current());
  Tensor elu(const Tensor& x, double alpha = 1, Place place = Place::current());
  Tensor celu(const Tensor& x, double alpha = 1, Place place = Place::current());
  inline Tensor relu6(const Tensor& x, Place place = Place::current()) { return x.clamp(0, 6, place); }

  Tensor sum(const Tensor& x, Place place = Place::current());
  Tensor sum(const Tensor& x, IntList axes, bool keepdim = false, Place place = Place::current());
  Tensor mean(const Tensor& x, Place place = Place::current());
  Tensor mean(const Tensor& x, IntList axes, bool keepdim = false, Place place = Place::current());
  Tensor prod(const Tensor& x, Place place = Place::current());
  Tensor max(const Tensor& x, Place place = Place::current());
  Tensor min(const Tensor& x, Place place = Place::current());
  std::tuple<Tensor, Tensor> max(const Tensor& x, std::int64_t axis, bool keepdim = false,
                                 Place place = Place::current());
  std::tuple<Tensor, Tensor> min(const Tensor& x, std::int64_t axis, bool keepdim = false,
                                 Place place = Place::current());
  Tensor argmax(const Tensor& x, std::optional<std::int64_t> axis = {}, bool keepdim = false,
                Place place = Place::current());
  Tensor argmin(const Tensor& x, std::optional<std::int64_t> axis = {}, bool keepdim = false,
                Place place = Place::current());
  Tensor norm(const Tensor& x, double p = 2, Place place = Place::current());
  Tensor var(const Tensor& x, bool unbiased = true, Place place = Place::current());
  Tensor std(const Tensor& x, bool unbiased = true, Place place = Place::current());
  Tensor logsumexp(const Tensor& x, IntList axes, bool keepdim = false, Place place = Place::current());
  Tensor argsort(const Tensor& x, std::int64_t axis = -1, bool descending = false, Place place = Place::current());
  std::tuple<Tensor, Tensor> sort(const Tensor& x, std::int64_t axis = -1, bool descending = false,
                                  Place place = Place::current());
  std::tuple<Tensor, Tensor> topk(const Tensor& x, std::int64_t k, std::int64_t axis = -1, bool largest = true,
                                  Place place = Place::current());
  Tensor cumsum(const Tensor& x, std::int64_t axis, Place place = Place::current());
  bool equal(const Tensor& a, const Tensor& b);
  bool allclose(const Tensor& a, const Tensor& b, double rtol = 1e-5, double atol = 1e-8);

  Tensor dot(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor mv(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor mm(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor bmm(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor matmul(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor outer(const Tensor& a, const Tensor& b, Place place = Place::current());
  Tensor addmm(const Tensor& bias, const Tensor& a, const Tensor& b, Place place = Place::current());

  Tensor reshape(const Tensor& x, IntList sizes, Place place = Place::current());
  Tensor flatten(const Tensor& x, std::int64_t first = 0, std::int64_t last = -1, Place place = Place::current());
  Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b, Place place = Place::current());
  Tensor squeeze(const Tensor& x, Place place = Place::current());
  Tensor unsqueeze(const Tensor& x, std::int64_t axis, Place place = Place::current());
  Tensor cat(const std::vector<Tensor>& parts, std::int64_t axis = 0, Place place = Place::current());
  Tensor stack(const std::vector<Tensor>& parts, std::int64_t axis = 0, Place place = Place::current());
  Tensor tril(const Tensor& x, std::int64_t k = 0, Place place = Place::current());
  Tensor triu(const Tensor& x, std::int64_t k = 0, Place place = Place::current());
  Tensor diag(const Tensor& x, Place place = Place::current());
  Tensor nonzero(const Tensor& x, Place place = Place::current());  ///< closes the segment
  Tensor masked_select(const Tensor& x, const Tensor& mask, Place place = Place::current());  ///< closes the segment
  Tensor pad(const Tensor& x, IntList amounts, Scalar value = 0, Place place = Place::current());

  Tensor softmax(const Tensor& x, std::int64_t axis, Place place = Place::current());
  Tensor log_softmax(const Tensor& x, std::int64_t axis, Place place = Place::current());
  enum class Reduction : std::uint8_t { none, mean, sum };
  Tensor cross_entropy(const Tensor& scores, const Tensor& labels, Reduction reduction = Reduction::mean,
                       std::int64_t ignore_index = -100, Place place = Place::current());
  Tensor nll_loss(const Tensor& log_probs, const Tensor& labels, Reduction reduction = Reduction::mean,
                  std::int64_t ignore_index = -100, Place place = Place::current());
  Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& y, Reduction reduction = Reduction::mean,
                                          Place place = Place::current());
  Tensor binary_cross_entropy(const Tensor& p, const Tensor& y, Reduction reduction = Reduction::mean,
                              Place place = Place::current());
  Tensor mse_loss(const Tensor& x, const Tensor& y, Reduction reduction = Reduction::mean,
                  Place place = Place::current());
  Tensor l1_loss(const Tensor& x, const Tensor& y, Reduction reduction = Reduction::mean,
                 Place place = Place::current());
  Tensor smooth_l1_loss(const Tensor& x, const Tensor& y, Reduction reduction = Reduction::mean, double beta = 1,
                        Place place = Place::current());
  Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Place place = Place::current());
  Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, IntList stride = 1, IntList padding = 0,
                IntList dilation = 1, std::int64_t groups = 1, Place place = Place::current());
  Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, IntList stride = 1, IntList padding = 0,
                IntList dilation = 1, std::int64_t groups = 1, Place place = Place::current());
  Tensor max_pool2d(const Tensor& x, IntList kernel, IntList stride = {}, IntList padding = 0, IntList dilation = 1,
                    bool ceil_mode = false, Place place = Place::current());
  Tensor avg_pool2d(const Tensor& x, IntList kernel, IntList stride = {}, IntList padding = 0, bool ceil_mode = false,
                    bool count_include_pad = true, Place place = Place::current());
  Tensor layer_norm(const Tensor& x, IntList normalized_shape, const Tensor& weight = {}, const Tensor& bias = {},
                    double eps = 1e-5, Place place = Place::current());
  Tensor rms_norm(const Tensor& x, IntList normalized_shape, const Tensor& weight = {}, double eps = 1e-5,
                  Place place = Place::current());
  Tensor batch_norm(const Tensor& x, const Tensor& mean, const Tensor& variance, const Tensor& weight = {},
                    const Tensor& bias = {}, bool training = false, double momentum = 0.1, double eps = 1e-5,
                    Place place = Place::current());
  Tensor group_norm(const Tensor& x, std::int64_t groups, const Tensor& weight = {}, const Tensor& bias = {},
                    double eps = 1e-5, Place place = Place::current());
  Tensor embedding(const Tensor& weight, const Tensor& indices, Place place = Place::current());
  Tensor one_hot(const Tensor& indices, std::int64_t classes, Place place = Place::current());
  Tensor dropout(const Tensor& x, double p = 0.5, bool training = true, Place place = Place::current());
  Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask = {},
                                      bool is_causal = false, std::optional<double> scale = {},
                                      Place place = Place::current());

  namespace detail {
  Tensor copy_of(DType from, const void* data, std::size_t count, IntList sizes, TensorOptions options);
  }
  template <detail::Number T>
  Tensor from_vector(const std::vector<T>& values, IntList sizes, TensorOptions options) {
    return detail::copy_of(detail::dtype_of<T>(), values.data(), values.size(), std::move(sizes), options);
  }

  // ---- The session of the calling thread
  // -----------------------------------------------------------------------------

  /// How many structures have been compiled in this thread's session.
  std::size_t compilations();
  /// Receives a line for each structure that is compiled: what was new about it. `AG_FLAGS=--explain-recompiles` prints
  /// them on the standard error stream.
  void set_recompile_handler(std::function<void(const std::string&)> handler);
  /// Forgets what was compiled; the counter stays.
  void clear_compiled();

}  // AG_API_NAMESPACE
}  // namespace ag
