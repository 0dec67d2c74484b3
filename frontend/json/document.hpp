// JSON text as a tree whose every token knows its exact place. Numbers keep their spelling, objects their order.
#pragma once
#include <cstdint>
#include <deque>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ir/base/diag.hpp"

namespace ag::json {

/// What a text may cost before it is refused.
struct Limits {
  std::size_t max_bytes = std::size_t{64} << 20;
  int max_depth = 64;  ///< nested arrays and objects
};

enum class Kind : std::uint8_t { null, boolean, integer, number, string, array, object };
std::string_view kind_name(Kind k);  ///< "an array": for messages

class Document;

/// One value of a document: a handle of two words, valid as long as the document lives.
class View {
 public:
  View() = default;
  explicit operator bool() const { return doc_ != nullptr; }
  Kind kind() const;
  bool is(Kind k) const { return doc_ && kind() == k; }
  bool is_numeric() const { return is(Kind::integer) || is(Kind::number); }

  bool as_bool() const;                    ///< of a boolean
  std::string_view str() const;            ///< of a string, unescaped; of an object's key likewise
  std::string_view spelling() const;       ///< the token's bytes in the text
  /// Exact value of a number spelled without fraction or exponent; nullopt outside the type's range.
  std::optional<std::int64_t> as_int() const;
  std::optional<std::uint64_t> as_uint() const;
  double as_double() const;                ///< of an integer or number, rounded once

  std::size_t size() const;                ///< elements of an array, members of an object
  Loc loc() const;                         ///< range of the token or of the whole container, and its JSON pointer
  Loc key_loc() const;                     ///< of a member's value: the place of its key
  std::string pointer() const;             ///< "/nodes/0/in"
  View parent() const;                     ///< the container; of the root: the root
  std::uint32_t id() const { return id_; }

  /// Elements of an array, or the values of an object's members.
  class Iterator;
  Iterator begin() const;
  Iterator end() const;
  View operator[](std::size_t i) const;    ///< linear in i; empty if there is none
  View find(std::string_view key) const;   ///< linear; empty if there is none
  std::string_view key() const;            ///< of a member's value

 private:
  friend class Document;
  View(const Document* doc, std::uint32_t id) : doc_(doc), id_(id) {}
  const Document* doc_ = nullptr;
  std::uint32_t id_ = 0;
};

/// A parsed text. The tree is one array in document order (a container's first child is the next item, `next` the
/// item after all its descendants), so nothing that walks, copies or destroys it recurses.
class Document {
 public:
  /// AG0002..AG0008, with place. `file` is the name that places show.
  static Result<std::shared_ptr<const Document>> parse(std::string text, std::shared_ptr<const std::string> file,
                                                       const Limits& limits = {});
  View root() const { return View(this, 0); }
  const std::string& text() const { return text_; }
  Loc loc(std::size_t begin, std::size_t end) const;  ///< of a byte range

 private:
  friend class View;
  friend class Builder;
  struct Item {
    Kind kind;
    bool is_key = false;
    std::uint32_t begin = 0, end = 0;  ///< bytes of the text
    std::uint32_t next = 0;            ///< the item after this subtree
    std::uint32_t parent = 0;
    std::uint32_t ordinal = 0;         ///< in the parent
    std::uint32_t count = 0;           ///< children; of a string with escapes: 1 + its index in unescaped_
  };
  std::string_view string_of(const Item& item) const;

  std::string text_;
  std::shared_ptr<const std::string> file_;
  std::vector<std::uint32_t> lines_;    ///< offset of each line's first byte
  std::vector<Item> items_;             ///< an object's children alternate: key, value, key, value
  std::deque<std::string> unescaped_;   ///< strings that contained escapes
};

class View::Iterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = View;
  using difference_type = std::ptrdiff_t;
  using pointer = void;
  using reference = View;
  View operator*() const { return View(doc_, id_ + (object_ ? 1 : 0)); }
  Iterator& operator++();
  Iterator operator++(int) {
    Iterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const Iterator& o) const { return id_ == o.id_; }

 private:
  friend class View;
  Iterator(const Document* doc, std::uint32_t id, bool object) : doc_(doc), id_(id), object_(object) {}
  const Document* doc_;
  std::uint32_t id_;
  bool object_;
};

/// Text of a string as a JSON token, control characters escaped.
std::string quote(std::string_view s);
/// A value as canonical one-line JSON: `{ "a": [1, 2] }`, numbers as spelled.
std::string compact(View v);

}  // namespace ag::json
