// Line differences of two texts, for --print-ir-change=diff.
#pragma once
#include <string>
#include <string_view>

namespace ag::passes {

/// Unchanged lines with two spaces (only `context` around changes; a gap is "..."), removed ones with "- ", added ones
/// with "+ ". Empty if the texts are equal. Myers' O(ND) algorithm; very different texts are shown whole.
std::string line_diff(std::string_view before, std::string_view after, int context = 2);

}  // namespace ag::passes
