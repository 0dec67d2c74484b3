// Makers of the window ops.
#include "ir/ops/windows.hpp"

#include "ir/ops/dims.hpp"

namespace ag::ops {

Attrs window_attrs(const Window& w, std::initializer_list<std::pair<std::string, AttrValue>> more) {
  Attrs a(more);
  a.set("low", w.low);
  a.set("strides", w.strides);
  a.set("dilations", w.dilations);
  return a;
}

std::vector<AttrSpec> window_attr_specs(std::vector<AttrSpec> more) {
  more.push_back({"low", AttrKind::dims, true, "padding before the first element; negative crops"});
  more.push_back({"strides", AttrKind::ints, true});
  more.push_back({"dilations", AttrKind::ints, true});
  return more;
}

Expr unfold(Expr x, const Window& w, std::string_view outside) {
  return x.with(
      x.builder().add_op("unfold", {x.id()},
                         window_attrs(w, {{"window", w.taps}, {"count", w.count}, {"outside", std::string(outside)}})));
}
Expr fold_windows(Expr patches, const Window& w) {
  return patches.with(patches.builder().add_op("fold", {patches.id()}, window_attrs(w, {{"space", w.space}})));
}
Expr window_gather(Expr x, Expr which, const Window& w) {
  return x.with(x.builder().add_op("window_gather", {x.id(), which.id()},
                                   window_attrs(w, {{"window", w.taps}, {"count", w.count}})));
}
Expr window_scatter(Expr values, Expr which, const Window& w) {
  return values.with(values.builder().add_op("window_scatter", {values.id(), which.id()},
                                             window_attrs(w, {{"window", w.taps}, {"space", w.space}})));
}
Expr reduce_window(std::string_view kind, Expr x, const Window& w) {
  return x.with(x.builder().add_op("reduce_window_" + std::string(kind), {x.id()},
                                   window_attrs(w, {{"window", w.taps}, {"count", w.count}})));
}

Expr first_winner(Expr x, Expr y, const Window& w, std::string_view kind) {
  Builder& b = x.builder();
  std::size_t lead = x.type().shape.size() - w.rank();
  Expr windows = unfold(x, w, kind);
  Type t = windows.type();
  Ints kept = iota_ints(static_cast<std::int64_t>(lead));
  for (std::int64_t d = 0; d < w.axes(); ++d) kept.push_back(static_cast<std::int64_t>(lead) + w.axes() + d);
  Expr won = windows == y.with(b.broadcast_in_dim(y, t.shape, kept));
  if (is_float(x.dtype())) won = either(won, call("is_nan", windows));
  if (!w.inside()) {  // padding never wins, not even over elements that equal it
    Expr real = unfold(x.with(b.full({DType::boolean, w.space}, 1)), w);
    won = both(won, real.with(b.broadcast_to(real, t.shape)));
  }
  Dim taps = product(w.taps);
  // As narrow as the elements beside it usually are: as many lanes a register.
  const DType numbers = taps.is_const() && taps.value() < INT32_MAX ? DType::i32 : DType::i64;
  Expr number(b, b.reshape(b.iota({numbers, {taps}}, 0), w.taps));
  number = number.with(b.broadcast_in_dim(number, t.shape, iota_ints(w.axes(), static_cast<std::int64_t>(lead))));
  Expr first = reduce("reduce_min", select(won, number, size_value(b, taps, numbers)),
                      iota_ints(w.axes(), static_cast<std::int64_t>(lead)));
  return first;
}

}  // namespace ag::ops
