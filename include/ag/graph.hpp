// Graphs and executables: a C++ function traced once, or a file, compiled for any number of runs.
//
// Thread safety: a Graph and an Executable are immutable and may be used from many threads; each run takes a context of
// its own from the executable. A BoundCall is used by one thread at a time.
#pragma once
#include "ag/autograd.hpp"

namespace ag {
AG_API_NAMESPACE {
  /// A size of an argument: a number, or the name of a symbol that stands for any size.
  class Size {
   public:
    Size(std::int64_t n) : number_(n) {}  // NOLINT
    Size(int n) : number_(n) {}  // NOLINT
    Size(const char* symbol) : symbol_(symbol) {}  // NOLINT
    Size(std::string symbol) : symbol_(std::move(symbol)) {}  // NOLINT
    bool is_symbol() const { return !symbol_.empty(); }
    const std::string& symbol() const { return symbol_; }
    std::int64_t number() const { return number_; }

   private:
    std::int64_t number_ = 0;
    std::string symbol_;
  };

  /// An argument of a traced function: `ag::arg("x", ag::f32, {"N", 4})`.
  struct Argument {
    std::string name;
    DType dtype = f32;
    std::vector<Size> sizes;
  };
  inline Argument arg(std::string name, DType dtype, std::vector<Size> sizes = {}) {
    return {std::move(name), dtype, std::move(sizes)};
  }

  /// What a graph takes or gives.
  struct Port {
    std::string name;
    DType dtype = f32;
    std::vector<std::string> sizes;  ///< "4", "N"
    std::string str() const;  ///< "x: f32[N,4]"
  };

  class Graph {
   public:
    Graph() = default;
    const std::string& name() const;
    std::vector<Port> inputs() const, outputs() const;
    std::string str() const;  ///< the IR text

    struct Impl;
    explicit Graph(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
    const Impl* impl() const { return impl_.get(); }

   private:
    std::shared_ptr<const Impl> impl_;
  };

  using Named = std::vector<std::pair<std::string, Tensor>>;

  namespace detail {
  Graph trace(std::string name, std::vector<Argument> args, const std::function<Named(const Tensors&)>& f,
              const Place& place);
  template <class R>
  Named named(R&& r) {
    using T = std::remove_cvref_t<R>;
    if constexpr (std::is_same_v<T, Named>)
      return r;
    else if constexpr (std::is_same_v<T, Tensor>)
      return {{"y", std::forward<R>(r)}};
    else if constexpr (std::is_same_v<T, Tensors>) {
      Named out;
      for (auto& t : r) out.emplace_back("y" + std::to_string(out.size()), t);
      return out;
    } else {
      Named out;
      std::apply([&](auto&&... t) { (out.emplace_back("y" + std::to_string(out.size()), t), ...); }, r);
      return out;
    }
  }
  template <class F, std::size_t... I>
  Named call(F& f, const Tensors& in, std::index_sequence<I...>) {
    return named(f(in[I]...));
  }
  /// A string literal followed by the place of the call.
  struct TraceName {
    std::string text;
    Place place;
    TraceName(const char* s, Place p = Place::current()) : text(s), place(p) {}  // NOLINT
    TraceName(std::string s, Place p = Place::current()) : text(std::move(s)), place(p) {}  // NOLINT
  };
  }  // namespace detail

  /// Runs `f` once on stand-ins for its arguments and gives the graph of what it did. Its result is a tensor (named
  /// `y`), a vector or tuple of them (`y0`, `y1`, ...) or pairs of names and tensors. Tensors from outside become
  /// constants. Errors: reading a value inside (AG5403), and what the operations report.
  template <class F, class... A>
    requires(std::is_same_v<std::remove_cvref_t<A>, Argument> && ...)
  Graph trace(detail::TraceName name, F f, A && ... args) {
    return detail::trace(
        std::move(name.text), {std::forward<A>(args)...},
        [&f](const Tensors& in) { return detail::call(f, in, std::index_sequence_for<A...>()); }, name.place);
  }

  /// A graph from a file: JSON, IR text, ONNX.
  Graph load(const std::string& path);
  Result<Graph> try_load(const std::string& path);

  struct GradOptions {
    std::vector<std::string> wrt;  ///< names of inputs or other values; empty: every floating input
    std::string of;  ///< the output to differentiate; empty: the first
    std::string seed;  ///< name of a value of the shape of `of`; empty: `of` has one element
  };
  /// The graph with gradients appended, named `<wrt>_grad`.
  Graph value_and_grad(const Graph& g, const GradOptions& options = {});
  /// The gradients alone.
  Graph grad(const Graph& g, const GradOptions& options = {});

  struct CompileOptions {
    std::string target = "cpu";  ///< "cpu" is the machine at hand
    int threads = 0;  ///< of one run; 0: as many as there are cores
    int opt_level = 2;
    std::int64_t memory_limit = 0;  ///< bytes a run may take; 0: none
  };

  /// Memory of the caller's that a run reads or writes in place.
  class View {
   public:
    template <detail::Number T>
    View(T& value) : data(&value), dtype(detail::dtype_of<T>()), count(1) {}  // NOLINT
    template <detail::Number T>
    View(const T& value)
        : data(const_cast<T*>(&value)), dtype(detail::dtype_of<T>()), count(1), writable(false) {}  // NOLINT
    template <detail::Number T>
      requires(!std::is_same_v<T, bool>)
    View(std::vector<T>& v) : data(v.data()), dtype(detail::dtype_of<T>()), count(v.size()) {}  // NOLINT
    template <detail::Number T>
      requires(!std::is_same_v<T, bool>)
    View(const std::vector<T>& v)  // NOLINT
        : data(const_cast<T*>(v.data())), dtype(detail::dtype_of<T>()), count(v.size()), writable(false) {}
    template <class T>
      requires detail::Number<std::remove_const_t<T>>
    View(std::span<T> v, std::vector<std::int64_t> sizes = {})  // NOLINT
        : data(const_cast<std::remove_const_t<T>*>(v.data())),
          dtype(detail::dtype_of<std::remove_const_t<T>>()),
          count(v.size()),
          shape(std::move(sizes)),
          shaped(!shape.empty()),
          writable(!std::is_const_v<T>) {}
    View(const Tensor& t);  // NOLINT
    void* data;
    DType dtype;
    std::size_t count;
    std::vector<std::int64_t> shape;  ///< if `shaped`; else it follows from the port and the count
    bool shaped = false, writable = true;
  };
  struct Binding {
    std::string name;
    View view;
  };
  using Bindings = std::vector<Binding>;

  /// A call whose arrays are settled: the fastest way to run again and again on the same memory.
  class BoundCall {
   public:
    void operator()();
    struct Impl;
    explicit BoundCall(std::unique_ptr<Impl> impl);
    ~BoundCall();
    BoundCall(BoundCall&&) noexcept;
    BoundCall& operator=(BoundCall&&) noexcept;

   private:
    std::unique_ptr<Impl> impl_;
  };

  class Executable {
   public:
    Executable() = default;
    std::vector<Port> inputs() const, outputs() const;
    /// Reads the inputs and writes the outputs where they lie. Every input and output must be named once; no allocation
    /// after the first run at given sizes.
    void run(const Bindings& inputs, const Bindings& outputs) const;
    BoundCall bind(const Bindings& inputs, const Bindings& outputs) const;
    /// With new tensors as outputs, in order.
    Tensors operator()(const Tensors& inputs) const;

    struct Impl;
    explicit Executable(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

   private:
    std::shared_ptr<const Impl> impl_;
  };
  Executable compile(const Graph& g, const CompileOptions& options = {});
  Result<Executable> try_compile(const Graph& g, const CompileOptions& options = {});

  // ---- Control flow that is compiled
  // ---------------------------------------------------------------------------------- While tracing, these become If,
  // Loop and Scan of the graph; elsewhere they run as the C++ they stand for.

  /// then(args) where the condition holds, else otherwise(args). Both give the same number of values of the same types.
  Tensors cond(const Tensor& condition, const MultiFunction& then, const MultiFunction& otherwise,
               const Tensors& args = {}, Place place = Place::current());
  Tensor cond(const Tensor& condition, const std::function<Tensor()>& then, const std::function<Tensor()>& otherwise,
              Place place = Place::current());
  /// Repeats body(state) while test(state) holds; types do not change.
  Tensors while_loop(const std::function<Tensor(const Tensors&)>& test, const MultiFunction& body, const Tensors& start,
                     Place place = Place::current());
  Tensor while_loop(const Function& test, const Function& body, const Tensor& start, Place place = Place::current());
  /// body(i, state) for i in [low, high).
  Tensors fori_loop(std::int64_t low, std::int64_t high,
                    const std::function<Tensors(const Tensor&, const Tensors&)>& body, const Tensors& start,
                    Place place = Place::current());
  /// body(state, slice) gives (state, element) for each slice of xs along its first axis: the last state, and the
  /// elements stacked.
  std::pair<Tensor, Tensor> scan(const std::function<std::pair<Tensor, Tensor>(const Tensor&, const Tensor&)>& body,
                                 const Tensor& start, const Tensor& xs, Place place = Place::current());

}  // AG_API_NAMESPACE
}  // namespace ag
