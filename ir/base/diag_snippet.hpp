// Source lines with marks under them: the part of a diagnostic's text between `-->` and the notes.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "ir/base/diag.hpp"

namespace ag::detail {

/// A file's text by lines.
class Lines {
 public:
  explicit Lines(std::string_view text);
  std::size_t count() const { return starts_.size(); }
  std::size_t start(std::size_t line) const { return starts_[line - 1]; }  ///< byte offset; lines count from 1
  std::string_view line(std::size_t line) const;                           ///< without its end
  bool has(const Loc& loc) const { return loc.line >= 1 && loc.line <= count(); }

 private:
  std::string_view text_;
  std::vector<std::size_t> starts_;
};

/// A span within a file's lines: byte offsets in the first and the last line, the end exclusive. Columns beyond a
/// line's end are moved to it, an end before the beginning counts as one byte, column 0 as the whole line.
struct Extent {
  std::size_t line, begin, end_line, end;
};
Extent extent_of(const Lines& lines, const Loc& loc);

/// The digits' width of the gutter: ` 8 | `.
std::string gutter(std::size_t width, std::string_view number, std::string_view bar);

/// The marked lines, each row ending in a newline. All spans are in this file and `lines.has` them.
std::string snippet(const Lines& lines, const std::vector<const Span*>& spans, std::size_t width);

/// A replacement as a diff of whole lines.
std::string diff(const Lines& lines, const Loc& at, std::string_view replacement, std::size_t width);
/// The largest line number that `diff` shows.
std::size_t diff_last_line(const Lines& lines, const Loc& at, std::string_view replacement);

}  // namespace ag::detail
