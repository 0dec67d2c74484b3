#include "ir/base/suggest.hpp"

#include <algorithm>
#include <vector>

namespace ag {
namespace {

constexpr std::size_t longest_name = 200;  // nobody mistypes a longer one by hand

bool same_but_case(std::string_view a, std::string_view b) {
  auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == lower(y); });
}

template <class Name>
std::optional<std::string> nearest(std::string_view name, std::span<const Name> candidates) {
  if (name.empty() || name.size() > longest_name) return std::nullopt;
  for (std::string_view c : candidates)
    if (same_but_case(name, c)) return std::string(c);
  std::size_t limit = std::max<std::size_t>(2, name.size() / 3);
  std::optional<std::string> best;
  for (std::string_view c : candidates) {
    std::size_t longer = std::max(name.size(), c.size()), shorter = std::min(name.size(), c.size());
    if (longer - shorter > limit) continue;
    std::size_t d = edit_distance(name, c);
    if (d > limit || 2 * d > longer) continue;
    best = std::string(c);
    if (d == 0) break;
    limit = d - 1;
  }
  return best;
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the table: before[j], above[j] and row[j] are the distances for i-2, i-1 and i bytes of `a`.
  std::vector<std::size_t> before, above(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before = above;
    std::swap(above, row);
  }
  return above[b.size()];
}

std::optional<std::string> suggest(std::string_view name, std::span<const std::string_view> candidates) {
  return nearest(name, candidates);
}
std::optional<std::string> suggest(std::string_view name, std::span<const std::string> candidates) {
  return nearest(name, candidates);
}

}  // namespace ag
