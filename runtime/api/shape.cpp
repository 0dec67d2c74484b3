// Views, indexing, and changes in place.
#include <algorithm>
#include <limits>

#include "frontend/trace/recipes.hpp"
#include "runtime/api/tensor_impl.hpp"

namespace ag::api {
namespace {

namespace r = rec::r;
using lazy::apply;
using lazy::apply_view;
using lazy::Arg;
using lazy::raise;
using lazy::value_of;
using Ints = std::vector<std::int64_t>;

int rank_of(const Tensor& t, const Place& p) { return value_of(t, "an operation", p).type->type.rank(); }
Tensor with(const rec::Recipe& recipe, const Tensor& x, const Ints& params, const Place& place) {
  const Arg a = lazy::arg_of(x, place);
  return apply(recipe, std::span(&a, 1), params, place);
}
}  // namespace

Tensor Tensor::view(IntList sizes, Place place) const { return apply_view(r::view, *this, sizes.values(), place); }
Tensor Tensor::reshape(IntList sizes, Place place) const { return apply_view(r::view, *this, sizes.values(), place); }
Tensor Tensor::flatten(std::int64_t first, std::int64_t last, Place place) const {
  return apply_view(r::flatten, *this, Ints{first, last}, place);
}
Tensor Tensor::t(Place place) const { return apply_view(r::t, *this, {}, place); }
Tensor Tensor::transpose(std::int64_t a, std::int64_t b, Place place) const {
  return apply_view(r::transpose, *this, Ints{a, b}, place);
}
Tensor Tensor::permute(IntList axes, Place place) const { return apply_view(r::permute, *this, axes.values(), place); }
Tensor Tensor::expand(IntList sizes, Place place) const { return apply_view(r::expand, *this, sizes.values(), place); }
Tensor Tensor::squeeze(Place place) const { return apply_view(r::squeeze, *this, {}, place); }
Tensor Tensor::squeeze(std::int64_t axis, Place place) const {
  return apply_view(r::squeeze_dim, *this, Ints{axis}, place);
}
Tensor Tensor::unsqueeze(std::int64_t axis, Place place) const {
  return apply_view(r::unsqueeze, *this, Ints{axis}, place);
}
Tensor Tensor::select(std::int64_t axis, std::int64_t index, Place place) const {
  return apply_view(r::select, *this, Ints{axis, index}, place);
}
Tensor Tensor::slice(std::int64_t axis, std::optional<std::int64_t> start, std::optional<std::int64_t> stop,
                     std::int64_t step, Place place) const {
  return apply_view(r::slice, *this,
                    Ints{axis, start.value_or(0), stop.value_or(std::numeric_limits<std::int64_t>::max()), step},
                    place);
}
Tensor Tensor::narrow(std::int64_t axis, std::int64_t start, std::int64_t length, Place place) const {
  return apply_view(r::narrow, *this, Ints{axis, start, length}, place);
}
Tensor Tensor::flip(IntList axes, Place place) const { return with(r::flip, *this, axes.values(), place); }
Tensor Tensor::roll(std::int64_t shift, std::int64_t axis, Place place) const {
  return with(r::roll, *this, {shift, axis}, place);
}
Tensor Tensor::repeat(IntList counts, Place place) const { return with(r::repeat, *this, counts.values(), place); }
Tensor Tensor::tril(std::int64_t k, Place place) const { return with(r::tril, *this, {k}, place); }
Tensor Tensor::triu(std::int64_t k, Place place) const { return with(r::triu, *this, {k}, place); }
Tensor Tensor::diag(Place place) const { return with(r::diag, *this, {}, place); }
Tensor Tensor::trace(Place place) const { return with(r::diag, *this, {}, place).sum(place); }
std::vector<Tensor> Tensor::split(Ints sizes, std::int64_t axis, Place place) const {
  static const rec::Recipe part{"split", "SplitBackward0", r::narrow.build};
  std::vector<Tensor> out;
  std::int64_t at = 0;
  for (std::int64_t n : sizes) {
    out.push_back(apply_view(part, *this, Ints{axis, at, n}, place));
    at += n;
  }
  if (at != size(axis))
    raise(Code::AG2206, "split_with_sizes expects split_sizes to sum exactly to " + std::to_string(size(axis)), place);
  return out;
}
std::vector<Tensor> Tensor::split(std::int64_t part, std::int64_t axis, Place place) const {
  if (part <= 0)
    raise(Code::AG2206, "split expects split_size be positive, but got split_size=" + std::to_string(part), place);
  Ints sizes;
  for (std::int64_t left = size(axis); left > 0; left -= part) sizes.push_back(std::min(part, left));
  return split(sizes, axis, place);
}
std::vector<Tensor> Tensor::chunk(std::int64_t parts, std::int64_t axis, Place place) const {
  if (parts <= 0)
    raise(Code::AG2206, "chunk expects `chunks` to be greater than 0, got: " + std::to_string(parts), place);
  return split(std::max<std::int64_t>(1, (size(axis) + parts - 1) / parts), axis, place);
}
std::vector<Tensor> Tensor::unbind(std::int64_t axis, Place place) const {
  static const rec::Recipe part{"unbind", "UnbindBackward0", r::select.build};
  std::vector<Tensor> out;
  for (std::int64_t i = 0; i < size(axis); ++i) out.push_back(apply_view(part, *this, Ints{axis, i}, place));
  return out;
}
Tensor Tensor::index_select(std::int64_t axis, const Tensor& indices, Place place) const {
  return apply(r::index_select, {this, &indices}, {axis}, place);
}
Tensor Tensor::gather(std::int64_t axis, const Tensor& indices, Place place) const {
  return apply(r::gather, {this, &indices}, {axis}, place);
}
Tensor Tensor::scatter(std::int64_t axis, const Tensor& indices, Operand values) const {
  if (values.tensor()) return apply(r::scatter, {this, &indices, values.tensor()}, {axis}, values.place());
  Tensor v = full({}, values.scalar(), dtype());
  return apply(r::scatter, {this, &indices, &v}, {axis}, values.place());
}
Tensor Tensor::scatter_add(std::int64_t axis, const Tensor& indices, const Tensor& values, Place place) const {
  return apply(r::scatter_add, {this, &indices, &values}, {axis}, place);
}

Tensor reshape(const Tensor& x, IntList sizes, Place place) { return x.reshape(std::move(sizes), place); }
Tensor flatten(const Tensor& x, std::int64_t a, std::int64_t b, Place place) { return x.flatten(a, b, place); }
Tensor transpose(const Tensor& x, std::int64_t a, std::int64_t b, Place place) { return x.transpose(a, b, place); }
Tensor squeeze(const Tensor& x, Place place) { return x.squeeze(place); }
Tensor unsqueeze(const Tensor& x, std::int64_t axis, Place place) { return x.unsqueeze(axis, place); }
Tensor tril(const Tensor& x, std::int64_t k, Place place) { return x.tril(k, place); }
Tensor triu(const Tensor& x, std::int64_t k, Place place) { return x.triu(k, place); }
Tensor diag(const Tensor& x, Place place) { return x.diag(place); }

namespace {
Tensor join(const rec::Recipe& recipe, const std::vector<Tensor>& parts, std::int64_t axis, const Place& place) {
  if (parts.empty()) raise(Code::AG5404, "expected a non-empty list of Tensors", place);
  lazy::Promotion meet;
  for (const Tensor& t : parts) meet.tensor(value_of(t, recipe.name, place).dtype(), true);
  std::vector<Tensor> same;
  std::vector<Arg> args;
  same.reserve(parts.size());
  for (const Tensor& t : parts) {
    same.push_back(t.to(lazy::pub(meet.result()), place));
    args.push_back(lazy::arg_of(same.back(), place));
  }
  return apply(recipe, args, Ints{axis}, place);
}
}  // namespace
Tensor cat(const std::vector<Tensor>& parts, std::int64_t axis, Place place) {
  return join(r::cat, parts, axis, place);
}
Tensor stack(const std::vector<Tensor>& parts, std::int64_t axis, Place place) {
  return join(r::stack, parts, axis, place);
}
Tensor pad(const Tensor& x, IntList amounts, Scalar value, Place place) {
  lazy::ValueRef v = lazy::Value::scalar(value_of(x, "pad", place).dtype(), value.real(), value.integer());
  const Arg args[] = {lazy::arg_of(x, place), {nullptr, v.get()}};
  return apply(r::pad, args, amounts.values(), place);
}

// ---- Indexing -------------------------------------------------------------------------------------------------------

Tensor nonzero(const Tensor& x, Place place) {
  const Ints shape = x.sizes();
  Tensor mask = x.dtype() == boolean ? x : x.ne(0);
  const bool* p = mask.data<bool>(place);
  Ints found, at(shape.size(), 0);
  const std::int64_t n = x.numel();
  for (std::int64_t i = 0; i < n; ++i) {
    if (p[i]) found.insert(found.end(), at.begin(), at.end());
    for (std::size_t a = shape.size(); a-- > 0;) {
      if (++at[a] < shape[a]) break;
      at[a] = 0;
    }
  }
  const auto rank = static_cast<std::int64_t>(shape.size());
  return from_vector<std::int64_t>(found,
                                   {rank ? static_cast<std::int64_t>(found.size()) / rank : (n && p[0] ? 1 : 0), rank});
}

namespace {

/// Index tensors of the leading axes: a mask of rank k stands for k of them.
std::vector<Tensor> index_tensors(const std::vector<Tensor>& indices, const Place& place) {
  std::vector<Tensor> out;
  for (const Tensor& t : indices) {
    if (t.dtype() != boolean) {
      out.push_back(t);
      continue;
    }
    Tensor places = nonzero(t, place);
    for (std::int64_t a = 0; a < t.dim(); ++a) out.push_back(places.select(1, a, place));
  }
  return out;
}

Tensor take(const Tensor& x, const std::vector<Tensor>& indices, const Place& place) {
  std::vector<Arg> args{lazy::arg_of(x, place)};
  for (const Tensor& t : indices) args.push_back(lazy::arg_of(t, place));
  return apply(r::index, args, Ints{static_cast<std::int64_t>(indices.size())}, place);
}

/// Numbers, slices, None and Ellipsis give a view; tensors are left for later, with the axis each stands at.
Tensor basic_index(const Tensor& x, std::initializer_list<TensorIndex> indices, const Place& place,
                   std::vector<std::pair<std::int64_t, Tensor>>& tensors) {
  using Kind = TensorIndex::Kind;
  std::int64_t used = 0, ellipses = 0;
  for (const TensorIndex& i : indices) {
    if (i.kind == Kind::number || i.kind == Kind::slice) ++used;
    if (i.kind == Kind::tensor) used += i.tensor.dtype() == boolean ? i.tensor.dim() : 1;
    if (i.kind == Kind::ellipsis) ++ellipses;
  }
  if (used > rank_of(x, place))
    raise(Code::AG2204, "too many indices for tensor of dimension " + std::to_string(rank_of(x, place)), place);
  Tensor y = x;
  std::int64_t axis = 0;
  for (const TensorIndex& i : indices) {
    switch (i.kind) {
      case Kind::number: y = y.select(axis, i.number, place); break;
      case Kind::slice:
        if (i.range.start || i.range.stop || i.range.step)
          y = y.slice(axis, i.range.start, i.range.stop, i.range.step.value_or(1), place);
        ++axis;
        break;
      case Kind::none: y = y.unsqueeze(axis++, place); break;
      case Kind::ellipsis:
        if (ellipses > 1) raise(Code::AG5404, "an index can only have a single ellipsis ('...')", place);
        axis += rank_of(x, place) - used;
        break;
      case Kind::tensor:
        tensors.emplace_back(axis, i.tensor);
        axis += i.tensor.dtype() == boolean ? i.tensor.dim() : 1;
        break;
    }
  }
  return y;
}

/// The indexed axes moved to the front, where index tensors are applied; they go back to where they stood if they were
/// neighbours.
struct Fronted {
  Tensor x;
  std::vector<Tensor> indices;
  Ints back;  ///< permutation of the front form to the base's order
};
Fronted to_front(const Tensor& y, const std::vector<std::pair<std::int64_t, Tensor>>& tensors, const Place& place) {
  Fronted f;
  Ints axes;
  for (const auto& [axis, t] : tensors) {
    auto list = index_tensors({t}, place);
    for (std::size_t k = 0; k < list.size(); ++k) axes.push_back(axis + static_cast<std::int64_t>(k));
    f.indices.insert(f.indices.end(), list.begin(), list.end());
  }
  Ints perm = axes;
  const std::int64_t rank = rank_of(y, place);
  for (std::int64_t a = 0; a < rank; ++a)
    if (std::find(axes.begin(), axes.end(), a) == axes.end()) perm.push_back(a);
  f.back.resize(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i)
    f.back[static_cast<std::size_t>(perm[i])] = static_cast<std::int64_t>(i);
  f.x = std::is_sorted(perm.begin(), perm.end()) ? y : y.permute(perm, place);
  return f;
}

}  // namespace

Tensor masked_select(const Tensor& x, const Tensor& mask, Place place) {
  return take(x, index_tensors({mask}, place), place);
}
Tensor Tensor::operator[](std::int64_t i) const { return select(0, i, {}); }
Tensor Tensor::operator[](const Tensor& index) const { return take(*this, index_tensors({index}, {}), {}); }

Tensor Tensor::index(std::initializer_list<TensorIndex> indices, Place place) const {
  std::vector<std::pair<std::int64_t, Tensor>> tensors;
  Tensor y = basic_index(*this, indices, place, tensors);
  if (tensors.empty()) return y;
  Fronted f = to_front(y, tensors, place);
  Tensor z = take(f.x, f.indices, place);
  bool neighbours = true;
  for (std::size_t k = 1; k < tensors.size(); ++k) neighbours &= tensors[k].first == tensors[k - 1].first + 1;
  const std::int64_t first = tensors[0].first;
  if (!neighbours || first == 0) return z;
  // Axes of the indices in front of `first` others: move those others back before them.
  const std::int64_t rank = rank_of(z, place),
                     wide = rank - (rank_of(f.x, place) - static_cast<std::int64_t>(f.indices.size()));
  Ints perm;
  for (std::int64_t a = 0; a < first; ++a) perm.push_back(wide + a);
  for (std::int64_t a = 0; a < wide; ++a) perm.push_back(a);
  for (std::int64_t a = wide + first; a < rank; ++a) perm.push_back(a);
  static const rec::Recipe in_place{"index", "IndexBackward0", r::permute.build};
  return with(in_place, z, perm, place);
}

// ---- In place -------------------------------------------------------------------------------------------------------

namespace {
Tensor& put(Tensor& to, const Tensor& value, std::string_view what, const Place& place) {
  value_of(to, what, place);
  lazy::assign(to, value, what, place);
  return to;
}
void check_leaf(const Tensor& t, const Place& place) {
  value_of(t, "an in-place operation", place);
  if (lazy::Session::current().grad_mode && t.impl()->requires_grad && !t.impl()->grad_fn)
    raise(Code::AG3020, "a leaf Variable that requires grad is being used in an in-place operation.", place);
}
Tensor scaled(const Operand& o, Scalar alpha) {
  if (!o.tensor()) return {};
  return alpha.real() == 1 ? *o.tensor() : *o.tensor() * alpha;
}
Operand scaled_number(const Operand& o, Scalar alpha) {
  if (o.scalar().kind() != Scalar::Kind::real && alpha.kind() != Scalar::Kind::real)
    return Operand(Scalar(o.scalar().integer() * alpha.integer()), o.place());
  return Operand(Scalar(o.scalar().real() * alpha.real()), o.place());
}
}  // namespace

Tensor& Tensor::add_(Operand o, Scalar alpha) {
  check_leaf(*this, o.place());
  Tensor t = scaled(o, alpha);
  return put(*this, t.defined() ? add(Operand(t, o.place())) : add(scaled_number(o, alpha)), "add_", o.place());
}
Tensor& Tensor::sub_(Operand o, Scalar alpha) {
  check_leaf(*this, o.place());
  Tensor t = scaled(o, alpha);
  return put(*this, t.defined() ? sub(Operand(t, o.place())) : sub(scaled_number(o, alpha)), "sub_", o.place());
}
Tensor& Tensor::mul_(Operand o) {
  check_leaf(*this, o.place());
  return put(*this, mul(o), "mul_", o.place());
}
Tensor& Tensor::div_(Operand o) {
  check_leaf(*this, o.place());
  return put(*this, div(o), "div_", o.place());
}
Tensor& Tensor::pow_(Operand o) {
  check_leaf(*this, o.place());
  return put(*this, pow(o), "pow_", o.place());
}
Tensor& Tensor::fill_(Operand v) {
  check_leaf(*this, v.place());
  if (v.tensor()) return put(*this, v.tensor()->expand(sizes()), "fill_", v.place());
  return put(*this, full_like(*this, v.scalar(), dtype(), v.place()), "fill_", v.place());
}
Tensor& Tensor::zero_(Place place) { return fill_(Operand(0, place)); }
Tensor& Tensor::copy_(Operand o) {
  check_leaf(*this, o.place());
  if (!o.tensor()) return fill_(o);
  Tensor t = o.tensor()->to(dtype(), o.place());
  if (t.sizes() != sizes()) t = t.expand(sizes(), o.place());
  // A function of its own: the source keeps its history.
  if (lazy::needs_grad(t) && lazy::Session::current().grad_mode) {
    static const rec::Recipe copies{"copy_", "CopyBackwards", r::clone.build};
    t = apply(copies, {&t}, {}, o.place());
  }
  return put(*this, t, "copy_", o.place());
}
#define AG_IN_PLACE(name) \
  Tensor& Tensor::name##_(Place place) { \
    check_leaf(*this, place); \
    return put(*this, name(place), #name "_", place); \
  }
AG_IN_PLACE(relu)
AG_IN_PLACE(exp)
AG_IN_PLACE(neg)
AG_IN_PLACE(sqrt)
AG_IN_PLACE(sigmoid)
AG_IN_PLACE(tanh)
#undef AG_IN_PLACE
Tensor& Tensor::clamp_(std::optional<Scalar> low, std::optional<Scalar> high, Place place) {
  check_leaf(*this, place);
  return put(*this, clamp(low, high, place), "clamp_", place);
}
Tensor& Tensor::normal_(double mean, double std) {
  check_leaf(*this, {});
  return put(*this, normal(mean, std, sizes(), dtype()), "normal_", {});
}
Tensor& Tensor::uniform_(double low, double high) {
  check_leaf(*this, {});
  return put(*this, rand(sizes(), dtype()) * (high - low) + low, "uniform_", {});
}
Tensor& Tensor::masked_fill_(const Tensor& mask, Operand v) {
  check_leaf(*this, v.place());
  return put(*this, masked_fill(mask, v), "masked_fill_", v.place());
}
Tensor& Tensor::addcmul_(const Tensor& a, const Tensor& b, Scalar value, Place place) {
  check_leaf(*this, place);
  return put(*this, add(Operand(a.mul(Operand(b, place)).mul(Operand(value, place)), place)), "addcmul_", place);
}
Tensor& Tensor::addcdiv_(const Tensor& a, const Tensor& b, Scalar value, Place place) {
  check_leaf(*this, place);
  return put(*this, add(Operand(a.div(Operand(b, place)).mul(Operand(value, place)), place)), "addcdiv_", place);
}
Tensor& Tensor::lerp_(const Tensor& end, Scalar weight, Place place) {
  check_leaf(*this, place);
  return put(*this, lerp(*this, end, Operand(weight, place)), "lerp_", place);
}

namespace {
Tensor with_put(const Tensor& x, const std::vector<Tensor>& indices, const Operand& v, bool accumulate) {
  lazy::ValueRef number;
  std::vector<Arg> args{lazy::arg_of(x, v.place())};
  for (const Tensor& t : indices) args.push_back(lazy::arg_of(t, v.place()));
  if (v.tensor()) {
    args.push_back(lazy::arg_of(*v.tensor(), v.place()));
  } else {
    number = lazy::Value::scalar(lazy::ir(x.dtype()), v.scalar().real(), v.scalar().integer());
    args.push_back({nullptr, number.get()});
  }
  return apply(r::index_put, args, Ints{accumulate}, v.place());
}
}  // namespace
Tensor& Tensor::index_put_(const std::vector<Tensor>& indices, Operand v, bool accumulate) {
  check_leaf(*this, v.place());
  return put(*this, with_put(*this, index_tensors(indices, v.place()), v, accumulate), "index_put_", v.place());
}
Tensor& Tensor::index_put_(std::initializer_list<TensorIndex> indices, Operand v) {
  check_leaf(*this, v.place());
  std::vector<std::pair<std::int64_t, Tensor>> tensors;
  Tensor y = basic_index(*this, indices, v.place(), tensors);
  if (tensors.empty()) {
    y.copy_(v);
    return *this;
  }
  Fronted f = to_front(y, tensors, v.place());
  Tensor whole = with_put(f.x, f.indices, v, false);
  if (!f.x.is_same(y)) whole = with(r::permute, whole, f.back, v.place());
  if (y.is_same(*this)) return put(*this, whole, "index_put_", v.place());
  y.copy_(Operand(whole, v.place()));
  return *this;
}

}  // namespace ag::api
