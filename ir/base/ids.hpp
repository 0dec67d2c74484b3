// Dense, typed indices. Program data refers to other program data by id, never by pointer, so that
// graphs can be copied, printed and compared without fix-ups.
#pragma once
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace ag {

/// An index into one particular table; `Tag` keeps ids of different tables from mixing.
template <class Tag>
struct Id {
  static constexpr std::uint32_t none_index = std::numeric_limits<std::uint32_t>::max();
  std::uint32_t index = none_index;

  constexpr Id() = default;
  constexpr explicit Id(std::size_t i) : index(static_cast<std::uint32_t>(i)) {}
  constexpr bool valid() const { return index != none_index; }
  constexpr explicit operator bool() const { return valid(); }
  constexpr auto operator<=>(const Id&) const = default;
};

/// A vector that is indexed by an id; grows on `at_grow`.
template <class I, class T>
class IdMap {
 public:
  IdMap() = default;
  explicit IdMap(std::size_t n, T init = T()) : data_(n, init) {}
  decltype(auto) operator[](I id) { return data_[id.index]; }
  decltype(auto) operator[](I id) const { return data_[id.index]; }
  decltype(auto) at_grow(I id) {
    if (id.index >= data_.size()) data_.resize(id.index + 1);
    return data_[id.index];
  }
  I push(T value) {
    data_.push_back(std::move(value));
    return I(data_.size() - 1);
  }
  bool contains(I id) const { return id.index < data_.size(); }
  std::size_t size() const { return data_.size(); }
  auto begin() { return data_.begin(); }
  auto end() { return data_.end(); }
  auto begin() const { return data_.begin(); }
  auto end() const { return data_.end(); }

 private:
  std::vector<T> data_;
};

}  // namespace ag

template <class Tag>
struct std::hash<ag::Id<Tag>> {
  std::size_t operator()(ag::Id<Tag> id) const noexcept { return std::hash<std::uint32_t>()(id.index); }
};
