// Functional forms of differentiation, over the same graph of functions that backward() walks.
#include <algorithm>

#include "frontend/trace/recipes.hpp"
#include "runtime/api/tensor_impl.hpp"

namespace ag::api {
namespace {

using lazy::needs_grad;
using lazy::raise;

/// Variables to differentiate with respect to: of their own, but with the history that the arguments have.
Tensors variables(const Tensors& xs, bool& nested) {
  Tensors in;
  nested = false;
  for (const Tensor& x : xs) {
    if (needs_grad(x)) {
      in.push_back(x.clone({}));
      nested = true;
    } else {
      in.push_back(x.is_floating_point() ? x.detach({}).requires_grad_(true, {}) : x.detach({}));
    }
  }
  return in;
}

/// Gradients that may not exist, as zeros.
Tensors gradients(const Tensors& outputs, const Tensors& seeds, const Tensors& inputs, bool retain, bool create_graph) {
  Tensors tracked, wanted, given;
  for (std::size_t i = 0; i < outputs.size(); ++i)
    if (needs_grad(outputs[i])) {
      tracked.push_back(outputs[i]);
      given.push_back(i < seeds.size() ? seeds[i] : Tensor());
    }
  for (const Tensor& t : inputs)
    if (needs_grad(t)) wanted.push_back(t);
  Tensors found(wanted.size());
  if (!tracked.empty() && !wanted.empty())
    found = lazy::differentiate(tracked, given, &wanted, retain, create_graph, true, false, {});
  Tensors out;
  std::size_t next = 0;
  for (const Tensor& t : inputs) {
    Tensor g = needs_grad(t) ? found[next++] : Tensor();
    out.push_back(g.defined() ? g : zeros_like(t, {}, {}));
  }
  return out;
}

void need_one_element(const Tensor& y) {
  if (y.numel() != 1)
    raise(Code::AG3021, "grad of a function needs a result of one element, but it gave " + std::to_string(y.numel()),
          {});
}

}  // namespace

std::function<std::pair<Tensor, Tensors>(const Tensors&)> value_and_grad(std::function<Tensor(const Tensors&)> f) {
  return [f = std::move(f)](const Tensors& xs) -> std::pair<Tensor, Tensors> {
    AutoGradMode on(true);
    bool nested;
    const Tensors in = variables(xs, nested);
    Tensor y = f(in);
    need_one_element(y);
    Tensors g = gradients({y}, {}, in, nested, nested);
    return {nested ? y : y.detach({}), std::move(g)};
  };
}
std::function<std::pair<Tensor, Tensor>(const Tensor&)> value_and_grad(Function f) {
  auto many =
      value_and_grad(std::function<Tensor(const Tensors&)>([f = std::move(f)](const Tensors& x) { return f(x[0]); }));
  return [many = std::move(many)](const Tensor& x) -> std::pair<Tensor, Tensor> {
    auto [y, g] = many({x});
    return {y, g[0]};
  };
}
Function grad(Function f) {
  auto both = value_and_grad(std::move(f));
  return [both = std::move(both)](const Tensor& x) { return both(x).second; };
}

std::pair<Tensors, std::function<Tensors(const Tensors&)>> vjp(const MultiFunction& f, const Tensors& xs) {
  AutoGradMode on(true);
  bool nested;
  Tensors in = variables(xs, nested);
  Tensors ys = f(in);
  Tensors values;
  for (const Tensor& y : ys) values.push_back(nested ? y : y.detach({}));
  return {values, [in, ys, nested](const Tensors& cts) {
            bool again = nested;
            for (const Tensor& t : cts) again |= t.defined() && needs_grad(t);
            return gradients(ys, cts, in, true, again);
          }};
}
std::pair<Tensor, Function> vjp(const Function& f, const Tensor& x) {
  auto [ys, back] = vjp([&](const Tensors& in) { return Tensors{f(in[0])}; }, Tensors{x});
  return {ys[0], [back](const Tensor& ct) { return back({ct})[0]; }};
}

/// Forward mode as the derivative of reverse mode: x -> vjp(u) is linear in u, and its own vjp is the tangent. What
/// depends on u alone is never run, since nothing reads it.
std::pair<Tensor, Tensor> jvp(const Function& f, const Tensor& x, const Tensor& v) {
  AutoGradMode on(true);
  bool nested;
  const Tensors in = variables({x}, nested);
  nested |= needs_grad(v);
  Tensor y = f(in[0]);
  if (!needs_grad(y)) return {y, zeros_like(y, {}, {})};
  Tensor u = zeros_like(y, {}, {}).requires_grad_(true, {});
  const Tensor g = gradients({y}, {u}, in, true, true)[0];
  const Tensor t = gradients({g}, {v}, {u}, true, nested)[0];
  return {nested ? y : y.detach({}), t};
}

namespace {

/// The gradients for many seeds, [n, shape of y]: one program for all of them, by vmap; one after the other where an
/// operation on the way cannot be batched. `row` is the gradient for one seed.
Tensor gradient_rows(const Function& row, const Tensor& seeds) {
  try {
    return vmap(row)(seeds);
  } catch (const Error&) {
    Tensors rows;
    for (const Tensor& seed : seeds.unbind(0)) rows.push_back(row(seed));
    return stack(rows, 0);
  }
}

/// One seed for each element of y, and the shape of the Jacobian.
std::pair<Tensor, std::vector<std::int64_t>> seeds_for(const Tensor& y, const Tensor& x) {
  std::vector<std::int64_t> each = y.sizes(), shape = y.sizes();
  const auto of = x.sizes();
  shape.insert(shape.end(), of.begin(), of.end());
  each.insert(each.begin(), y.numel());
  return {eye(y.numel(), y.dtype()).reshape(each), shape};
}

}  // namespace

Tensor jacobian(const Function& f, const Tensor& x) {
  AutoGradMode on(true);
  bool nested;
  const Tensors in = variables({x}, nested);
  Tensor y = f(in[0]);
  auto [seeds, shape] = seeds_for(y, x);
  if (y.numel() == 0 || !needs_grad(y)) return zeros(shape, x.dtype());
  auto row = [&](const Tensor& seed) { return gradients({y}, {seed}, in, true, nested)[0]; };
  return gradient_rows(row, seeds).reshape(shape);
}
Tensor hessian(const Function& f, const Tensor& x) { return jacobian(grad(f), x); }
Tensor hvp(const Function& f, const Tensor& x, const Tensor& v) {
  AutoGradMode on(true);
  bool nested;
  const Tensors in = variables({x}, nested);
  Tensor y = f(in[0]);
  need_one_element(y);
  const Tensor g = gradients({y}, {}, in, true, true)[0];
  return gradients({g}, {v}, in, nested, nested)[0];
}

// ---- Functions with a derivative of their own
// ---------------------------------------------------------------------------

Tensors checkpoint(const MultiFunction& f, const Tensors& xs) {
  if (!is_grad_enabled() || std::none_of(xs.begin(), xs.end(), needs_grad)) return f(xs);
  Tensors outs;
  {
    NoGradGuard off;
    outs = f(xs);
  }
  return lazy::attach_custom(std::move(outs), xs, "CheckpointFunctionBackward",
                             [f, xs](const Tensors& cts) {
                               lazy::Session& s = lazy::Session::current();
                               AutoGradMode on(true);
                               Tensors in;
                               for (const Tensor& x : xs) {
                                 in.push_back(x.detach({}));
                                 if (needs_grad(x)) in.back().requires_grad_(true, {});
                               }
                               // The second computation must not be shared with the first: that would keep what was to
                               // be freed.
                               const std::uint32_t before = s.remat;
                               s.remat = ++s.remats;
                               Tensors again = f(in);
                               s.remat = before;
                               Tensors tracked, seeds;
                               for (std::size_t i = 0; i < again.size(); ++i)
                                 if (needs_grad(again[i])) tracked.push_back(again[i]), seeds.push_back(cts[i]);
                               lazy::differentiate(tracked, seeds, nullptr, false, false, true, true, {});
                               Tensors grads;
                               for (const Tensor& t : in) grads.push_back(t.requires_grad() ? t.grad() : Tensor());
                               return grads;
                             },
                             {});
}
Tensor checkpoint(const Function& f, const Tensor& x) {
  return checkpoint([f](const Tensors& in) { return Tensors{f(in[0])}; }, Tensors{x})[0];
}

MultiFunction custom_vjp(std::function<std::pair<Tensors, Tensors>(const Tensors&)> forward,
                         std::function<Tensors(const Tensors&, const Tensors&)> backward, std::string name) {
  return [forward = std::move(forward), backward = std::move(backward), name = std::move(name)](const Tensors& xs) {
    std::pair<Tensors, Tensors> made;
    {
      NoGradGuard off;
      made = forward(xs);
    }
    return lazy::attach_custom(
        std::move(made.first), xs, name,
        [backward, saved = std::move(made.second)](const Tensors& cts) { return backward(saved, cts); }, {});
  };
}

// ---- The tape
// -------------------------------------------------------------------------------------------------------------

namespace {
thread_local int tapes = 0;
}

GradientTape::GradientTape(bool persistent) : persistent_(persistent) { ++tapes; }
GradientTape::~GradientTape() {
  reset();
  --tapes;
}
void GradientTape::watch(const Tensor& t) {
  if (needs_grad(t)) return;
  Tensor handle = t;
  handle.requires_grad_(true);
  watched_.push_back(handle);
}
void GradientTape::watch(const Tensors& ts) {
  for (const Tensor& t : ts) watch(t);
}
void GradientTape::reset() {
  for (Tensor& t : watched_)
    if (t.is_leaf()) t.requires_grad_(false);
  watched_.clear();
  used_ = false;
}

Tensors GradientTape::gradient(const Tensor& target, const Tensors& sources, const Tensor& seed) {
  if (used_ && !persistent_)
    raise(Code::AG3021, "A non-persistent GradientTape can only be used to compute one set of gradients (or jacobians)",
          {});
  used_ = true;
  Tensors out(sources.size());
  if (!needs_grad(target)) return out;
  Tensors wanted;
  for (const Tensor& s : sources)
    if (needs_grad(s)) wanted.push_back(s);
  if (wanted.empty()) return out;
  const bool again = tapes > 1;  // another tape may differentiate this gradient
  const Tensor ct = seed.defined() ? seed : ones_like(target, {}, {});
  Tensors found = lazy::differentiate({target}, {ct}, &wanted, persistent_ || again, again, true, false, {});
  std::size_t next = 0;
  for (std::size_t i = 0; i < sources.size(); ++i)
    if (needs_grad(sources[i])) out[i] = found[next++];
  return out;
}
Tensor GradientTape::gradient(const Tensor& target, const Tensor& source, const Tensor& seed) {
  return gradient(target, Tensors{source}, seed)[0];
}
Tensor GradientTape::jacobian(const Tensor& target, const Tensor& source) {
  const bool persistent = std::exchange(persistent_, true);
  auto [seeds, shape] = seeds_for(target, source);
  Tensor rows = gradient_rows(
      [&](const Tensor& seed) {
        Tensor row = gradient(target, source, seed);
        return row.defined() ? row : zeros_like(source);
      },
      seeds);
  persistent_ = persistent;
  return rows.reshape(shape);
}

}  // namespace ag::api
