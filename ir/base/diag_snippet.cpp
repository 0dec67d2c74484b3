#include "ir/base/diag_snippet.hpp"

#include <algorithm>
#include <cstring>
#include <map>

#include "ir/base/utf8.hpp"

namespace ag::detail {
namespace {

// Longer lines (minified JSON) are shown as a window of this many bytes around their marks.
constexpr std::size_t long_line = 140, window_margin = 30;
constexpr std::size_t long_span_head = 3, long_span_tail = 2;  // lines shown of a span of many lines
constexpr std::size_t max_diff_lines = 24;

struct Mark {
  std::size_t begin, end;  ///< bytes in the line
  bool primary;
  std::string label;
};

/// A span of several lines, drawn by a bar to the left of the code.
struct Bracket {
  Extent at;
  bool primary;
  std::string label;
  std::size_t bar = 0;   ///< which column of bars
  bool at_indent = false;  ///< begins at the first non-blank of its line: `/` instead of a row of its own
};

void trim_right(std::string& s) {
  while (!s.empty() && s.back() == ' ') s.pop_back();
}

std::size_t indent_of(std::string_view line) { return std::min(line.find_first_not_of(" \t"), line.size()); }

/// The piece of a line that is shown, with `...` where it was cut.
struct Window {
  std::size_t begin, end;
  Shown shown;
  std::string text;
  int shift = 0;

  Window(std::string_view line, std::size_t lo, std::size_t hi) : begin(lo), end(hi) {
    shown = show(line.substr(lo, hi - lo));
    shift = lo > 0 ? 3 : 0;
    text = (lo > 0 ? "..." : "") + shown.text + (hi < line.size() ? "..." : "");
    cut_ = hi < line.size();
  }
  /// Display column of a byte; what lies outside is moved to the `...`.
  std::size_t column(std::size_t byte) const {
    if (byte < begin) return 0;
    if (byte > end) return static_cast<std::size_t>(shift + shown.columns.back() + (cut_ ? 3 : 0));
    return static_cast<std::size_t>(shift + shown.columns[byte - begin]);
  }

 private:
  bool cut_ = false;
};

/// Marks of a long line in groups that fit a window.
std::vector<std::vector<Mark>> clusters(std::vector<Mark> marks, bool is_long) {
  std::stable_sort(marks.begin(), marks.end(), [](const Mark& a, const Mark& b) { return a.begin < b.begin; });
  std::vector<std::vector<Mark>> out;
  std::size_t first = 0;
  for (Mark& m : marks) {
    if (out.empty() || (is_long && m.end - std::min(m.end, first) > long_line - 2 * window_margin)) {
      out.emplace_back();
      first = m.begin;
    }
    out.back().push_back(std::move(m));
  }
  if (out.empty()) out.emplace_back();
  return out;
}

class Drawing {
 public:
  Drawing(const Lines& lines, std::size_t width) : lines_(lines), width_(width) {}

  std::string draw(const std::vector<const Span*>& spans) {
    for (const Span* s : spans) add(*s);
    place_bars();
    fill_single_gaps();
    std::size_t previous = 0;
    for (auto& [line, marks] : marks_) {
      if (previous && line > previous + 1) gap();
      draw_line(line, std::move(marks));
      previous = line;
    }
    return std::move(out_);
  }

 private:
  const Lines& lines_;
  std::size_t width_;
  std::map<std::size_t, std::vector<Mark>> marks_;  // by line; lines without marks are context of brackets
  std::vector<Bracket> brackets_;
  std::string bars_;  // what stands in the columns of bars in the row being drawn
  std::string out_;

  void add(const Span& s) {
    Extent e = extent_of(lines_, s.loc);
    if (e.end_line > e.line && e.end == 0) e.end = lines_.line(--e.end_line).size();  // a line with its end
    std::string label = printable(s.label);
    bool too_long = lines_.line(e.line).size() > long_line || lines_.line(e.end_line).size() > long_line;
    if (e.line == e.end_line || too_long) {
      std::size_t end = e.line == e.end_line ? e.end : std::max(lines_.line(e.line).size(), e.begin + 1);
      marks_[e.line].push_back({e.begin, end, s.primary, std::move(label)});
      return;
    }
    bool at_indent = e.begin <= indent_of(lines_.line(e.line));
    brackets_.push_back({e, s.primary, std::move(label), 0, at_indent});
    bool all = e.end_line - e.line <= long_span_head + long_span_tail;
    for (std::size_t l = e.line; l <= e.end_line; ++l)
      if (all || l < e.line + long_span_head || l + long_span_tail > e.end_line) marks_[l];
  }

  // Outer brackets take the left columns.
  void place_bars() {
    std::stable_sort(brackets_.begin(), brackets_.end(), [](const Bracket& a, const Bracket& b) {
      return a.at.line != b.at.line ? a.at.line < b.at.line : a.at.end_line > b.at.end_line;
    });
    std::vector<std::size_t> busy_until;
    for (Bracket& b : brackets_) {
      auto free = std::find_if(busy_until.begin(), busy_until.end(), [&](std::size_t l) { return l < b.at.line; });
      b.bar = static_cast<std::size_t>(free - busy_until.begin());
      if (free == busy_until.end()) busy_until.emplace_back();
      busy_until[b.bar] = b.at.end_line;
    }
    bars_.assign(busy_until.size(), ' ');
  }

  void fill_single_gaps() {
    std::vector<std::size_t> fill;
    std::size_t previous = 0;
    for (auto& [line, marks] : marks_) {
      if (previous && line == previous + 2) fill.push_back(line - 1);
      previous = line;
    }
    for (std::size_t l : fill) marks_[l];
  }

  std::string bars() const { return bars_.empty() ? "" : bars_ + " "; }

  void row(std::string text) {
    std::string line = gutter(width_, "", "| ") + text;
    trim_right(line);
    out_ += line + "\n";
  }

  void gap() {
    std::string line = "...";
    line.resize(std::max<std::size_t>(width_ + 3, 4), ' ');
    line += bars();
    trim_right(line);
    out_ += line + "\n";
  }

  void draw_line(std::size_t number, std::vector<Mark> marks) {
    std::string_view line = lines_.line(number);
    for (Bracket& b : brackets_)
      if (b.at.line == number && b.at_indent) bars_[b.bar] = '/';
    bool is_long = line.size() > long_line;
    for (auto& group : clusters(std::move(marks), is_long)) {
      std::size_t lo = 0, hi = line.size();
      if (is_long) {
        std::size_t first = group.empty() ? 0 : std::min(group.front().begin, line.size());
        lo = first > 2 * window_margin ? utf8_floor(line, first - window_margin) : 0;
        if (line.size() - lo < long_line) lo = utf8_floor(line, line.size() - long_line);
        hi = utf8_floor(line, std::min(line.size(), lo + long_line));
      }
      Window w(line, lo, hi);
      std::string text = gutter(width_, std::to_string(number), "| ") + bars() + w.text;
      trim_right(text);
      out_ += text + "\n";
      for (Bracket& b : brackets_)
        if (bars_[b.bar] == '/') bars_[b.bar] = '|';
      draw_marks(w, group);
    }
    draw_bracket_ends(number, line);
  }

  void draw_marks(const Window& w, const std::vector<Mark>& marks) {
    if (marks.empty()) return;
    std::string canvas;
    auto from = [&](const Mark& m) { return w.column(m.begin); };
    auto to = [&](const Mark& m) { return std::max(w.column(m.end), from(m) + 1); };
    for (bool primary : {false, true})
      for (const Mark& m : marks)
        if (m.primary == primary) {
          if (canvas.size() < to(m)) canvas.resize(to(m), ' ');
          std::fill(canvas.begin() + static_cast<long>(from(m)), canvas.begin() + static_cast<long>(to(m)),
                    primary ? '^' : '-');
        }
    // The label of the mark that ends last stands beside it; the others hang below, the rightmost first.
    const Mark* last = &marks[0];
    for (const Mark& m : marks)
      if (std::tuple(to(m), from(m), m.primary) >= std::tuple(to(*last), from(*last), last->primary)) last = &m;
    row(bars() + canvas + (last->label.empty() ? "" : " " + last->label));
    std::vector<const Mark*> hanging;
    for (const Mark& m : marks)
      if (&m != last && !m.label.empty()) hanging.push_back(&m);
    auto connectors = [&](std::size_t below) {
      std::string c;
      for (const Mark* m : hanging)
        if (from(*m) < below) {
          c.resize(std::max(c.size(), from(*m) + 1), ' ');
          c[from(*m)] = '|';
        }
      return c;
    };
    if (!hanging.empty()) row(bars() + connectors(SIZE_MAX));
    for (; !hanging.empty(); hanging.pop_back()) {
      std::string c = connectors(from(*hanging.back()));
      c.resize(from(*hanging.back()), ' ');
      row(bars() + c + hanging.back()->label);
    }
  }

  void draw_bracket_ends(std::size_t number, std::string_view line) {
    Window w(line, 0, line.size() > long_line ? 0 : line.size());
    auto leg = [&](const Bracket& b, std::size_t column) {
      std::string r = bars();
      r.resize(std::max(r.size(), bars_.size() + 1 + column), ' ');
      for (std::size_t i = b.bar + 1; i < r.size(); ++i)
        if (r[i] == ' ') r[i] = '_';
      return r + (b.primary ? '^' : '-');
    };
    for (const Bracket& b : brackets_)
      if (b.at.line == number && !b.at_indent) {
        row(leg(b, w.column(b.at.begin)));
        bars_[b.bar] = '|';
      }
    for (auto b = brackets_.rbegin(); b != brackets_.rend(); ++b)
      if (b->at.end_line == number) {
        std::size_t column = w.column(b->at.end);
        row(leg(*b, column ? column - 1 : 0) + (b->label.empty() ? "" : " " + b->label));
        bars_[b->bar] = ' ';
      }
  }
};

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> out;
  for (std::size_t at = 0;;) {
    std::size_t end = text.find('\n', at);
    std::string_view piece = text.substr(at, end == text.npos ? text.npos : end - at);
    if (!piece.empty() && piece.back() == '\r') piece.remove_suffix(1);
    out.emplace_back(piece);
    if (end == text.npos) return out;
    at = end + 1;
  }
}

/// Old and new lines of a replacement, without equal ones at both ends.
struct Change {
  std::size_t first = 0;  ///< line number of the first one
  std::vector<std::string> before, after;
};

Change change_of(const Lines& lines, const Loc& at, std::string_view replacement) {
  Extent e = extent_of(lines, at);
  Change c{e.line, {}, {}};
  for (std::size_t l = e.line; l <= e.end_line; ++l) c.before.emplace_back(lines.line(l));
  c.after = split_lines(std::string(lines.line(e.line).substr(0, std::min(e.begin, lines.line(e.line).size()))) +
                        std::string(replacement) +
                        std::string(lines.line(e.end_line).substr(std::min(e.end, lines.line(e.end_line).size()))));
  while (!c.before.empty() && !c.after.empty() && c.before.back() == c.after.back()) {
    c.before.pop_back();
    c.after.pop_back();
  }
  std::size_t same = 0;
  while (same < c.before.size() && same < c.after.size() && c.before[same] == c.after[same]) ++same;
  c.before.erase(c.before.begin(), c.before.begin() + static_cast<long>(same));
  c.after.erase(c.after.begin(), c.after.begin() + static_cast<long>(same));
  c.first += same;
  return c;
}

}  // namespace

Lines::Lines(std::string_view text) : text_(text), starts_{0} {
  for (std::size_t at = text.find('\n'); at != text.npos; at = text.find('\n', at + 1)) starts_.push_back(at + 1);
}

std::string_view Lines::line(std::size_t line) const {
  std::size_t begin = starts_[line - 1], end = line < count() ? starts_[line] - 1 : text_.size();
  std::string_view s = text_.substr(begin, end - begin);
  if (!s.empty() && s.back() == '\r') s.remove_suffix(1);
  return s;
}

Extent extent_of(const Lines& lines, const Loc& loc) {
  std::string_view first = lines.line(loc.line);
  if (loc.col == 0) return {loc.line, indent_of(first), loc.line, std::max(first.size(), indent_of(first) + 1)};
  Extent e{loc.line, std::min<std::size_t>(loc.col - 1, first.size()), loc.end_line, 0};
  if (e.end_line <= e.line || e.end_line > lines.count()) {
    // An end that lies in a line the file does not have reaches to the end of the last one it has.
    bool beyond = e.end_line > lines.count();
    e.end_line = beyond ? lines.count() : e.line;
    e.end = beyond ? lines.line(e.end_line).size() : loc.end_line < loc.line || loc.end_col == 0 ? 0 : loc.end_col - 1;
  } else {
    e.end = loc.end_col ? loc.end_col - 1 : 0;
  }
  e.end = std::min(e.end, lines.line(e.end_line).size());
  if (e.end_line == e.line) e.end = std::max(e.end, e.begin);
  return e;
}

std::string gutter(std::size_t width, std::string_view number, std::string_view bar) {
  std::string out(width - std::min(width, number.size()), ' ');
  return ((out += number) += ' ') += bar;
}

std::string snippet(const Lines& lines, const std::vector<const Span*>& spans, std::size_t width) {
  return Drawing(lines, width).draw(spans);
}

std::size_t diff_last_line(const Lines& lines, const Loc& at, std::string_view replacement) {
  Change c = change_of(lines, at, replacement);
  return c.first + std::min(max_diff_lines, std::max(c.before.size(), c.after.size()));
}

std::string diff(const Lines& lines, const Loc& at, std::string_view replacement, std::size_t width) {
  Change c = change_of(lines, at, replacement);
  // Long lines: both sides from shortly before the first byte that differs.
  std::size_t same = 0;
  if (!c.before.empty() && !c.after.empty()) {
    const std::string &a = c.before[0], &b = c.after[0];
    while (same < a.size() && same < b.size() && a[same] == b[same]) ++same;
  }
  std::string out;
  auto side = [&](const std::vector<std::string>& side_lines, std::string_view sign) {
    for (std::size_t i = 0; i < side_lines.size(); ++i) {
      if (i == max_diff_lines) {
        out += "...\n";
        return;
      }
      const std::string& line = side_lines[i];
      std::size_t lo = 0, hi = line.size();
      if (hi > long_line) {
        lo = same > 2 * window_margin ? utf8_floor(line, same - window_margin) : 0;
        hi = utf8_floor(line, std::min(hi, lo + long_line));
      }
      std::string row = gutter(width, std::to_string(c.first + i), sign) + Window(line, lo, hi).text;
      trim_right(row);
      out += row + "\n";
    }
  };
  side(c.before, "- ");
  side(c.after, "+ ");
  return out;
}

}  // namespace ag::detail
