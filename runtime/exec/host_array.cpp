#include "runtime/exec/host_array.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <algorithm>
#include <cstring>

#include <cstdlib>

#include "ir/base/dim.hpp"

namespace ag::runtime {
namespace {

constexpr std::size_t page = 4096, huge_page = std::size_t{2} << 20;
/// Arrays, of which there may be many, from two huge pages on. Arenas and scratch memory are few, and a panel that is
/// meant to stay in the second-level cache does so only on a large page: small ones share sets of it by chance.
constexpr std::size_t large_array = 2 * huge_page, large_arena = huge_page / 8;

/// nullptr if there is no memory; in huge pages from `large_bytes` on. Freed by std::free.
void* allocate_aligned(std::size_t bytes, std::size_t large_bytes) {
  if (bytes >= std::size_t{1} << 47) return nullptr;  // no process has as many addresses
  const bool large = bytes >= large_bytes;
  const std::size_t align = large ? huge_page : 64;
  void* p = nullptr;
  const std::size_t room = (bytes + align - 1) / align * align + (bytes == 0 ? align : 0);
  if (posix_memalign(&p, align, room) != 0) return nullptr;
  // First touch of 4 KiB pages is five times slower than of huge ones. To the end of the last page: the system gives no
  // large page of which it is told a part.
  if (large) madvise(p, room, MADV_HUGEPAGE);
  return p;
}

}  // namespace

std::string describe(DType dtype, std::span<const std::int64_t> shape) {
  return fmt::format("{}[{}]", dtype_name(dtype), fmt::join(shape, ","));
}

Result<OwnedArray> OwnedArray::allocate(DType dtype, std::vector<std::int64_t> shape) {
  auto bytes = static_cast<std::int64_t>(dtype_bytes(dtype));
  for (auto size : shape) {
    const auto product = size >= 0 ? checked_mul(bytes, size) : std::nullopt;
    if (!product)
      return fail(Code::AG5008, {}, fmt::format("an array {} is too large for this machine", describe(dtype, shape)));
    bytes = *product;
  }
  OwnedArray a;
  a.memory_.reset(allocate_aligned(static_cast<std::size_t>(bytes), large_array));
  if (!a.memory_)
    return fail(Code::AG5010, {}, fmt::format("no memory for an array {} of {} bytes", describe(dtype, shape), bytes));
  a.view_ = {dtype, std::move(shape), a.memory_.get(), static_cast<std::size_t>(bytes)};
  return a;
}

void OwnedArray::Free::operator()(void* p) const noexcept { std::free(p); }

bool Arena::reserve(std::size_t bytes) {
  if (bytes <= capacity_) return true;
  free();
  base_ = static_cast<char*>(allocate_aligned(bytes, large_arena));
  if (!base_) return false;
  capacity_ = bytes;
#ifdef MADV_POPULATE_WRITE
  // A fresh page costs its first writer some microseconds: not in the middle of the first run. A hint: failure is
  // harmless.
  const auto begin = (reinterpret_cast<std::uintptr_t>(base_) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(base_) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE);
#endif
  return true;
}

bool Arena::grow(std::size_t bytes) {
  if (bytes <= capacity_) return true;
  Arena larger;
  if (!larger.reserve(std::max(bytes, capacity_ + capacity_ / 2))) return false;
  if (capacity_ > 0) std::memcpy(larger.base_, base_, capacity_);
  std::swap(base_, larger.base_);
  std::swap(capacity_, larger.capacity_);
  return true;
}

void Arena::free() {
  std::free(base_);
  base_ = nullptr;
  capacity_ = 0;
}

}  // namespace ag::runtime
