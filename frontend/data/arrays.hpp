// Arrays in files: .npy, .npz and .safetensors. Every size is checked before anything is allocated for it.
//
// Formats: numpy.lib.format versions 1.0 to 3.0; zip archives of them; safetensors 0.x. A two-byte void element
// (`V2`), which is how numpy stores bfloat16, is read as bf16 and bf16 is written so. Little and big endian and both
// orders are read; little endian and row-major is written.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontend/data/file.hpp"
#include "ir/array.hpp"

namespace ag::data {

using NamedArrays = std::vector<std::pair<std::string, Array>>;

/// `name` stands in messages, `loc` is the place that names the file. AG0016.
Result<Array> parse_npy(std::string_view bytes, std::string_view name, const Limits& limits, const Loc& loc = {});
/// The arrays of an archive, in its order; with `key` only that one (AG0017 with a suggestion if there is none).
Result<NamedArrays> parse_npz(std::string_view bytes, std::string_view name, const std::string* key,
                              const Limits& limits, const Loc& loc = {});
Result<NamedArrays> parse_safetensors(std::string_view bytes, std::string_view name, const std::string* key,
                                      const Limits& limits, const Loc& loc = {});
/// Any of the three, told apart by content. Without `key` an archive must hold exactly one array.
Result<Array> parse_array(std::string_view bytes, std::string_view name, const std::string* key, const Limits& limits,
                          const Loc& loc = {});

std::string format_npy(const Array& array);
/// A stored (uncompressed) archive; the same arrays give the same bytes.
Result<std::string> format_npz(const NamedArrays& arrays);

}  // namespace ag::data
