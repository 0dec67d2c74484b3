// Discrete Fourier transforms as matrix products, and the windows that go with them. A complex number is two reals
// along the last axis, as in ONNX.
//
// A transform of constant size n = a b is taken apart (Cooley and Tukey 1965): transforms of size a, factors of
// e^(-2 pi i j k / n), transforms of size b; small sizes are a product with their matrix, large primes a convolution
// of a power of two (Bluestein 1970). All of it is linear algebra, so gradients follow. A symbolic size is a product
// with the whole matrix.
#include <cmath>
#include <complex>
#include <numbers>

#include "ir/ops/along.hpp"
#include "ir/ops/families.hpp"
#include "ir/ops/linalg.hpp"
#include "ir/ops/signal_windows.hpp"

namespace ag {
using namespace ops;
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

constexpr std::int64_t radix = 16;              ///< largest size that is a factor of its own
constexpr std::int64_t matrix_prime = 128;      ///< largest prime that is a matrix
constexpr std::int64_t max_transform = 1 << 26; ///< elements of a table

/// [rows, n], real and imaginary part; an invalid `im` is zero.
struct Wave {
  Expr re, im;
  bool real() const { return !im.id(); }
  template <class F>
  Wave each(F f) const {
    return {f(re), real() ? Expr() : f(im)};
  }
};

/// A table of complex constants.
using Table = std::vector<std::complex<double>>;

/// e^(sign 2 pi i k / n), exact at quarter turns.
std::complex<double> turn(std::int64_t k, std::int64_t n, int sign) {
  k %= n;
  const std::int64_t quarters = (8 * k + n) / (2 * n);
  const double rest = static_cast<double>(4 * k - quarters * n) / static_cast<double>(n) * (std::numbers::pi / 2);
  const double c = std::cos(rest), s = std::sin(rest);
  const std::complex<double> z[] = {{c, s}, {-s, c}, {-c, -s}, {s, -c}};
  return sign > 0 ? z[quarters % 4] : std::conj(z[quarters % 4]);
}

Wave constant(Expr like, const Table& table, const std::vector<std::int64_t>& shape) {
  std::vector<double> re, im;
  for (const auto& z : table) {
    re.push_back(z.real());
    im.push_back(z.imag());
  }
  auto make = [&](const std::vector<double>& v) {
    return like.with(like.builder().constant(make_literal(Array::of<double>(like.dtype(), shape, v))));
  };
  return {make(re), make(im)};
}

template <class F>
Wave bilinear(const Wave& x, const Wave& y, F multiply) {
  if (x.real()) return {multiply(x.re, y.re), multiply(x.re, y.im)};
  return {multiply(x.re, y.re) - multiply(x.im, y.im), multiply(x.re, y.im) + multiply(x.im, y.re)};
}
Wave operator*(const Wave& x, const Wave& y) {
  return bilinear(x, y, [](Expr a, Expr b) { return a * b; });
}

Wave reshaped(const Wave& x, const Dims& shape) {
  return x.each([&](Expr e) { return e.with(e.builder().reshape(e, shape)); });
}
Wave permuted(const Wave& x, const Ints& perm) {
  return x.each([&](Expr e) { return e.with(e.builder().transpose(e, perm)); });
}

Wave transform(const Wave& x, std::int64_t n, int sign);

/// Sums over j of x[., j] m[j, k].
Wave times_matrix(const Wave& x, const Wave& matrix) {
  return bilinear(x, matrix, [](Expr a, Expr b) { return a.with(a.builder().dot_general(a, b, {1}, {0})); });
}

Table matrix_table(std::int64_t n, int sign) {
  Table table;
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t k = 0; k < n; ++k) table.push_back(turn(j * k, n, sign));
  return table;
}

Wave by_matrix(const Wave& x, std::int64_t n, int sign) {
  return times_matrix(x, constant(x.re, matrix_table(n, sign), {n, n}));
}

/// j = j1 b + j2 and k = k1 + a k2: over j1, then factors, then over j2. Columns lie along j2 in the first product and
/// along k2 in the second, so that neither needs its operands transposed.
Wave by_factors(const Wave& x, std::int64_t a, std::int64_t b, int sign) {
  const std::int64_t n = a * b;
  const Dim rows = x.re.type().shape[0];
  Table factors;
  for (std::int64_t k = 0; k < a; ++k)
    for (std::int64_t j = 0; j < b; ++j) factors.push_back(turn(j * k, n, sign));
  Wave y;  // [k1, rows, j2]
  if (a <= matrix_prime) {
    Wave matrix = constant(x.re, matrix_table(a, sign), {a, a});
    y = bilinear(reshaped(x, {rows, a, b}), matrix,
                 [](Expr v, Expr m) { return v.with(v.builder().dot_general(m, v, {1}, {1})); });
  } else {
    y = permuted(reshaped(x, {rows, a, b}), {0, 2, 1});
    y = reshaped(transform(reshaped(y, {rows * Dim(b), a}), a, sign), {rows, b, a});
    y = permuted(y, {2, 0, 1});
  }
  y = y * constant(x.re, factors, {a, 1, b});
  y = reshaped(transform(reshaped(y, {rows * Dim(a), b}), b, sign), {a, rows, b});
  return reshaped(permuted(y, {1, 2, 0}), {rows, n});
}

/// For tables only: a size that is a power of two.
void transform_table(Table& x) {
  const std::size_t n = x.size();
  if (n == 1) return;
  Table even, odd;
  for (std::size_t i = 0; i < n; i += 2) {
    even.push_back(x[i]);
    odd.push_back(x[i + 1]);
  }
  transform_table(even);
  transform_table(odd);
  for (std::size_t k = 0; k < n / 2; ++k) {
    auto z = turn(static_cast<std::int64_t>(k), static_cast<std::int64_t>(n), -1) * odd[k];
    x[k] = even[k] + z;
    x[k + n / 2] = even[k] - z;
  }
}

/// j k = (j^2 + k^2 - (k-j)^2) / 2: a convolution with a chirp.
Wave by_chirp(const Wave& x, std::int64_t n, int sign) {
  std::int64_t m = 1;
  while (m < 2 * n - 1) m *= 2;
  Table chirp, kernel(at(m));
  for (std::int64_t j = 0; j < n; ++j) chirp.push_back(turn(j * j % (2 * n), 2 * n, sign));
  for (std::int64_t j = 0; j < n; ++j) {
    kernel[at(j)] = std::conj(chirp[at(j)]);
    if (j) kernel[at(m - j)] = std::conj(chirp[at(j)]);
  }
  transform_table(kernel);
  for (auto& z : kernel) z /= static_cast<double>(m);
  Wave waves = constant(x.re, chirp, {n});
  Wave y = (x * waves).each([&](Expr e) {
    return e.with(e.builder().add_op("pad", {e.id(), e.lit(0).id()},
                                     {{"low", Dims{0, 0}}, {"high", Dims{0, m - n}}, {"interior", Ints{0, 0}}}));
  });
  y = transform(transform(y, m, -1) * constant(x.re, kernel, {m}), m, 1);
  return y.each([&](Expr e) { return slice_along(e, 1, 0, n); }) * waves;
}

/// A factor up to `radix` of which as few as possible make up n, about equal ones; else the smallest prime factor.
std::int64_t factor_of(std::int64_t n) {
  const double size = std::log(static_cast<double>(n)), stages = std::ceil(size / std::log(double(radix)) - 1e-9);
  std::int64_t best = 1;
  for (std::int64_t a = 2; a <= std::min(radix, n); ++a)
    if (n % a == 0 && (best == 1 || std::fabs(std::log(static_cast<double>(a)) - size / stages) <
                                        std::fabs(std::log(static_cast<double>(best)) - size / stages)))
      best = a;
  for (std::int64_t a = radix + 1; best == 1 && a * a <= n; ++a)
    if (n % a == 0) best = a;
  return best == 1 ? n : best;
}

/// Along axis 1 of [rows, n], not divided by n.
Wave transform(const Wave& x, std::int64_t n, int sign) {
  if (n <= 1) return x;
  const std::int64_t a = factor_of(n);
  if (a < n) return by_factors(x, a, n / a, sign);
  return n <= matrix_prime ? by_matrix(x, n, sign) : by_chirp(x, n, sign);
}

/// Any size: the matrix is computed when it runs.
Wave transform(const Wave& x, const Dim& n, int sign) {
  if (n.is_const()) return transform(x, n.value(), sign);
  GraphBuilder& b = x.re.builder();
  Type places{DType::i64, {n, n}};
  Expr j(b, b.iota(places, 0)), k(b, b.iota(places, 1)), size = size_value(b, n, DType::i64);
  Expr turns = call("rem", j * k, size);
  Expr quarters = (turns * 8.0 + size) / (size * 2.0);  // as in turn()
  Expr rest = (turns * 4.0 - quarters * size).to(x.re.dtype()) / size.to(x.re.dtype()) * (std::numbers::pi / 2);
  Expr c = call("cos", rest), s = call("sin", rest);
  quarters = call("rem", quarters, 4);
  auto pick = [&](Expr p, Expr q, Expr r, Expr t) {
    return select(quarters == 0.0, p, select(quarters == 1.0, q, select(quarters == 2.0, r, t)));
  };
  Expr sine = pick(s, c, -s, -c);
  return times_matrix(x, {pick(c, -s, -c, s), sign < 0 ? -sine : sine});
}

// ---- The transform along any axis of a tensor ---------------------------------------------------------------

/// Cut or filled with zeros to n elements along `axis`.
Expr resized(Expr x, std::int64_t axis, const Dim& n) {
  Dims shape = x.type().shape;
  if (shape[at(axis)] == n) return x;
  Dims high(shape.size(), 0);
  high[at(axis)] = n - shape[at(axis)];
  return x.with(
      x.builder().add_op("pad", {x.id(), x.lit(0).id()},
                         {{"low", Dims(shape.size(), 0)}, {"high", high}, {"interior", Ints(shape.size(), 0)}}));
}

struct Spectrum {
  std::int64_t axis;
  Dim length;  ///< of the transform
  bool inverse, onesided;
};

/// x [..., 1 or 2] -> [..., 2], or the real [..., 1] of a one-sided inverse. f16 and bf16 are computed in f32.
Expr transformed(Expr x, const Spectrum& s) {
  GraphBuilder& b = x.builder();
  const DType t = x.dtype();
  x = x.to(accumulator_dtype(t));
  const std::int64_t last = x.type().rank() - 1;
  const bool real_result = s.inverse && s.onesided, complex = x.type().shape[at(last)].is(2);
  Dim bins = real_result ? floordiv(s.length, 2) + 1 : s.length;
  x = resized(x, s.axis, bins);
  // The axis goes to the end, all others are rows.
  Ints perm;
  for (std::int64_t d = 0; d < last; ++d)
    if (d != s.axis) perm.push_back(d);
  perm.push_back(s.axis);
  Dims outer;
  for (std::size_t i = 0; i + 1 < perm.size(); ++i) outer.push_back(x.type().shape[at(perm[i])]);
  auto part = [&](std::int64_t k) {
    Expr e = slice_along(x, last, k, k + 1);
    Dims shape = x.type().shape;
    shape.pop_back();
    e = e.with(b.transpose(b.reshape(e, shape), perm));
    return e.with(b.reshape(e, {product(outer), bins}));
  };
  Wave w{part(0), complex ? part(1) : Expr()};
  if (real_result) {  // the other half is the mirror image, conjugate
    Dim mirrored = s.length - bins;
    auto mirror = [&](Expr e, bool negative) {
      Expr tail = slice_along(e, 1, 1, mirrored + 1);
      tail = tail.with(b.add_op("rev", {tail.id()}, {{"axes", Ints{1}}}));
      return e.with(b.concat({e, negative ? -tail : tail}, 1));
    };
    w = {mirror(w.re, false), complex ? mirror(w.im, true) : Expr()};
  }
  w = transform(w, s.length, s.inverse ? 1 : -1);
  Expr scale = s.inverse ? 1 / size_value(b, s.length, x.dtype()) : Expr();
  Dim kept = s.onesided && !s.inverse ? floordiv(s.length, 2) + 1 : s.length;
  Ints back(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i) back[at(perm[i])] = static_cast<std::int64_t>(i);
  auto placed = [&](Expr e) {
    if (s.inverse) e = e * scale;
    e = slice_along(e, 1, 0, kept);
    Dims shape = outer;
    shape.push_back(kept);
    e = e.with(b.transpose(b.reshape(e, shape), back));
    shape = e.type().shape;
    shape.push_back(1);
    return e.with(b.reshape(e, shape)).to(t);
  };
  Expr re = placed(w.re);
  if (real_result) return re;
  Expr im = w.real() ? re.with(b.zeros(re.type())) : placed(w.im);
  return re.with(b.concat({re, im}, last));
}

// ---- DFT --------------------------------------------------------------------------------------------------

/// The same in a decomposition: a new symbol if only the data knows it.
Dim named_scalar(Builder& b, const View& n, std::size_t i) {
  if (auto v = known(n, i)) return (*v)[0];
  return fresh_sizes(b, as_sizes(b, n.operand(i)))[0];
}

/// What a DFT is called with.
struct DftAttrs {
  bool inverse, onesided;
  std::int64_t default_axis;
  explicit DftAttrs(const Attrs& a, const OpInfo& op)
      : inverse(attr_int(a, "inverse", 0) != 0),
        onesided(attr_int(a, "onesided", 0) != 0),
        default_axis(attr_int(a, "axis", op.operands.size() == 2 ? 1 : -2)) {}
  bool real_result() const { return inverse && onesided; }
  /// Of the transform along an axis of `size`.
  Dim length(const Dim& size, const std::optional<Dim>& given) const {
    return given ? *given : real_result() ? (size - Dim(1)) * Dim(2) : size;
  }
  /// What is left of it along the axis.
  Dim bins(const Dim& length) const { return onesided && !inverse ? floordiv(length, 2) + 1 : length; }
};

/// The axis if the compiler knows it.
std::optional<std::int64_t> dft_axis(const DftAttrs& a, bool given, const std::optional<Dims>& values) {
  if (!given) return a.default_axis;
  auto v = as_constants(values);
  return v ? std::optional((*v)[0]) : std::nullopt;
}

Types infer_dft(const InferCtx& c) {
  Type t = c.in(0);
  const DftAttrs a(c.attrs(), c.op());
  if (t.rank() < 2 || !(t.shape.back().is(1) || t.shape.back().is(2)))
    return c.error(Code::AG2204, fmt::format("`DFT` needs [..., 1] or [..., 2] with rank 2 at least, not {}", t.str()),
                   "the last axis holds the real and the imaginary part", {0});
  if (c.has(2) && !c.in(2).elems().is(1)) return c.error(Code::AG2204, "`DFT` takes one axis", {}, {2});
  std::optional<Dim> length;
  if (c.has(1)) {
    AG_TRY(length, scalar_dim(c, 1));
  }
  auto axis = dft_axis(a, c.has(2), c.ints(2));
  t.shape.back() = a.real_result() ? 1 : 2;
  if (!axis) {  // any of them: only a transform that keeps all sizes keeps them
    if (c.has(1) || a.onesided)
      for (std::size_t d = 0; d + 1 < t.shape.size(); ++d) t.shape[d] = c.unbacked(d);
    return std::vector<Type>{std::move(t)};
  }
  AG_TRY(axis, checked_axis(c, *axis, t.rank()));
  if (*axis == t.rank() - 1)
    return c.error(Code::AG2202, "`DFT` cannot run along the last axis, which holds real and imaginary parts", {}, {0});
  if (c.has(1) && !length) {
    t.shape[at(*axis)] = c.unbacked(at(*axis));
    return std::vector<Type>{std::move(t)};
  }
  Dim n = a.length(t.shape[at(*axis)], length);
  if (n.is_const() && (n.value() < 1 || n.value() > max_transform))
    return c.error(Code::AG2206, fmt::format("`DFT` of {} elements", n.str()), fmt::format("1 to {}", max_transform),
                   {0});
  t.shape[at(*axis)] = a.bins(n);
  AG_TRY_(checked_shape(c, t.shape));
  return std::vector<Type>{std::move(t)};
}

/// Along an axis that only the data knows: all of them, each brought to the sizes of the result.
std::vector<ValueId> dft_by_data(Builder& b, const View& n, const DftAttrs& a, const std::optional<Dim>& length) {
  Expr x(b, n.operand(0));
  const Dims from = x.type().shape, to = n.out().shape;
  const auto axes = static_cast<std::int64_t>(from.size()) - 1;
  auto spectrum = [&](std::int64_t d) {
    return Spectrum{d, max(a.length(from[at(d)], length), 1), a.inverse, a.onesided};
  };
  Expr axis = as_sizes(b, n.operand(2));
  axis = select(axis < 0.0, axis + axis.lit(static_cast<double>(axes + 1)), axis);
  if (names_sizes(n)) {
    Dims kept(from.begin(), from.end() - 1), changed;
    for (std::int64_t d = 0; d < axes; ++d) changed.push_back(a.bins(spectrum(d).length));
    Expr places(b, b.iota({DType::i64, {axes}}, 0));
    define_sizes(b, select(places == axis, size_vector(b, changed), size_vector(b, kept)),
                 Dims(to.begin(), to.end() - 1));
  }
  return {by_data_axis(axis, axes, [&](std::int64_t d) {
    Expr y = transformed(x, spectrum(d));
    for (std::int64_t e = 0; e < axes; ++e) y = resized(y, e, to[at(e)]);
    return y;
  })};
}

std::vector<ValueId> dft(Builder& b, const View& n) {
  const DftAttrs a(n.attrs(), *n.node().op);
  std::optional<Dim> length;
  if (n.has(1)) length = named_scalar(b, n, 1);
  auto axis = dft_axis(a, n.has(2), known(n, 2));
  if (!axis || (n.has(2) && names_sizes(n) && !known(n, 2))) return dft_by_data(b, n, a, length);
  std::int64_t d = *normalize_axis(*axis, n.in(0).rank());
  Dim size = a.length(n.in(0).shape[at(d)], length);
  Expr y = transformed(Expr(b, n.operand(0)), {d, size, a.inverse, a.onesided});
  if (!names_sizes(n)) return {y};
  Dims to = n.out().shape, sizes = y.type().shape;
  define_sizes(b, size_vector(b, Dims(sizes.begin(), sizes.end() - 1)), Dims(to.begin(), to.end() - 1));
  return {b.reshape(y, to)};
}

// ---- STFT -------------------------------------------------------------------------------------------------

Dim frame_count(const Dim& signal, const Dim& length, const Dim& step) {
  return max(floordiv(signal - length, step) + 1, 0);
}
Dim bins_of(const Dim& length, bool onesided) { return onesided ? floordiv(length, 2) + 1 : length; }

Types infer_stft(const InferCtx& c) {
  const Type& x = c.in(0);
  if (x.rank() != 2 && !(x.rank() == 3 && (x.shape[2].is(1) || x.shape[2].is(2))))
    return c.error(Code::AG2204, "`STFT` needs a signal [batch, length] or [batch, length, 1 or 2], not " + x.str(), {},
                   {0});
  AG_TRY(std::optional<Dim> step, scalar_dim(c, 1));
  std::optional<Dim> window, length;
  if (c.has(2)) {
    if (c.in(2).rank() != 1) return c.error(Code::AG2204, "the window of `STFT` is a vector", {}, {2});
    window = length = c.in(2).shape[0];
  }
  if (c.has(3)) {
    AG_TRY(std::optional<Dim> given, scalar_dim(c, 3));
    if (given) length = given;
  }
  if (!c.has(2) && !c.has(3)) return c.error(Code::AG2206, "`STFT` needs a window or a frame length");
  const bool fits = (!step || !step->is_const() || step->value() > 0) &&
                    (!length || !length->is_const() || length->value() > 0) &&
                    (!window || !window->is_const() || !length->is_const() || *window == *length);
  if (!fits)
    return c.error(Code::AG2206,
                   fmt::format("`STFT` with frames of {} every {}{}", length ? length->str() : "?",
                               step ? step->str() : "?", window ? " and a window of " + window->str() : ""),
                   {}, {0});
  const bool onesided = attr_int(c.attrs(), "onesided", 1) != 0;
  AG_TRY(Dims shape,
         checked_shape(c, {x.shape[0], step && length ? frame_count(x.shape[1], *length, *step) : c.unbacked(1),
                           length ? bins_of(*length, onesided) : c.unbacked(2), 2}));
  return std::vector<Type>{{x.dtype, std::move(shape)}};
}

std::vector<ValueId> stft(Builder& b, const View& n) {
  Expr x(b, n.operand(0));
  const Dims signal = x.type().shape, to = n.out().shape;
  const bool onesided = attr_int(n.attrs(), "onesided", 1) != 0;
  const bool from_window = n.has(2) && !known(n, 3);
  Dim step = named_scalar(b, n, 1), length = from_window ? n.in(2).shape[0] : named_scalar(b, n, 3), count = to[1];
  if (names_sizes(n)) {  // from the operands' values
    auto value = [&](std::size_t i, const Dim& d) {
      return known(n, i) ? size_vector(b, {d}) : as_sizes(b, n.operand(i));
    };
    Expr frame = from_window ? size_vector(b, {length}) : value(3, length), one = frame.lit(1), zero = frame.lit(0);
    Expr frames = max((size_vector(b, {signal[1]}) - frame) / value(1, step) + one, zero);
    Expr bins = onesided ? frame / frame.lit(2) + one : frame;
    define_sizes(b, frames.with(b.concat({frames, bins}, 0)), {to[1], to[2]});
  }
  if (signal.size() == 2) x = x.with(b.reshape(x, {signal[0], signal[1], 1}));
  Type places{DType::i64, {count, length}};
  Expr index = Expr(b, b.iota(places, 0)) * size_value(b, step, DType::i64) + Expr(b, b.iota(places, 1));
  Expr frames = take(x, index, 1);  // [batch, frames, length, 1 or 2]
  if (n.has(2)) frames = frames * Expr(b, b.reshape(n.operand(2), {length, 1}));
  return {b.reshape(transformed(frames, {2, length, false, onesided}), to)};
}

// ---- The table --------------------------------------------------------------------------------------------

OpSample dft_sample(std::string_view type, std::int64_t length, std::int64_t axis, bool inverse, bool onesided) {
  OpSample s = sample({type}, {{"inverse", std::int64_t{inverse}}, {"onesided", std::int64_t{onesided}}});
  s.operands.push_back(sample_ints({length}));
  s.operands.push_back(sample_ints({axis}));
  return s;
}

OpInfo dft_op(std::string_view name, int since, int until, bool axis_operand) {
  OpInfo o = composite({.name = name,
                        .onnx = "DFT",
                        .since = since,
                        .until = until,
                        .summary = "discrete Fourier transform along an axis; [..., 2] holds complex numbers"});
  o.operands = {{.name = "input", .dtypes = floats}, int_operand("dft_length", true)};
  if (axis_operand) o.operands.push_back(int_operand("axis", true));
  o.attrs = {int_attr("inverse", 0), int_attr("onesided", 0)};
  if (!axis_operand) o.attrs.push_back(int_attr("axis", 1));
  o.infer = infer_dft;
  o.decompose = dft;
  return o;
}

}  // namespace

std::vector<OpInfo> spectral_ops() {
  OpInfo old = dft_op("DFT_17", 17, 19, false), current = dft_op("DFT", 20, 1 << 20, true);
  old.samples = [] {
    OpSample real = sample({"f64[2,6,1]"}, {{"onesided", std::int64_t{1}}}),
             front = sample({"f32[3,4,2]"}, {{"axis", std::int64_t{0}}});
    real.operands.push_back(sample_ints({6}));
    front.operands.push_back(sample_ints({3}));
    return std::vector<OpSample>{real, front};
  };
  current.samples = [] {
    std::vector<OpSample> out{
        dft_sample("f64[5,2]", 5, 0, false, false),    dft_sample("f64[2,60,2]", 60, 1, false, false),
        dft_sample("f32[3,37,1]", 40, 1, false, true), dft_sample("f64[6,3,2]", 4, 0, true, false),
        dft_sample("f64[2,5,2]", 8, -2, true, true),   dft_sample("f64[1,131,1]", 131, 1, false, false),
        dft_sample("f16[8,2]", 8, 0, false, false),    dft_sample("bf16[6,1]", 6, 0, false, true)};
    return out;
  };
  OpInfo frames = composite({.name = "STFT", .since = 17, .summary = "Fourier transforms of windows along a signal"});
  frames.operands = {{.name = "signal", .dtypes = floats},
                     int_operand("frame_step"),
                     {.name = "window", .dtypes = floats, .optional = true},
                     int_operand("frame_length", true)};
  frames.attrs = {int_attr("onesided", 1)};
  frames.infer = infer_stft;
  frames.decompose = stft;
  frames.samples = [] {
    OpSample length{{sample_operand("f64[2,20,1]"), sample_ints({4}), sample_operand("f64[8]"), sample_ints({8})}, {}};
    OpSample window{{sample_operand("f64[1,17]"), sample_ints({3}), sample_operand("f64[6]"), sample_ints({6})},
                    {{"onesided", std::int64_t{0}}}};
    return std::vector<OpSample>{length, window};
  };
  std::vector<OpInfo> all{old, current, frames};
  for (OpInfo& o : signal_window_ops()) all.push_back(std::move(o));
  for (OpInfo& o : linalg_ops()) all.push_back(std::move(o));
  return all;
}

}  // namespace ag
