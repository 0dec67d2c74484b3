// "Did you mean": the nearest name to one that does not exist.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace ag {

/// Edits (insert, delete, replace a byte, swap two neighbours) from `a` to `b`; no byte is edited twice
/// (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `name`: one that differs only in case, else the first of least distance, which may be
/// at most a third of the name's length (but 2 is always allowed) and at most half of the longer name.
std::optional<std::string> suggest(std::string_view name, std::span<const std::string_view> candidates);
std::optional<std::string> suggest(std::string_view name, std::span<const std::string> candidates);

}  // namespace ag
