// Attributes of a node: named compile-time values.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "ir/array.hpp"
#include "ir/type.hpp"

namespace ag {

/// The data of a constant, with how it was given, so that dumps and JSON stay as short as the source.
struct Literal {
  enum class Form : std::uint8_t {
    dense,   ///< `array` as it is
    splat,   ///< every element the same; `array` holds them all (or is made on demand from `bits`)
    random,  ///< Philox, see ir/random.hpp
    file,    ///< read from `file`, `key`; `array` holds the values
  };
  Form form = Form::dense;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  Array array;                      ///< dense, file
  std::uint64_t bits = 0;           ///< splat: the element
  std::string distribution;         ///< random: "normal" or "uniform"
  double scale = 1;                 ///< random
  std::uint64_t key = 0;            ///< random
  std::string file, file_key;       ///< file
  bool inline_operand = false;      ///< was written as a literal in a node's `in`

  Array materialize() const;        ///< the values
  bool operator==(const Literal&) const;  ///< same values given in the same way
};
using LiteralPtr = std::shared_ptr<const Literal>;
LiteralPtr make_literal(Array array);  ///< splat if all bits agree and there are at least 2 elements, else dense
LiteralPtr make_splat(DType t, std::vector<std::int64_t> shape, double value);

enum class AttrKind : std::uint8_t {
  integer,
  number,
  boolean,
  string,
  ints,
  numbers,
  strings,
  dtype,
  dims,
  literal,
  type
};
/// In the order of AttrKind.
using AttrValue = std::variant<std::int64_t, double, bool, std::string, std::vector<std::int64_t>, std::vector<double>,
                               std::vector<std::string>, DType, Dims, LiteralPtr, Type>;
inline AttrKind kind_of(const AttrValue& v) { return static_cast<AttrKind>(v.index()); }
bool equal(const AttrValue& a, const AttrValue& b);  ///< literals by content, floats by bits
std::size_t hash(const AttrValue& v);

/// A small map, sorted by name.
class Attrs {
 public:
  Attrs() = default;
  Attrs(std::initializer_list<std::pair<std::string, AttrValue>> list) {
    for (auto& [k, v] : list) set(k, v);
  }
  void set(std::string_view name, AttrValue value);
  void erase(std::string_view name);
  const AttrValue* find(std::string_view name) const;
  template <class T>
  const T* get(std::string_view name) const {
    const AttrValue* v = find(name);
    return v ? std::get_if<T>(v) : nullptr;
  }
  template <class T>
  T get_or(std::string_view name, T otherwise) const {
    const T* v = get<T>(name);
    return v ? *v : otherwise;
  }
  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }
  bool empty() const { return list_.empty(); }
  std::size_t size() const { return list_.size(); }

 private:
  std::vector<std::pair<std::string, AttrValue>> list_;
};
bool equal(const Attrs& a, const Attrs& b);
std::size_t hash(const Attrs& a);

}  // namespace ag
