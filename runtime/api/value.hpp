// What a tensor's value is: an array, or a position in what is being recorded.
#pragma once
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "frontend/trace/trie.hpp"
#include "ir/array.hpp"

namespace ag::lazy {

using rec::TypePtr;

/// A counted reference to an object with `refs` and `destroy()`.
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* p) : p_(p) { retain(); }
  Ref(const Ref& o) : p_(o.p_) { retain(); }
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  Ref& operator=(Ref o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Ref() { release(p_); }
  T* get() const { return p_; }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_ != nullptr; }
  bool operator==(const Ref& o) const { return p_ == o.p_; }
  T* leak() { return std::exchange(p_, nullptr); }
  static Ref adopt(T* p) {
    Ref r;
    r.p_ = p;
    return r;
  }
  static void release(T* p) {
    if (p && p->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) p->destroy();
  }

 private:
  void retain() {
    if (p_) p_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  T* p_ = nullptr;
};

/// Memory of an array: 64-byte aligned, counted; or somebody else's.
struct Buffer {
  std::atomic<std::uint32_t> refs{0};
  void* data = nullptr;
  bool owned = true;
  static Ref<Buffer> allocate(std::size_t bytes);  ///< not initialised; throws api::Error (AG5010)
  static Ref<Buffer> borrow(void* data);
  void destroy();
};

class Recording;

/// An immutable value. Pending while `home` is set: position `index` there.
struct Value {
  std::atomic<std::uint32_t> refs{0};
  std::uint32_t index = 0;
  Recording* home = nullptr;
  TypePtr type;
  void* data = nullptr;    ///< of a concrete value
  Ref<Buffer> buffer;      ///< keeps `data` alive; null for a scalar, which lies in `inline_bits`
  std::int64_t inline_bits = 0;
  std::shared_ptr<const std::string> failed;  ///< why it never got a value
  std::shared_ptr<const Diags> failure;       ///< the same with places

  bool pending() const { return home != nullptr; }
  DType dtype() const { return type->type.dtype; }
  void destroy();
  static Ref<Value> concrete(TypePtr type, Ref<Buffer> buffer);
  static Ref<Value> scalar(DType t, double real, std::int64_t integer);
};
using ValueRef = Ref<Value>;

/// What values are recorded in: the open segment of a session, or a graph being traced.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void forget(std::uint32_t index) = 0;  ///< nobody refers to this value any more
};

}  // namespace ag::lazy
