// Values of images at real-valued points, differentiable in the image and in the points.
#pragma once
#include "ir/ops/windows.hpp"

namespace ag::ops {

enum class Interpolation : std::uint8_t { nearest, linear, cubic };
enum class Border : std::uint8_t { zeros, border, reflection };

struct Sampling {
  Interpolation mode = Interpolation::linear;
  Border border = Border::zeros;
  bool align_corners = true;   ///< reflection is about the outer elements' centres, else about their edges
  Expr batch = {};             ///< which image each row of points looks at, i64 [rows]; none: its own
};

/// The taps of each point before they are summed, [rows, channels, taps (an axis for each axis of the image)..., D...].
/// `points`: a coordinate for each axis of the image x [images, channels, S...], in elements, each of shape [rows,
/// D...] (or 1 where the coordinate does not depend on that axis).
Expr sample_taps(Expr x, const std::vector<Expr>& points, const Sampling& how);
/// Interpolated values, [rows, channels, D...].
Expr sample_points(Expr x, const std::vector<Expr>& points, const Sampling& how);

}  // namespace ag::ops
