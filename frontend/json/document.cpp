#include "frontend/json/document.hpp"

#include <algorithm>
#include <charconv>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "frontend/json/syntax.hpp"

namespace ag::json {

std::string_view kind_name(Kind k) {
  constexpr std::string_view names[] = {"null",     "a boolean", "an integer", "a number",
                                        "a string", "an array",  "an object"};
  return names[static_cast<int>(k)];
}

namespace {

/// Feeds nlohmann's lexer and counts what it has taken, which is where the current token ends.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  const char* p = nullptr;
  const char** furthest = nullptr;
  reference operator*() const { return *p; }
  CountingIterator& operator++() {
    *furthest = ++p;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& o) const { return p == o.p; }
  bool operator!=(const CountingIterator& o) const { return p != o.p; }
};

}  // namespace

/// Builds the item array from SAX events. Every callback knows where its token ends (what the lexer has taken) and
/// where it starts (after blanks and separators that follow the previous token).
class Builder {
 public:
  Builder(Document& doc, const Limits& limits) : doc_(doc), limits_(limits), text_(doc.text_) {
    furthest_ = text_.data();
  }

  Status run() {
    const char* begin = text_.data();
    const char* end = begin + text_.size();
    bool ok = nlohmann::json::sax_parse(CountingIterator{begin, &furthest_}, CountingIterator{end, &furthest_}, this);
    if (failed_) return fail(std::move(errors_));
    if (!ok) return fail(explain());
    return {};
  }

  bool null() { return leaf(Kind::null); }
  bool boolean(bool) { return leaf(Kind::boolean); }
  bool number_integer(std::int64_t) { return number(); }
  bool number_unsigned(std::uint64_t) { return number(); }
  bool number_float(double, const std::string&) { return number(); }
  bool string(std::string& s) { return text_token(s, false); }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open(Kind::object); }
  bool start_array(std::size_t) { return open(Kind::array); }
  bool key(std::string& s) { return text_token(s, true); }
  bool end_array() { return close(); }
  bool end_object() { return check_duplicates() && close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) { return false; }

 private:
  std::size_t taken() const { return static_cast<std::size_t>(furthest_ - text_.data()); }

  /// The first byte of the token after `last_`: blanks and the separators that the grammar wants lie between.
  std::size_t token_start() const {
    std::size_t p = last_;
    while (p < text_.size() && (text_[p] == ' ' || text_[p] == '\t' || text_[p] == '\n' || text_[p] == '\r' ||
                                text_[p] == ',' || text_[p] == ':'))
      ++p;
    return p;
  }

  std::uint32_t push(Kind kind, std::size_t begin, std::size_t end) {
    Document::Item item{.kind = kind};
    item.begin = static_cast<std::uint32_t>(begin);
    item.end = static_cast<std::uint32_t>(end);
    item.next = static_cast<std::uint32_t>(doc_.items_.size() + 1);
    if (!stack_.empty()) {
      item.parent = stack_.back();
      item.ordinal = doc_.items_[item.parent].count++;
    }
    doc_.items_.push_back(item);
    last_ = end;
    return item.next - 1;
  }

  bool leaf(Kind kind) {
    push(kind, token_start(), taken());
    return true;
  }

  /// The lexer reads one byte beyond a number, so the end is found in the text.
  bool number() {
    std::size_t begin = token_start(), end = begin;
    auto at = [&] { return end < text_.size() ? text_[end] : '\0'; };
    auto digits = [&] {
      while (at() >= '0' && at() <= '9') ++end;
    };
    if (at() == '-') ++end;
    if (at() == '0')
      ++end;  // a leading zero stands alone: in 01 the 1 is the next token
    else
      digits();
    bool integer = true;
    if (at() == '.') {
      integer = false;
      ++end;
      digits();
    }
    if (at() == 'e' || at() == 'E') {
      integer = false;
      ++end;
      if (at() == '+' || at() == '-') ++end;
      digits();
    }
    push(integer ? Kind::integer : Kind::number, begin, end);
    return true;
  }

  bool text_token(std::string& s, bool is_key) {
    std::size_t begin = token_start(), end = taken();
    std::uint32_t id = push(Kind::string, begin, end);
    Document::Item& item = doc_.items_[id];
    item.is_key = is_key;
    if (s.size() + 2 != end - begin) {
      doc_.unescaped_.push_back(std::move(s));
      item.count = static_cast<std::uint32_t>(doc_.unescaped_.size());
    }
    return true;
  }

  bool open(Kind kind) {
    std::uint32_t id = push(kind, token_start(), taken());
    if (static_cast<int>(stack_.size()) >= limits_.max_depth) {
      return refuse(error(Code::AG0005, doc_.loc(doc_.items_[id].begin, doc_.items_[id].end),
                          fmt::format("arrays and objects are nested more than {} deep", limits_.max_depth),
                          "one level too many"));
    }
    stack_.push_back(id);
    return true;
  }

  bool close() {
    Document::Item& item = doc_.items_[stack_.back()];
    last_ = taken();
    item.end = static_cast<std::uint32_t>(last_);
    item.next = static_cast<std::uint32_t>(doc_.items_.size());
    stack_.pop_back();
    return true;
  }

  /// Duplicate keys of the object that ends now; nlohmann would keep the last one and say nothing.
  bool check_duplicates() {
    std::unordered_map<std::string_view, std::uint32_t> seen;
    const auto& items = doc_.items_;
    for (std::uint32_t i = stack_.back() + 1; i < items.size(); i = items[i + 1].next) {
      auto [it, fresh] = seen.emplace(doc_.string_of(items[i]), i);
      if (fresh) continue;
      const Document::Item &first = items[it->second], &again = items[i];
      return refuse(error(Code::AG0007, doc_.loc(again.begin, again.end),
                          fmt::format("key {} is given twice", quote(it->first)), "given again here")
                        .at(doc_.loc(first.begin, first.end), "first given here"));
    }
    return true;
  }

  bool refuse(Diag d) {
    failed_ = true;
    errors_.push_back(std::move(d));
    return false;
  }

  Diag explain() {
    SyntaxState state{.last = last_, .taken = taken()};
    if (!stack_.empty()) {
      const Document::Item& container = doc_.items_[stack_.back()];
      bool object = container.kind == Kind::object;
      state.container = object ? SyntaxState::Container::object : SyntaxState::Container::array;
      state.container_begin = container.begin;
      state.after = doc_.items_.back().is_key ? SyntaxState::After::key
                    : container.count == 0    ? SyntaxState::After::open
                                              : SyntaxState::After::value;
    } else {
      state.after = doc_.items_.empty() ? SyntaxState::After::nothing : SyntaxState::After::value;
    }
    return explain_syntax(doc_, state);
  }

  Document& doc_;
  const Limits& limits_;
  const std::string& text_;
  const char* furthest_;
  std::size_t last_ = 0;              ///< where the previous token ended
  std::vector<std::uint32_t> stack_;  ///< open containers
  bool failed_ = false;
  Diags errors_;
};

Result<std::shared_ptr<const Document>> Document::parse(std::string text, std::shared_ptr<const std::string> file,
                                                        const Limits& limits) {
  auto doc = std::make_shared<Document>();
  doc->text_ = std::move(text);
  doc->file_ = std::move(file);
  std::size_t cap = std::min(limits.max_bytes, std::size_t{0xffffffff});
  if (doc->text_.size() > cap) {
    return fail(Code::AG0006, doc->loc(0, 0),
                fmt::format("the text has {} bytes; the limit is {}", doc->text_.size(), cap));
  }
  doc->lines_.push_back(0);
  for (std::size_t i = 0; i < doc->text_.size(); ++i)
    if (doc->text_[i] == '\n') doc->lines_.push_back(static_cast<std::uint32_t>(i + 1));
  AG_TRY_(check_bytes(*doc));
  AG_TRY_(Builder(*doc, limits).run());
  return doc;
}

Loc Document::loc(std::size_t begin, std::size_t end) const {
  auto place = [&](std::size_t offset) {
    auto line = std::upper_bound(lines_.begin(), lines_.end(), static_cast<std::uint32_t>(offset)) - 1;
    return std::pair(static_cast<std::uint32_t>(line - lines_.begin() + 1),
                     static_cast<std::uint32_t>(offset - *line + 1));
  };
  Loc loc;
  loc.file = file_;
  if (lines_.empty()) return loc;
  std::tie(loc.line, loc.col) = place(begin);
  std::tie(loc.end_line, loc.end_col) = place(end);
  return loc;
}

std::string_view Document::string_of(const Item& item) const {
  if (item.count > 0) return unescaped_[item.count - 1];
  return std::string_view(text_).substr(item.begin + 1, item.end - item.begin - 2);
}

// ---- View ----------------------------------------------------------------------------------------------------

Kind View::kind() const { return doc_->items_[id_].kind; }
bool View::as_bool() const { return spelling() == "true"; }
std::string_view View::str() const { return doc_->string_of(doc_->items_[id_]); }

std::string_view View::spelling() const {
  const auto& item = doc_->items_[id_];
  return std::string_view(doc_->text_).substr(item.begin, item.end - item.begin);
}

namespace {
template <class T>
std::optional<T> whole(std::string_view s) {
  if (s == "-0") return T{0};
  T value{};
  auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), value);
  if (ec != std::errc() || end != s.data() + s.size()) return std::nullopt;
  return value;
}
}  // namespace

std::optional<std::int64_t> View::as_int() const { return whole<std::int64_t>(spelling()); }
std::optional<std::uint64_t> View::as_uint() const { return whole<std::uint64_t>(spelling()); }

double View::as_double() const {
  std::string_view s = spelling();
  double value = 0;
  auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), value);
  // Overflow was refused while parsing, so a number out of range is one that rounds to zero.
  if (ec == std::errc::result_out_of_range) return s.starts_with('-') ? -0.0 : 0.0;
  return value;
}

std::size_t View::size() const {
  const auto& item = doc_->items_[id_];
  return item.kind == Kind::object ? item.count / 2 : item.count;
}

Loc View::loc() const {
  if (!doc_) return {};
  const auto& item = doc_->items_[id_];
  Loc loc = doc_->loc(item.begin, item.end);
  loc.pointer = pointer();
  return loc;
}

std::string_view View::key() const { return doc_->string_of(doc_->items_[id_ - 1]); }

Loc View::key_loc() const {
  const auto& item = doc_->items_[id_ - 1];
  Loc loc = doc_->loc(item.begin, item.end);
  loc.pointer = pointer();
  return loc;
}

std::string View::pointer() const {
  std::vector<std::string> parts;
  for (std::uint32_t i = id_; i != 0; i = doc_->items_[i].parent) {
    const auto& item = doc_->items_[i];
    if (doc_->items_[item.parent].kind == Kind::array) {
      parts.push_back(std::to_string(item.ordinal));
      continue;
    }
    std::string part;
    for (char c : doc_->string_of(doc_->items_[item.is_key ? i : i - 1])) {
      if (c == '~')
        part += "~0";
      else if (c == '/')
        part += "~1";
      else
        part += c;
    }
    parts.push_back(std::move(part));
  }
  std::string out;
  for (auto it = parts.rbegin(); it != parts.rend(); ++it) out += "/" + *it;
  return out;
}

View View::parent() const { return View(doc_, doc_->items_[id_].parent); }

View::Iterator& View::Iterator::operator++() {
  id_ = doc_->items_[object_ ? id_ + 1 : id_].next;
  return *this;
}

View::Iterator View::begin() const {
  if (!doc_ || (kind() != Kind::array && kind() != Kind::object)) return end();
  return Iterator(doc_, id_ + 1, kind() == Kind::object);
}

View::Iterator View::end() const { return Iterator(doc_, doc_ ? doc_->items_[id_].next : 0, false); }

View View::operator[](std::size_t i) const {
  for (View v : *this)
    if (i-- == 0) return v;
  return {};
}

View View::find(std::string_view key) const {
  if (!is(Kind::object)) return {};
  for (View v : *this)
    if (v.key() == key) return v;
  return {};
}

// ---- Text ----------------------------------------------------------------------------------------------------

std::string quote(std::string_view s) {
  std::string out = "\"";
  for (unsigned char c : s) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\t': out += "\\t"; break;
      case '\r': out += "\\r"; break;
      default:
        if (c < 0x20 || c == 0x7f)
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        else
          out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

std::string compact(View root) {
  // A frame is a container that is being printed; its children are visited in order, without recursion.
  struct Frame {
    View view;
    View::Iterator next;
    bool first;
  };
  std::string out;
  std::vector<Frame> stack;
  auto emit = [&](View v) {
    switch (v.kind()) {
      case Kind::string: out += quote(v.str()); break;
      case Kind::array:
      case Kind::object:
        if (v.size() == 0)
          out += v.is(Kind::array) ? "[]" : "{}";
        else {
          out += v.is(Kind::array) ? "[" : "{ ";
          stack.push_back({v, v.begin(), true});
        }
        break;
      default: out += v.spelling();
    }
  };
  emit(root);
  while (!stack.empty()) {
    Frame& f = stack.back();
    if (f.next == f.view.end()) {
      out += f.view.is(Kind::array) ? "]" : " }";
      stack.pop_back();
      continue;
    }
    View child = *f.next;
    if (!f.first) out += ", ";
    f.first = false;
    ++f.next;
    if (f.view.is(Kind::object)) out += quote(child.key()) + ": ";
    emit(child);
  }
  return out;
}

}  // namespace ag::json
