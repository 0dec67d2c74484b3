// ImageDecoder: BMP and PNM files, which need no library. The host decodes; sizes follow from the data.
#include <optional>
#include <string_view>

#include "ir/ops/common.hpp"
#include "ir/ops/eval.hpp"
#include "ir/ops/families.hpp"

namespace ag {
using namespace ops;
namespace {

using Bytes = std::span<const std::uint8_t>;

struct Picture {
  std::int64_t height = 0, width = 0;
  std::vector<std::uint8_t> rgb;  ///< height * width * 3
};

constexpr std::int64_t max_side = 1 << 16;

bool fits(std::int64_t height, std::int64_t width) {
  return height > 0 && width > 0 && height <= max_side && width <= max_side;
}

std::uint32_t little(Bytes b, std::size_t at, int bytes) {
  std::uint32_t v = 0;
  for (int i = 0; i < bytes; ++i) v |= static_cast<std::uint32_t>(b[at + static_cast<std::size_t>(i)]) << (8 * i);
  return v;
}

/// Uncompressed BMP of 24 or 32 bits a pixel; rows are padded to 4 bytes and, unless the height is negative, stored
/// from the last one up.
std::optional<Picture> decode_bmp(Bytes b) {
  if (b.size() < 54 || b[0] != 'B' || b[1] != 'M') return std::nullopt;
  const std::int64_t data = little(b, 10, 4), bits = little(b, 28, 2), compression = little(b, 30, 4);
  const std::int64_t width = static_cast<std::int32_t>(little(b, 18, 4));
  const std::int64_t stored = static_cast<std::int32_t>(little(b, 22, 4)), height = stored < 0 ? -stored : stored;
  if ((bits != 24 && bits != 32) || compression != 0 || !fits(height, width)) return std::nullopt;
  const std::int64_t bytes = bits / 8, pitch = (width * bytes + 3) / 4 * 4;
  if (data + pitch * height > static_cast<std::int64_t>(b.size())) return std::nullopt;
  Picture p{height, width, {}};
  p.rgb.reserve(static_cast<std::size_t>(3 * height * width));
  for (std::int64_t y = 0; y < height; ++y) {
    const std::int64_t row = data + pitch * (stored < 0 ? y : height - 1 - y);
    for (std::int64_t x = 0; x < width; ++x)
      for (std::int64_t c : {2, 1, 0}) p.rgb.push_back(b[static_cast<std::size_t>(row + x * bytes + c)]);
  }
  return p;
}

/// A number of a PNM header; comments run from # to the end of the line.
std::optional<std::int64_t> header_number(Bytes b, std::size_t& at) {
  for (; at < b.size(); ++at) {
    if (b[at] == '#')
      while (at < b.size() && b[at] != '\n') ++at;
    else if (b[at] != ' ' && b[at] != '\n' && b[at] != '\t' && b[at] != '\r')
      break;
  }
  std::int64_t v = 0;
  const std::size_t first = at;
  for (; at < b.size() && b[at] >= '0' && b[at] <= '9' && v <= max_side; ++at) v = 10 * v + (b[at] - '0');
  return at == first ? std::nullopt : std::optional(v);
}

/// Binary PNM: P5 (grey) and P6 (colour) of up to 255 levels.
std::optional<Picture> decode_pnm(Bytes b) {
  if (b.size() < 3 || b[0] != 'P' || (b[1] != '5' && b[1] != '6')) return std::nullopt;
  std::size_t at = 2;
  const auto width = header_number(b, at), height = header_number(b, at), levels = header_number(b, at);
  if (!width || !height || !levels || !fits(*height, *width) || *levels != 255) return std::nullopt;
  const std::size_t channels = b[1] == '6' ? 3 : 1, pixels = static_cast<std::size_t>(*height * *width);
  ++at;  // one white space ends the header
  if (at > b.size() || b.size() - at < channels * pixels) return std::nullopt;
  Picture p{*height, *width, {}};
  p.rgb.reserve(3 * pixels);
  for (std::size_t i = 0; i < pixels; ++i)
    for (std::size_t c = 0; c < 3; ++c) p.rgb.push_back(b[at + channels * i + (channels == 3 ? c : 0)]);
  return p;
}

std::int64_t channels_of(const Attrs& a) { return attr_string(a, "pixel_format", "RGB") == "Grayscale" ? 1 : 3; }

Types infer_image(const InferCtx& c) {
  if (c.in(0).rank() != 1)
    return c.error(Code::AG2204, "`ImageDecoder` reads a vector of bytes: `" + c.in(0).str() + "` is none", {}, {0});
  return std::vector<Type>{{DType::u8, {c.unbacked(0), c.unbacked(1), Dim(channels_of(c.attrs()))}}};
}

Result<std::vector<Array>> decode(const EvalCtx& c) {
  Bytes bytes = c.in[0].as<std::uint8_t>();
  auto picture = decode_bmp(bytes);
  if (!picture) picture = decode_pnm(bytes);
  if (!picture) return c.error(Code::AG5216, "cannot read this image: plain BMP and binary PNM are read");
  const std::string format = attr_string(c.node.attrs(), "pixel_format", "RGB");
  Array out(DType::u8, {picture->height, picture->width, channels_of(c.node.attrs())});
  auto to = out.as_mutable<std::uint8_t>();
  for (std::size_t i = 0; i < picture->rgb.size() / 3; ++i) {
    const std::uint8_t* p = &picture->rgb[3 * i];
    if (format == "Grayscale")  // the luma of ITU-R BT.601
      to[i] = static_cast<std::uint8_t>((299 * p[0] + 587 * p[1] + 114 * p[2] + 500) / 1000);
    else
      for (std::size_t k = 0; k < 3; ++k) to[3 * i + k] = p[format == "BGR" ? 2 - k : k];
  }
  return one(std::move(out));
}

}  // namespace

std::vector<OpInfo> image_ops() {
  OpInfo o{.name = "ImageDecoder", .onnx = "ImageDecoder", .since = 20, .lower_class = LowerClass::control};
  o.summary = "an image from the bytes of a BMP or PNM file, [height, width, channels]; on the host";
  o.operands = {{.name = "encoded_stream", .dtypes = set_of(DType::u8)}};
  o.results = {{"image"}};
  o.attrs = {choice_attr("pixel_format", {"RGB", "BGR", "Grayscale"})};
  o.infer = infer_image;
  o.eval = decode;
  o.zero_gradient = true;
  return {o};
}

}  // namespace ag
