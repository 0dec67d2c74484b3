// Tensors: recorded lazily, compiled when a value is read, differentiated by backward(). Names are libtorch's.
//
// A Tensor is a handle; copies refer to the same tensor. Operations are recorded in the session of the calling thread;
// item(), data(), printing and bool() close the segment: what was recorded is compiled (or found compiled) and run.
// Thread safety: a tensor whose value is there may be read from any thread; one that is still being recorded belongs to
// its thread (eval() ends that). A tensor must not be changed while another thread uses it.
#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <iosfwd>
#include <limits>
#include <memory>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ag/error.hpp"

namespace ag {
namespace lazy {
struct TensorImpl;
struct GradNode;
}  // namespace lazy

AG_API_NAMESPACE {
  /// Element types. f16 and bf16 are computed with; a bool is one byte.
  enum class DType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean };
  inline constexpr DType f64 = DType::f64, f32 = DType::f32, f16 = DType::f16, bf16 = DType::bf16, i64 = DType::i64,
                         i32 = DType::i32, i16 = DType::i16, i8 = DType::i8, u64 = DType::u64, u32 = DType::u32,
                         u16 = DType::u16, u8 = DType::u8, boolean = DType::boolean;
  inline constexpr DType kFloat = f32, kDouble = f64, kLong = i64, kInt = i32, kBool = boolean;
  const char* dtype_name(DType t);  ///< "f32"

  namespace detail {
  template <class T>
  concept Number = std::is_arithmetic_v<T>;
  template <class T>
  consteval DType dtype_of() {
    if constexpr (std::is_same_v<T, bool>)
      return boolean;
    else if constexpr (std::is_floating_point_v<T>)
      return sizeof(T) == 4 ? f32 : f64;
    else if constexpr (std::is_signed_v<T>)
      return sizeof(T) == 8 ? i64 : sizeof(T) == 4 ? i32 : sizeof(T) == 2 ? i16 : i8;
    else
      return sizeof(T) == 8 ? u64 : sizeof(T) == 4 ? u32 : sizeof(T) == 2 ? u16 : u8;
  }
  }  // namespace detail

  /// A number of C++: it never widens a tensor within its category (float stays f32, integers stay as they are).
  class Scalar {
   public:
    enum class Kind : std::uint8_t { boolean, integer, real };
    template <detail::Number T>
    Scalar(T v)  // NOLINT: numbers are scalars
        : kind_(std::is_same_v<T, bool>       ? Kind::boolean
                : std::is_floating_point_v<T> ? Kind::real
                                              : Kind::integer),
          real_(static_cast<double>(v)),
          integer_(static_cast<std::int64_t>(v)) {}
    Kind kind() const { return kind_; }
    double real() const { return real_; }
    std::int64_t integer() const { return integer_; }

   private:
    Kind kind_;
    double real_;
    std::int64_t integer_;
  };

  /// Sizes, axes: `{2, 3}`, a vector, or one number.
  class IntList {
   public:
    IntList() = default;
    IntList(std::initializer_list<std::int64_t> v) : v_(v) {}  // NOLINT
    IntList(std::int64_t v) : v_{v} {}  // NOLINT
    IntList(int v) : v_{v} {}  // NOLINT
    IntList(std::vector<std::int64_t> v) : v_(std::move(v)) {}  // NOLINT
    IntList(std::span<const std::int64_t> v) : v_(v.begin(), v.end()) {}  // NOLINT
    const std::vector<std::int64_t>& values() const { return v_; }
    std::size_t size() const { return v_.size(); }
    std::int64_t operator[](std::size_t i) const { return v_[i]; }

   private:
    std::vector<std::int64_t> v_;
  };

  /// What factories make: `ag::ones({2,3}, ag::f64)`, `ag::randn({4}, ag::requires_grad())`.
  struct TensorOptions {
    std::optional<DType> type;
    bool grad = false;
    TensorOptions() = default;
    TensorOptions(DType t) : type(t) {}  // NOLINT
    TensorOptions dtype(DType t) const {
      TensorOptions o = *this;
      return o.type = t, o;
    }
    TensorOptions requires_grad(bool on = true) const {
      TensorOptions o = *this;
      return o.grad = on, o;
    }
  };
  inline TensorOptions dtype(DType t) { return TensorOptions(t); }
  inline TensorOptions requires_grad(bool on = true) { return TensorOptions().requires_grad(on); }

  using Place = std::source_location;
  class Tensor;
  class Node;

  /// An operand of an operator, with the place in the C++ source where it stands.
  class Operand {
   public:
    Operand(const Tensor& t, Place place = Place::current()) : tensor_(&t), scalar_(0), place_(place) {}  // NOLINT
    template <detail::Number T>
    Operand(T v, Place place = Place::current()) : scalar_(v), place_(place) {}  // NOLINT
    Operand(Scalar v, Place place = Place::current()) : scalar_(v), place_(place) {}  // NOLINT
    const Tensor* tensor() const { return tensor_; }
    Scalar scalar() const { return scalar_; }
    Place place() const { return place_; }

   private:
    const Tensor* tensor_ = nullptr;
    Scalar scalar_;
    Place place_;
  };

  /// A slice of an axis, as in Python: `Slice(1, 5)`, `Slice(None, None, 2)`.
  inline constexpr std::nullopt_t None = std::nullopt;
  struct Slice {
    std::optional<std::int64_t> start, stop, step;
    Slice(std::optional<std::int64_t> first = None, std::optional<std::int64_t> last = None,
          std::optional<std::int64_t> by = None)
        : start(first), stop(last), step(by) {}
  };
  struct Ellipsis {};
  class TensorIndex;

  class Tensor {
   public:
    Tensor() noexcept : impl_(nullptr) {}  ///< undefined: prints as None
    Tensor(const Tensor& o);
    Tensor(Tensor&& o) noexcept : impl_(std::exchange(o.impl_, nullptr)) {}
    Tensor& operator=(const Tensor& o) &;
    Tensor& operator=(Tensor&& o) & noexcept {
      std::swap(impl_, o.impl_);
      return *this;
    }
    ~Tensor() {
      if (impl_) drop();
    }
    bool defined() const { return impl_ != nullptr; }
    bool is_same(const Tensor& o) const { return impl_ == o.impl_; }

    // -- What it is
    DType dtype() const;
    DType scalar_type() const { return dtype(); }
    std::vector<std::int64_t> sizes() const;
    std::vector<std::int64_t> shape() const { return sizes(); }
    std::int64_t size(std::int64_t axis) const;
    std::int64_t dim() const;
    std::int64_t ndim() const { return dim(); }
    std::int64_t numel() const;
    bool is_floating_point() const;

    // -- Its value: reading closes the segment
    /// The one element. Error: more than one.
    template <detail::Number T = double>
    T item(Place place = Place::current()) const {
      if constexpr (std::is_floating_point_v<T>)
        return static_cast<T>(item_real(place));
      else
        return static_cast<T>(item_int(place));
    }
    /// Its elements, row-major; valid while the tensor is. With or without gradient. Error: T is not the dtype.
    template <detail::Number T>
    T* data(Place place = Place::current()) const {
      return static_cast<T*>(data_of(detail::dtype_of<T>(), place));
    }
    template <detail::Number T>
    T* data_ptr(Place place = Place::current()) const {
      return data<T>(place);
    }
    template <detail::Number T>
    std::vector<T> to_vector(Place place = Place::current()) const {
      const T* p = data<T>(place);
      return std::vector<T>(p, p + numel());
    }
    const Tensor& eval(Place place = Place::current()) const;  ///< computes it, without reading
    explicit operator bool() const;
    std::string str() const;  ///< as torch prints it

    // -- Autograd
    bool requires_grad() const;
    Tensor& requires_grad_(bool on = true, Place place = Place::current());
    Tensor& set_requires_grad(bool on) { return requires_grad_(on); }
    bool is_leaf() const;
    Tensor grad() const;  ///< undefined if none; warns for a tensor that is not a leaf
    Tensor& mutable_grad();  ///< to assign
    void set_grad(const Tensor& g);
    void zero_grad(bool set_to_none = false);
    Tensor& retain_grad();
    bool retains_grad() const;
    std::shared_ptr<Node> grad_fn() const;  ///< null for a leaf
    /// Differentiates this tensor with respect to the leaves it came from and adds to their grad().
    void backward(const Tensor& gradient = {}, std::optional<bool> retain_graph = {}, bool create_graph = false,
                  const std::vector<Tensor>& inputs = {}, Place place = Place::current()) const;
    /// Called with the gradient when it is known; a tensor it returns replaces it. Returns a number for remove_hook.
    unsigned register_hook(std::function<Tensor(Tensor)> hook) const;
    unsigned register_hook(std::function<void(Tensor)> hook) const;
    template <class F>
      requires std::is_invocable_v<F, Tensor>
    unsigned register_hook(F hook) const {
      if constexpr (std::is_void_v<std::invoke_result_t<F, Tensor>>)
        return register_hook(std::function<void(Tensor)>(std::move(hook)));
      else
        return register_hook(std::function<Tensor(Tensor)>(std::move(hook)));
    }
    void remove_hook(unsigned hook) const;
    Tensor detach(Place place = Place::current()) const;
    Tensor& detach_();
    Tensor clone(Place place = Place::current()) const;

    // -- In place: the handle shows the new value; recorded programs stay pure
    Tensor& add_(Operand o, Scalar alpha = 1);
    Tensor& sub_(Operand o, Scalar alpha = 1);
    Tensor& mul_(Operand o);
    Tensor& div_(Operand o);
    Tensor& pow_(Operand o);
    Tensor& zero_(Place place = Place::current());
    Tensor& fill_(Operand v);
    Tensor& copy_(Operand o);
    Tensor& clamp_(std::optional<Scalar> low, std::optional<Scalar> high = {}, Place place = Place::current());
    Tensor& relu_(Place place = Place::current());
    Tensor& exp_(Place place = Place::current());
    Tensor& neg_(Place place = Place::current());
    Tensor& sqrt_(Place place = Place::current());
    Tensor& sigmoid_(Place place = Place::current());
    Tensor& tanh_(Place place = Place::current());
    Tensor& normal_(double mean = 0, double std = 1);
    Tensor& uniform_(double low = 0, double high = 1);
    Tensor& masked_fill_(const Tensor& mask, Operand v);
    Tensor& index_put_(const std::vector<Tensor>& indices, Operand v, bool accumulate = false);
    Tensor& addcmul_(const Tensor& a, const Tensor& b, Scalar value = 1, Place place = Place::current());
    Tensor& addcdiv_(const Tensor& a, const Tensor& b, Scalar value = 1, Place place = Place::current());
    Tensor& lerp_(const Tensor& end, Scalar weight, Place place = Place::current());
    Tensor& operator+=(Operand o) { return add_(o); }
    Tensor& operator-=(Operand o) { return sub_(o); }
    Tensor& operator*=(Operand o) { return mul_(o); }
    Tensor& operator/=(Operand o) { return div_(o); }
    /// `x[i] = value`: writes through a view.
    Tensor& operator=(Operand o) && { return copy_(o); }
    Tensor& operator=(const Tensor& o) && { return copy_(o); }
    Tensor& operator=(Tensor&& o) && { return copy_(o); }

    // -- Indexing
    Tensor operator[](std::int64_t i) const;
    Tensor operator[](int i) const { return (*this)[static_cast<std::int64_t>(i)]; }
    Tensor operator[](const Tensor& index) const;
    Tensor index(std::initializer_list<TensorIndex> indices, Place place = Place::current()) const;
    Tensor& index_put_(std::initializer_list<TensorIndex> indices, Operand v);
    Tensor select(std::int64_t axis, std::int64_t index, Place place = Place::current()) const;
    Tensor slice(std::int64_t axis, std::optional<std::int64_t> start = {}, std::optional<std::int64_t> stop = {},
                 std::int64_t step = 1, Place place = Place::current()) const;
    Tensor narrow(std::int64_t axis, std::int64_t start, std::int64_t length, Place place = Place::current()) const;

    // -- Operations, as methods of the functions below
#define AG_METHOD(name) Tensor name(Place place = Place::current()) const;
#define AG_EACH_UNARY(M) \
  M(neg) \
  M(abs) \
  M(sign) \
  M(square) \
  M(reciprocal) \
  M(sqrt) M(rsqrt) M(exp) M(exp2) M(expm1) M(log) M(log2) M(log10) M(log1p) M(sin) M(cos) M(tan) M(asin) M(acos) \
      M(atan) M(sinh) M(cosh) M(tanh) M(asinh) M(acosh) M(atanh) M(sigmoid) M(erf) M(erfc) M(floor) M(ceil) M(round) \
          M(trunc) M(relu) M(isnan) M(isinf) M(isfinite) M(logical_not) M(silu) M(softplus) M(mish) M(selu) \
              M(hardsigmoid) M(hardswish) M(softsign)
    AG_EACH_UNARY(AG_METHOD)
#undef AG_METHOD
    Tensor add(Operand o) const;
    Tensor sub(Operand o) const;
    Tensor mul(Operand o) const;
    Tensor div(Operand o) const;
    Tensor pow(Operand o) const;
    Tensor remainder(Operand o) const;
    Tensor fmod(Operand o) const;
    Tensor floor_divide(Operand o) const;
    Tensor maximum(Operand o) const;
    Tensor minimum(Operand o) const;
    Tensor eq(Operand o) const;
    Tensor ne(Operand o) const;
    Tensor lt(Operand o) const;
    Tensor le(Operand o) const;
    Tensor gt(Operand o) const;
    Tensor ge(Operand o) const;
    Tensor logical_and(const Tensor& o, Place place = Place::current()) const;
    Tensor logical_or(const Tensor& o, Place place = Place::current()) const;
    Tensor clamp(std::optional<Scalar> low = {}, std::optional<Scalar> high = {}, Place place = Place::current()) const;
    Tensor clamp_min(Scalar low, Place place = Place::current()) const { return clamp(low, {}, place); }
    Tensor clamp_max(Scalar high, Place place = Place::current()) const { return clamp({}, high, place); }
    Tensor masked_fill(const Tensor& mask, Operand v) const;
    Tensor to(DType t, Place place = Place::current()) const;

    Tensor sum(Place place = Place::current()) const;
    Tensor sum(IntList axes, bool keepdim = false, Place place = Place::current()) const;
    Tensor mean(Place place = Place::current()) const;
    Tensor mean(IntList axes, bool keepdim = false, Place place = Place::current()) const;
    Tensor prod(Place place = Place::current()) const;
    Tensor prod(std::int64_t axis, bool keepdim = false, Place place = Place::current()) const;
    Tensor max(Place place = Place::current()) const;
    Tensor min(Place place = Place::current()) const;
    std::tuple<Tensor, Tensor> max(std::int64_t axis, bool keepdim = false, Place place = Place::current()) const;
    std::tuple<Tensor, Tensor> min(std::int64_t axis, bool keepdim = false, Place place = Place::current()) const;
    Tensor amax(IntList axes = {}, bool keepdim = false, Place place = Place::current()) const;
    Tensor amin(IntList axes = {}, bool keepdim = false, Place place = Place::current()) const;
    Tensor argmax(std::optional<std::int64_t> axis = {}, bool keepdim = false, Place place = Place::current()) const;
    Tensor argmin(std::optional<std::int64_t> axis = {}, bool keepdim = false, Place place = Place::current()) const;
    Tensor all(Place place = Place::current()) const;
    Tensor any(Place place = Place::current()) const;
    Tensor var(IntList axes = {}, bool unbiased = true, bool keepdim = false, Place place = Place::current()) const;
    Tensor std(IntList axes = {}, bool unbiased = true, bool keepdim = false, Place place = Place::current()) const;
    Tensor norm(double p = 2, IntList axes = {}, bool keepdim = false, Place place = Place::current()) const;
    Tensor logsumexp(IntList axes, bool keepdim = false, Place place = Place::current()) const;
    /// The places of the elements in sorted order along an axis; stable, NaN above all numbers.
    Tensor argsort(std::int64_t axis = -1, bool descending = false, Place place = Place::current()) const;
    /// Sorted elements and their places.
    std::tuple<Tensor, Tensor> sort(std::int64_t axis = -1, bool descending = false,
                                    Place place = Place::current()) const;
    /// The k largest (smallest) elements in order, and their places; of equal ones the first.
    std::tuple<Tensor, Tensor> topk(std::int64_t k, std::int64_t axis = -1, bool largest = true,
                                    Place place = Place::current()) const;
    Tensor cumsum(std::int64_t axis, Place place = Place::current()) const;
    Tensor cumprod(std::int64_t axis, Place place = Place::current()) const;

    Tensor dot(const Tensor& o, Place place = Place::current()) const;
    Tensor mv(const Tensor& o, Place place = Place::current()) const;
    Tensor mm(const Tensor& o, Place place = Place::current()) const;
    Tensor bmm(const Tensor& o, Place place = Place::current()) const;
    Tensor matmul(const Tensor& o, Place place = Place::current()) const;

    Tensor view(IntList sizes, Place place = Place::current()) const;
    Tensor reshape(IntList sizes, Place place = Place::current()) const;
    Tensor view_as(const Tensor& o, Place place = Place::current()) const { return view(o.sizes(), place); }
    Tensor flatten(std::int64_t first = 0, std::int64_t last = -1, Place place = Place::current()) const;
    Tensor t(Place place = Place::current()) const;
    Tensor transpose(std::int64_t a, std::int64_t b, Place place = Place::current()) const;
    Tensor permute(IntList axes, Place place = Place::current()) const;
    Tensor expand(IntList sizes, Place place = Place::current()) const;
    Tensor expand_as(const Tensor& o, Place place = Place::current()) const { return expand(o.sizes(), place); }
    Tensor squeeze(Place place = Place::current()) const;
    Tensor squeeze(std::int64_t axis, Place place = Place::current()) const;
    Tensor unsqueeze(std::int64_t axis, Place place = Place::current()) const;
    Tensor contiguous() const { return *this; }
    Tensor flip(IntList axes, Place place = Place::current()) const;
    Tensor roll(std::int64_t shift, std::int64_t axis, Place place = Place::current()) const;
    Tensor repeat(IntList counts, Place place = Place::current()) const;
    Tensor tril(std::int64_t k = 0, Place place = Place::current()) const;
    Tensor triu(std::int64_t k = 0, Place place = Place::current()) const;
    Tensor diag(Place place = Place::current()) const;
    Tensor trace(Place place = Place::current()) const;
    std::vector<Tensor> split(std::int64_t size, std::int64_t axis = 0, Place place = Place::current()) const;
    std::vector<Tensor> split(std::vector<std::int64_t> sizes, std::int64_t axis = 0,
                              Place place = Place::current()) const;
    std::vector<Tensor> chunk(std::int64_t parts, std::int64_t axis = 0, Place place = Place::current()) const;
    std::vector<Tensor> unbind(std::int64_t axis = 0, Place place = Place::current()) const;
    Tensor index_select(std::int64_t axis, const Tensor& indices, Place place = Place::current()) const;
    Tensor gather(std::int64_t axis, const Tensor& indices, Place place = Place::current()) const;
    Tensor scatter(std::int64_t axis, const Tensor& indices, Operand values) const;
    Tensor scatter_add(std::int64_t axis, const Tensor& indices, const Tensor& values,
                       Place place = Place::current()) const;
    Tensor softmax(std::int64_t axis, Place place = Place::current()) const;
    Tensor log_softmax(std::int64_t axis, Place place = Place::current()) const;

    /// For the library's own use: takes over one reference.
    explicit Tensor(lazy::TensorImpl* impl, bool) : impl_(impl) {}
    lazy::TensorImpl* impl() const { return impl_; }

   private:
    void drop() noexcept;
    double item_real(Place place) const;
    std::int64_t item_int(Place place) const;
    void* data_of(DType t, Place place) const;
    lazy::TensorImpl* impl_;
  };

  /// One index of Tensor::index: a number, a slice, None (a new axis), Ellipsis, or a tensor of integers or bools.
  class TensorIndex {
   public:
    enum class Kind : std::uint8_t { number, slice, none, ellipsis, tensor };
    TensorIndex(std::int64_t i) : kind(Kind::number), number(i) {}  // NOLINT
    TensorIndex(int i) : kind(Kind::number), number(i) {}  // NOLINT
    TensorIndex(Slice s) : kind(Kind::slice), range(s) {}  // NOLINT
    TensorIndex(std::nullopt_t) : kind(Kind::none) {}  // NOLINT
    TensorIndex(Ellipsis) : kind(Kind::ellipsis) {}  // NOLINT
    TensorIndex(const char*) : kind(Kind::ellipsis) {}  // NOLINT: "..."
    TensorIndex(Tensor t) : kind(Kind::tensor), tensor(std::move(t)) {}  // NOLINT
    Kind kind;
    std::int64_t number = 0;
    Slice range;
    Tensor tensor;
  };

  /// Prints as torch does: `tensor([ 0.,  4.,  8., 12.])`; an undefined tensor as `None`.
  std::ostream& operator<<(std::ostream& out, const Tensor& t);

}  // AG_API_NAMESPACE
}  // namespace ag
