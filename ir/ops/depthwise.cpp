// Depthwise convolution of two axes with channels last, one output channel an input channel. The pass `depthwise` makes
// this op; a CPU has a kernel for it (passes/lower_depthwise), elsewhere it is a `conv`.
#include "ir/ops/depthwise.hpp"

#include "ir/ops/convolution.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;

DepthwiseDesc describe_depthwise(const View& n) {
  const Dims &x = n.in(0).shape, &w = n.in(1).shape;
  return {x[0],
          x[3],
          {x[1], x[2]},
          attr_dims(n.attrs(), "size"),
          attr_dims(n.attrs(), "low"),
          {w[0].value(), w[1].value()},
          attr_ints(n.attrs(), "strides"),
          attr_ints(n.attrs(), "dilations")};
}

namespace {

Types infer_depthwise(const InferCtx& c) {
  const Type &x = c.in(0), &w = c.in(1);
  const Dims size = attr_dims(c.attrs(), "size");
  if (size.size() != 2) return c.error(Code::AG2206, "`size` of `depthwise` is two numbers");
  if (x.rank() != 4 || w.rank() != 3)
    return c.error(
        Code::AG2204,
        fmt::format("`depthwise` needs images [N,H,W,C] and filters [KH,KW,C], not {} and {}", x.str(), w.str()), {},
        {0, 1});
  AG_TRY_(check_window_attrs(c, 2, x.rank()));
  const bool differ = x.shape[3].is_const() && w.shape[2].is_const() && x.shape[3] != w.shape[2];
  if (!w.shape[0].is_const() || !w.shape[1].is_const() || differ)
    return c.error(Code::AG2203, fmt::format("`depthwise` of {} does not fit to {}", x.str(), w.str()), {}, {0, 1});
  AG_TRY(Dims shape, checked_shape(c, {x.shape[0], size[0], size[1], x.shape[3]}));
  return std::vector<Type>{{x.dtype, std::move(shape)}};
}

std::vector<ValueId> decompose_depthwise(Builder& b, const View& n) {
  const DepthwiseDesc d = describe_depthwise(n);
  const Window w{d.size, {d.taps[0], d.taps[1]}, d.count, d.low, d.strides, d.dilations};
  ValueId filters = b.reshape(n.operand(1), {d.taps[0], d.taps[1], 1, d.channels});
  return {make_conv(b, ConvRole::output, ConvLayout::channels_last, n.operand(0), filters, w, d.channels, d.count)};
}

std::vector<OpSample> depthwise_samples() {
  auto with = [](std::string_view x, std::string_view w, Dims size, Dims low, Ints strides, Ints dilations) {
    return sample({x, w}, {{"size", std::move(size)},
                           {"low", std::move(low)},
                           {"strides", std::move(strides)},
                           {"dilations", std::move(dilations)}});
  };
  return {with("f64[1,4,4,2]", "f64[3,3,2]", {4, 4}, {1, 1}, {1, 1}, {1, 1}),
          with("f64[2,5,7,3]", "f64[3,3,3]", {3, 4}, {1, 1}, {2, 2}, {1, 1}),
          with("f64[1,6,5,2]", "f64[2,3,2]", {5, 3}, {0, 0}, {1, 1}, {1, 1}),
          with("f64[1,7,6,1]", "f64[3,2,1]", {5, 7}, {1, 2}, {1, 1}, {2, 2}),
          with("f32[2,9,14,33]", "f32[5,5,33]", {9, 14}, {2, 2}, {1, 1}, {1, 1}),
          with("f32[1,8,17,48]", "f32[3,3,48]", {4, 9}, {0, 1}, {2, 2}, {1, 1}),
          with("f32[1,3,2,20]", "f32[3,3,20]", {5, 6}, {2, 3}, {1, 1}, {1, 1}),
          with("f32[1,2,31,16]", "f32[1,7,16]", {2, 31}, {0, 3}, {1, 1}, {1, 1}),
          with("f32[1,9,9,4]", "f32[3,3,4]", {2, 2}, {-1, -2}, {3, 4}, {1, 1}),
          with("f32[0,4,4,2]", "f32[3,3,2]", {4, 4}, {1, 1}, {1, 1}, {1, 1})};
}

}  // namespace

std::vector<OpInfo> depthwise_ops() {
  constexpr DTypeSet reals = set_of(DType::f64) | set_of(DType::f32);
  OpInfo o{.name = "depthwise",
           .tier = Tier::composite,
           .lower_class = LowerClass::window,
           .summary = "convolution of each channel of images [N,H,W,C] with filters [KH,KW,C] of its own"};
  o.operands = {{.name = "x", .dtypes = reals}, {.name = "w", .dtypes = reals}};
  o.attrs = window_attr_specs({{"size", AttrKind::dims, true, "height and width of the result"}});
  o.infer = infer_depthwise;
  o.decompose = decompose_depthwise;
  o.samples = depthwise_samples;
  return {o};
}

}  // namespace ag
