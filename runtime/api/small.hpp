// A vector whose first few elements need no allocation: most operations have one or two operands and one result.
#pragma once
#include <array>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace ag::lazy {

template <class T, std::size_t N>
class Small {
 public:
  void push_back(T v) {
    if (size_ < N) {
      few_[size_++] = std::move(v);
      return;
    }
    if (size_ == N && many_.empty())
      many_.assign(std::make_move_iterator(few_.begin()), std::make_move_iterator(few_.end()));
    many_.push_back(std::move(v));
    ++size_;
  }
  void resize(std::size_t n) {
    if (n > N && many_.empty())
      many_.assign(std::make_move_iterator(few_.begin()), std::make_move_iterator(few_.begin() + std::min(size_, N)));
    if (n > N) many_.resize(n);
    size_ = n;
  }
  void clear() {
    for (T& v : few_) v = T();
    many_.clear();
    size_ = 0;
  }
  T* data() { return size_ > N ? many_.data() : few_.data(); }
  const T* data() const { return size_ > N ? many_.data() : few_.data(); }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }

 private:
  std::array<T, N> few_{};
  std::vector<T> many_;
  std::size_t size_ = 0;
};

}  // namespace ag::lazy
