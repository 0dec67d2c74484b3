// Transposes arrays: what the interpreter does with weights while a program is compiled.
#pragma once
#include <algorithm>

#include "ir/ops/eval.hpp"

namespace ag::ops {

/// Elements of one size, moved. Blocks of the result's last axis outermost, then the other axes as they lie in the
/// operand, so that a few dozen streams are read and runs are written: weights of a network take milliseconds.
template <class Word>
void move_axes(const std::byte* source, std::byte* result, const Shape& shape, const Shape& source_strides,
               const Shape& strides) {
  constexpr std::int64_t block = 64;
  const std::size_t last = shape.size() - 1;
  std::vector<std::size_t> axes(last);
  for (std::size_t d = 0; d < last; ++d) axes[d] = d;
  std::stable_sort(axes.begin(), axes.end(),
                   [&](std::size_t a, std::size_t b) { return source_strides[a] > source_strides[b]; });
  const auto* from = reinterpret_cast<const Word*>(source);
  auto* to = reinterpret_cast<Word*>(result);
  for (std::int64_t low = 0; low < shape[last]; low += block) {
    const std::int64_t n = std::min(block, shape[last] - low), step = source_strides[last];
    Shape index(last, 0);
    std::int64_t in = low * step, out = low;
    for (bool more = true; more;) {
      for (std::int64_t i = 0; i < n; ++i) to[out + i] = from[in + i * step];
      more = false;
      for (std::size_t k = last; k-- > 0 && !more;) {
        std::size_t d = axes[k];
        in += source_strides[d], out += strides[d];
        more = ++index[d] < shape[d];
        if (!more) in -= shape[d] * source_strides[d], out -= shape[d] * strides[d], index[d] = 0;
      }
    }
  }
}

inline Array transposed(const Array& x, const std::vector<std::int64_t>& perm) {
  Shape from = row_major_strides(x.shape()), shape, moved;
  for (std::int64_t p : perm) {
    shape.push_back(x.shape()[static_cast<std::size_t>(p)]);
    moved.push_back(from[static_cast<std::size_t>(p)]);
  }
  Array out(x.dtype(), shape);
  if (out.elems() == 0 || perm.empty()) return x.reshaped(shape);
  auto move = [&]<class Word>(Word) {
    move_axes<Word>(x.bytes().data(), out.mutable_bytes().data(), shape, moved, row_major_strides(shape));
  };
  switch (dtype_bytes(x.dtype())) {
    case 1: move(std::uint8_t{}); break;
    case 2: move(std::uint16_t{}); break;
    case 4: move(std::uint32_t{}); break;
    default: move(std::uint64_t{}); break;
  }
  return out;
}

}  // namespace ag::ops
