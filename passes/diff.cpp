#include "passes/diff.hpp"

#include <algorithm>
#include <vector>

namespace ag::passes {
namespace {

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

struct Edit {
  char kind;  // ' ', '-', '+'
  std::string_view line;
};

/// E. Myers, "An O(ND) difference algorithm and its variations" (1986), forward form with a stored trace.
std::vector<Edit> myers(const std::vector<std::string_view>& a, const std::vector<std::string_view>& b) {
  int n = static_cast<int>(a.size()), m = static_cast<int>(b.size()), max = std::min(n + m, 4000);
  std::vector<std::vector<int>> trace;
  std::vector<int> v(2 * max + 2, 0);
  int found = -1;
  for (int d = 0; d <= max && found < 0; ++d) {
    trace.push_back(v);
    for (int k = -d; k <= d; k += 2) {
      int x = k == -d || (k != d && v[max + k - 1] < v[max + k + 1]) ? v[max + k + 1] : v[max + k - 1] + 1;
      int y = x - k;
      while (x < n && y < m && a[x] == b[y]) ++x, ++y;
      v[max + k] = x;
      if (x >= n && y >= m) {
        found = d;
        break;
      }
    }
  }
  std::vector<Edit> edits;
  if (found < 0) {
    for (auto l : a) edits.push_back({'-', l});
    for (auto l : b) edits.push_back({'+', l});
    return edits;
  }
  int x = n, y = m;
  for (int d = found; d > 0; --d) {
    const std::vector<int>& w = trace[d];
    int k = x - y;
    int prev = k == -d || (k != d && w[max + k - 1] < w[max + k + 1]) ? k + 1 : k - 1;
    int px = w[max + prev], py = px - prev;
    while (x > px && y > py) edits.push_back({' ', a[--x]}), --y;
    if (x == px)
      edits.push_back({'+', b[--y]});
    else
      edits.push_back({'-', a[--x]});
  }
  while (x > 0 && y > 0) edits.push_back({' ', a[--x]}), --y;
  std::reverse(edits.begin(), edits.end());
  return edits;
}

}  // namespace

std::string line_diff(std::string_view before, std::string_view after, int context) {
  if (before == after) return {};
  std::vector<Edit> edits = myers(split(before), split(after));
  std::vector<bool> shown(edits.size());
  for (int i = 0; i < static_cast<int>(edits.size()); ++i)
    if (edits[i].kind != ' ')
      for (int j = std::max(0, i - context); j <= std::min<int>(i + context, static_cast<int>(edits.size()) - 1); ++j)
        shown[j] = true;
  std::string out;
  bool gap = false;
  for (std::size_t i = 0; i < edits.size(); ++i) {
    if (!shown[i]) {
      gap = true;
      continue;
    }
    if (gap) out += "...\n";
    gap = false;
    out += edits[i].kind;
    out += ' ';
    out += edits[i].line;
    out += '\n';
  }
  return out;
}

}  // namespace ag::passes
