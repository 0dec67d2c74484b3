// JSON numbers to elements of an array.
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "frontend/data/value.hpp"
#include "ir/base/half.hpp"
#include "ir/base/small_float.hpp"

namespace ag::data {
namespace {

using json::Kind;
using json::View;

std::string range_of(DType t) {
  if (is_storage(t)) {
    int half = 1 << (storage_int_bits(t) - 1);
    return is_signed_storage(t) ? fmt::format("{} to {}", -half, half - 1) : fmt::format("0 to {}", 2 * half - 1);
  }
  return dispatch_dtype(t, []<class T>() -> std::string {
    if constexpr (std::is_integral_v<T>)
      return fmt::format("{} to {}", +std::numeric_limits<T>::min(), +std::numeric_limits<T>::max());
    else
      return {};
  });
}

/// Sizes from the nesting: the first element of each level decides.
Result<std::vector<std::int64_t>> nesting(View v, const Limits& limits) {
  std::vector<std::int64_t> shape;
  std::int64_t count = 1;
  for (; v.is(Kind::array); v = v[0]) {
    shape.push_back(static_cast<std::int64_t>(v.size()));
    auto product = checked_mul(count, shape.back());
    if (shape.size() > 16 || !product || static_cast<std::uint64_t>(*product) * 8 > limits.max_array_bytes)
      return fail(Code::AG2004, v.loc(), "the nested arrays are too large");
    count = *product;
    if (v.size() == 0) break;
  }
  return shape;
}

Status wrong(View v, DType t, std::string why, std::string help = {}) {
  Diag d = error(Code::AG2003, v.loc(), fmt::format("`{}` is not a value of {}", v.spelling(), dtype_name(t)),
                 std::move(why));
  if (!help.empty()) d.help(std::move(help));
  return fail(std::move(d));
}

class Filler {
 public:
  Filler(Array& out) : out_(out), t_(out.dtype()) {}

  /// One element at position i.
  Status put(View v, std::int64_t i) {
    if (v.is(Kind::boolean)) {
      if (t_ != DType::boolean)
        return wrong(v, t_, "a bool, where a number is wanted", fmt::format("write `{}`", v.as_bool() ? 1 : 0));
      out_.set_int(i, v.as_bool());
      return {};
    }
    if (v.is(Kind::string)) return put_text(v, i);
    if (!v.is_numeric())
      return wrong(
          v, t_,
          fmt::format("{}, where {} is wanted", kind_name(v.kind()), t_ == DType::boolean ? "a bool" : "a number"));
    if (t_ == DType::boolean) return wrong(v, t_, "a number, where true or false is wanted");
    if (is_float(t_)) return put_float(v, i);
    if (is_storage_float(t_)) return put_small_float(v, v.as_double(), i);
    return put_integer(v, i);
  }

 private:
  Status put_text(View v, std::int64_t i) {
    double x = 0;
    if (v.str() == "NaN")
      x = std::numeric_limits<double>::quiet_NaN();
    else if (v.str() == "Infinity")
      x = std::numeric_limits<double>::infinity();
    else if (v.str() == "-Infinity")
      x = -std::numeric_limits<double>::infinity();
    else
      return wrong(v, t_, "a string", "of strings only \"NaN\", \"Infinity\" and \"-Infinity\" are numbers");
    if (is_storage_float(t_)) return put_small_float(v, x, i);
    if (!is_float(t_)) return wrong(v, t_, "only floats have it");
    out_.set_double(i, x);
    return {};
  }

  Status put_float(View v, std::int64_t i) {
    double x = v.as_double();
    out_.set_double(i, x);
    if (std::isfinite(x) && !std::isfinite(out_.get_double(i)))
      return wrong(v, t_, fmt::format("too large for {}", dtype_name(t_)), "an infinite value is written \"Infinity\"");
    return {};
  }

  /// A number must be within the type's range; infinity and NaN only where it has them.
  Status put_small_float(View v, double x, std::int64_t i) {
    out_.as_mutable<std::uint8_t>()[static_cast<std::size_t>(i)] = encode_float(t_, x, false, ScaleRounding::nearest);
    double y = out_.get_double(i);
    bool lost = x != x ? y == y : std::isinf(x) ? y != x : !std::isfinite(y) || (t_ == DType::f8e8m0 && x < 0);
    if (t_ == DType::f4e2m1 && std::abs(x) > 6) lost = true;
    return lost ? wrong(v, t_, "outside its values") : Status{};
  }

  Status put_integer(View v, std::int64_t i) {
    if (v.is(Kind::number)) return wrong(v, t_, "spelled as a float, where an integer is wanted");
    std::string outside = fmt::format("outside {}", range_of(t_));
    if (is_storage(t_)) {
      auto n = v.as_int();
      if (n) out_.set_int(i, *n);
      return n && out_.get_int(i) == *n ? Status{} : wrong(v, t_, outside);
    }
    if (is_unsigned_int(t_)) {
      auto x = v.as_uint();
      std::uint64_t bits = dtype_bytes(t_) * 8, most = bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
      if (!x || *x > most) return wrong(v, t_, outside);
      out_.set_int(i, static_cast<std::int64_t>(*x));
      return {};
    }
    auto x = v.as_int();
    std::int64_t half = std::int64_t{1} << (dtype_bytes(t_) * 8 - 2), most = half - 1 + half;
    if (!x || *x > most || *x < -most - 1) return wrong(v, t_, outside);
    out_.set_int(i, *x);
    return {};
  }

  Array& out_;
  DType t_;
};

std::string list_of(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Status fill_nested(View root, Filler& filler, const std::vector<std::int64_t>& shape) {
  struct Frame {
    View::Iterator next, end;
  };
  std::vector<Frame> stack;
  std::int64_t i = 0;
  auto enter = [&](View v) -> Status {
    std::size_t depth = stack.size();
    if (depth == shape.size()) return filler.put(v, i++);
    if (!v.is(Kind::array))
      return fail(Code::AG2004, v.loc(),
                  fmt::format("the data is nested {} deep here, and the shape is {}", depth, list_of(shape)),
                  fmt::format("an array of {} is wanted", shape[depth]));
    if (static_cast<std::int64_t>(v.size()) != shape[depth])
      return fail(Code::AG2004, v.loc(),
                  fmt::format("{} items where the shape {} has {}", v.size(), list_of(shape), shape[depth]),
                  fmt::format("axis {} has size {}", depth, shape[depth]));
    stack.push_back({v.begin(), v.end()});
    return {};
  };
  AG_TRY_(enter(root));
  while (!stack.empty()) {
    Frame& f = stack.back();
    if (f.next == f.end) {
      stack.pop_back();
      continue;
    }
    View child = *f.next;
    ++f.next;
    AG_TRY_(enter(child));
  }
  return {};
}

}  // namespace

Result<Array> array_from_json(View v, DType t, const std::vector<std::int64_t>* shape, const Limits& limits) {
  std::vector<std::int64_t> nested;
  if (!shape) {
    auto found = nesting(v, limits);
    if (!found) return fail(std::move(found).error());
    nested = std::move(*found);
  }
  const std::vector<std::int64_t>& want = shape ? *shape : nested;
  auto size = Array::byte_size(t, want);
  if (!size || *size > limits.max_array_bytes)
    return fail(Code::AG2004, v.loc(), fmt::format("the shape {} is too large", list_of(want)));
  // The text must hold every element, so a shape beyond it is refused before anything is allocated.
  std::int64_t elems = static_cast<std::int64_t>(*size / dtype_bytes(t));
  if (static_cast<std::uint64_t>(elems) > v.spelling().size() + 1)
    return fail(Code::AG2004, v.loc(),
                fmt::format("the shape {} has {} elements and the data fewer", list_of(want), elems));
  Array out(t, want);
  Filler filler(out);
  bool flat = v.is(Kind::array) && want.size() != 1 && (v.size() == 0 || !v[0].is(Kind::array)) && !want.empty();
  if (!flat) {
    AG_TRY_(fill_nested(v, filler, want));
    return out;
  }
  if (static_cast<std::int64_t>(v.size()) != elems)
    return fail(Code::AG2004, v.loc(),
                fmt::format("the data has {} elements, and the shape {} has {}", v.size(), list_of(want), elems));
  std::int64_t i = 0;
  for (View item : v) AG_TRY_(filler.put(item, i++));
  return out;
}

}  // namespace ag::data
