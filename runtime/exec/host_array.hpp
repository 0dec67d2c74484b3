// Arrays in the host's memory: dense, row-major.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ir/base/diag.hpp"
#include "ir/base/dtype.hpp"

namespace ag::runtime {

/// A view: somebody else owns the memory. `data` is aligned to the element's size.
struct HostArray {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  void* data = nullptr;
  std::size_t bytes = 0;  ///< of the memory at `data`; may be more than the shape needs
};

/// "f32[2,3]"
std::string describe(DType dtype, std::span<const std::int64_t> shape);

/// An array that owns its memory, 64-byte aligned, large ones in huge pages.
class OwnedArray {
 public:
  OwnedArray() = default;
  /// Contents are not initialised. Errors: AG5008 sizes overflow, AG5010 out of memory.
  static Result<OwnedArray> allocate(DType dtype, std::vector<std::int64_t> shape);
  HostArray& view() { return view_; }
  const HostArray& view() const { return view_; }
  template <class T>
  T* data() const {
    return static_cast<T*>(view_.data);
  }

 private:
  struct Free {
    void operator()(void* p) const noexcept;
  };
  HostArray view_;
  std::unique_ptr<void, Free> memory_;
};

/// Memory that is kept from run to run and only grows; contents are lost when it does.
class Arena {
 public:
  Arena() = default;
  ~Arena() { free(); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  /// At least `bytes`, 64-byte aligned; huge pages, touched at once, if large. False if there is no memory.
  bool reserve(std::size_t bytes);
  /// The same, but the contents are kept; grows by half at least, so that repeated growth costs little.
  bool grow(std::size_t bytes);
  char* base() const { return base_; }
  std::size_t capacity() const { return capacity_; }

 private:
  void free();
  char* base_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace ag::runtime
