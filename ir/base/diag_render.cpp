// Diagnostics as text (rustc's layout), one line each, and JSON lines (rustc's field names).
#include <fmt/format.h>

#include <algorithm>

#include "ir/base/diag.hpp"
#include "ir/base/diag_snippet.hpp"
#include "ir/base/utf8.hpp"

namespace ag {
namespace {

using detail::Lines;

std::string_view level_name(Level level) {
  switch (level) {
    case Level::error: return "error";
    case Level::warning: return "warning";
    case Level::note: return "note";
    case Level::help: return "help";
  }
  return "error";
}

std::string title(const Diag& d) {
  std::string code = d.code == Code{} ? "" : "[" + code_name(d.code) + "]";
  return fmt::format("{}{}: {}", level_name(d.level), code, printable(d.message));
}

const Span* primary_span(const std::vector<Span>& spans) {
  for (const Span& s : spans)
    if (s.primary && s.loc.known()) return &s;
  for (const Span& s : spans)
    if (s.loc.known()) return &s;
  return nullptr;
}

/// `file:8:29   at /nodes/0/in`, or `file: graph "main", node 17` where there are no lines.
std::string place(const Loc& loc) {
  if (loc.line == 0 && !loc.pointer.empty() && loc.pointer[0] != '/') return printable(loc.str());
  Loc bare = loc;
  bare.pointer.clear();
  std::string out = printable(bare.str());
  return loc.pointer.empty() ? out : out + "   at " + printable(loc.pointer);
}

/// The files' lines, found once.
class LineCache {
 public:
  explicit LineCache(const Sources& sources) : sources_(sources) {}

  /// The lines of a place's file if the place can be shown.
  const Lines* showable(const Loc& loc) {
    if (!loc.known() || loc.line == 0) return nullptr;
    auto it = lines_.find(*loc.file);
    if (it == lines_.end()) {
      const std::string* text = sources_.text(*loc.file);
      if (!text) return nullptr;
      it = lines_.emplace(*loc.file, Lines(*text)).first;
    }
    return it->second.has(loc) ? &it->second : nullptr;
  }

 private:
  const Sources& sources_;
  std::map<std::string, Lines> lines_;
};

class TextRenderer {
 public:
  explicit TextRenderer(LineCache& cache) : cache_(cache) {}

  std::string render(const Diag& d) {
    width_ = gutter_width(d);
    out_ = title(d) + "\n";
    block(d.spans);
    for (const SubDiag& c : d.children) child(c);
    if (d.code != Code{}) footnote("see", "ag-compile explain " + code_name(d.code));
    return std::move(out_);
  }

 private:
  LineCache& cache_;
  std::size_t width_ = 2;
  bool in_footnotes_ = false;
  std::string out_;

  const Lines* showable(const Loc& loc) { return cache_.showable(loc); }

  std::size_t gutter_width(const Diag& d) {
    std::size_t last = 10;  // two digits at least
    auto widen = [&](const std::vector<Span>& spans) {
      for (const Span& s : spans)
        if (const Lines* lines = showable(s.loc)) last = std::max(last, detail::extent_of(*lines, s.loc).end_line);
    };
    widen(d.spans);
    for (const SubDiag& c : d.children) {
      widen(c.spans);
      if (is_fix(c))
        last = std::max(last, detail::diff_last_line(*showable(c.spans[0].loc), c.spans[0].loc, c.replacement));
    }
    return std::to_string(last).size();
  }

  /// A replacement is shown as one if its place can be; an empty one (a removal) needs a place of some extent.
  bool is_fix(const SubDiag& c) {
    if (c.level != Level::help || c.spans.empty() || !showable(c.spans[0].loc)) return false;
    return !c.replacement.empty() || c.removal;
  }

  void bar() { out_ += std::string(width_ + 1, ' ') + "|\n"; }

  void footnote(std::string_view kind, std::string_view text) {
    if (!in_footnotes_) bar();
    in_footnotes_ = true;
    out_ += fmt::format("{}= {}: {}\n", std::string(width_ + 1, ' '), kind, text);
  }

  /// Places and source lines of spans, file by file, the primary one's first. What cannot be shown becomes notes.
  void block(const std::vector<Span>& spans) {
    const Span* first = primary_span(spans);
    std::vector<std::string> files;
    if (first) files.push_back(*first->loc.file);
    for (const Span& s : spans)
      if (showable(s.loc) && std::find(files.begin(), files.end(), *s.loc.file) == files.end())
        files.push_back(*s.loc.file);
    for (std::size_t i = 0; i < files.size(); ++i) {
      std::vector<const Span*> here;
      for (const Span& s : spans)
        if (showable(s.loc) && *s.loc.file == files[i]) here.push_back(&s);
      if (i > 0) bar();
      out_ += fmt::format("{}{} {}\n", std::string(width_, ' '),
                          i == 0 ? "-->" : ":::", place(i == 0 ? first->loc : here[0]->loc));
      if (here.empty()) continue;
      bar();
      out_ += detail::snippet(*showable(here[0]->loc), here, width_);
    }
    in_footnotes_ = false;
    for (const Span& s : spans) {
      if (showable(s.loc) || (s.label.empty() && &s == first)) continue;
      std::string where = &s == first || !s.loc.known() ? "" : place(s.loc);
      footnote("note", where.empty()     ? printable(s.label)
                       : s.label.empty() ? where
                                         : where + ": " + printable(s.label));
    }
  }

  void child(const SubDiag& c) {
    if (c.spans.empty()) {
      std::string fix = c.replacement.empty() ? "" : ": `" + printable(c.replacement) + "`";
      footnote(level_name(c.level), printable(c.message) + fix);
      return;
    }
    out_ += fmt::format("{}: {}\n", level_name(c.level), printable(c.message));
    in_footnotes_ = false;
    if (!is_fix(c)) return block(c.spans);
    bar();
    out_ += detail::diff(*showable(c.spans[0].loc), c.spans[0].loc, c.replacement, width_);
  }
};

std::string json_span(const Span& s, LineCache& cache) {
  const Loc& l = s.loc;
  std::string out = fmt::format("{{\"file_name\":{}", json_quote(*l.file));
  if (const Lines* lines = cache.showable(l)) {
    detail::Extent e = detail::extent_of(*lines, l);
    out += fmt::format(",\"byte_start\":{},\"byte_end\":{}", lines->start(e.line) + e.begin,
                       lines->start(e.end_line) + e.end);
  }
  out += fmt::format(",\"line_start\":{},\"line_end\":{},\"column_start\":{},\"column_end\":{},\"is_primary\":{}",
                     l.line, std::max(l.line, l.end_line), l.col,
                     l.end_line > l.line ? l.end_col : std::max(l.col, l.end_col), s.primary);
  out += ",\"label\":" + (s.label.empty() ? "null" : json_quote(s.label));
  if (!l.pointer.empty()) out += ",\"pointer\":" + json_quote(l.pointer);
  return out + "}";
}

std::string json_spans(const std::vector<Span>& spans, LineCache& cache) {
  std::string out;
  for (const Span& s : spans)
    if (s.loc.known()) out += (out.empty() ? "" : ",") + json_span(s, cache);
  return "[" + out + "]";
}

std::string render_json(const Diag& d, LineCache& cache) {
  const Span* first = primary_span(d.spans);
  std::string children;
  for (const SubDiag& c : d.children) {
    children += fmt::format("{}{{\"level\":\"{}\",\"message\":{},\"spans\":{}", children.empty() ? "" : ",",
                            level_name(c.level), json_quote(c.message), json_spans(c.spans, cache));
    if (!c.replacement.empty() || c.removal)
      children += ",\"suggested_replacement\":" + json_quote(c.replacement) + ",\"applicability\":\"MaybeIncorrect\"";
    children += "}";
  }
  return fmt::format("{{\"level\":\"{}\",\"code\":{},\"message\":{},\"pointer\":{},\"spans\":{},\"children\":[{}]}}\n",
                     level_name(d.level), d.code == Code{} ? "null" : json_quote(code_name(d.code)),
                     json_quote(d.message), json_quote(first ? first->loc.pointer : ""), json_spans(d.spans, cache),
                     children);
}

std::string render_short(const Diag& d) {
  const Span* first = primary_span(d.spans);
  std::string where = first ? printable(first->loc.str()) : "";
  return (where.empty() ? "" : where + ": ") + title(d) + "\n";
}

std::string render_one(const Diag& diag, LineCache& cache, DiagFormat format) {
  switch (format) {
    case DiagFormat::text: break;
    case DiagFormat::short_: return render_short(diag);
    case DiagFormat::json: return render_json(diag, cache);
  }
  return TextRenderer(cache).render(diag);
}

}  // namespace

std::string render(const Diag& diag, const Sources& sources, DiagFormat format) {
  LineCache cache(sources);
  return render_one(diag, cache, format);
}

std::string render(const Diags& diags, const Sources& sources, DiagFormat format) {
  LineCache cache(sources);
  std::string out;
  for (const Diag& d : diags) {
    if (format == DiagFormat::text && !out.empty()) out += "\n";
    out += render_one(d, cache, format);
  }
  return out;
}

}  // namespace ag
