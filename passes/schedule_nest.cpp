// Loops, lanes and tiles that every schedule for a CPU is made of.
#include <algorithm>

#include "passes/contraction_body.hpp"
#include "passes/schedule_internal.hpp"

namespace ag::passes {

using loop::AxisRole;
using loop::BlockId;
using loop::Builder;
using loop::ForOptions;
using loop::Mapping;
using loop::Op;
using loop::StmtId;
using LV = loop::ValueId;

CpuNest::CpuNest(const loop::Kernel& k, const TargetSpec& target)
    : k_(k), target_(target), b_(k.name), clone_(k, b_), nest_(find_nest(k)), moments_(k, nest_.body) {
  for (const NestLoop& l : nest_.loops)
    if (l.role == AxisRole::col)
      col_ = &l;
    else if (l.role == AxisRole::row)
      row_ = &l;
    else
      outer_.push_back(&l);
}

bool CpuNest::is_contraction() const {
  if (!col_ || !all_sized()) return false;
  if (row_) return true;
  ContractionBody body = find_contraction(k_, nest_.body);  // one row: the columns' sums of products
  if (body.loops.empty()) return false;
  BlockId innermost = body.block(k_, body.loops.size() - 1);
  StmtId def = k_.values[k_.stmts[k_.blocks[innermost].stmts.back()].operands[0]].def;
  return def && k_.stmts[def].op == Op::fma;
}

void CpuNest::begin() {
  clone_.clone_buffers();
  if (nest_.loops.empty()) return;
  for (StmtId id : k_.blocks[k_.top()].stmts)  // sizes, strides
    if (is_pure(k_.stmts[id])) clone_.clone(id);
}

loop::Kernel CpuNest::finish() { return hoist_invariants(std::move(b_).finish()); }

bool CpuNest::all_sized() const {
  return std::all_of(nest_.loops.begin(), nest_.loops.end(), [](const NestLoop& l) { return l.size.has_value(); });
}

void CpuNest::body() {
  if (!col_) clone_.instead = [this](StmtId id) { return moments_.emit(id, clone_, b_); };
  for (const NestLoop& l : nest_.loops)
    clone_.clone_block(k_.stmts[l.stmt].blocks[0], [this](StmtId id) { return nest_.contains(id); });
  if (nest_.loops.empty()) clone_.clone_block(k_.top());
  clone_.instead = nullptr;
}

std::size_t CpuNest::element_bytes() const {
  bool wide = false, narrow = false;
  for (const loop::Buffer& b : k_.buffers) {
    if (b.dtype == DType::f64) return 8;
    wide = wide || dtype_bytes(b.dtype) == 8;
    narrow = narrow || dtype_bytes(b.dtype) < 8;
  }
  return wide && !narrow ? 8 : 4;
}

int CpuNest::width_for(const std::optional<Dim>& size, int registers) const {
  int width = lanes() * registers;
  if (size && size->is_const())
    while (width > lanes() && width / 2 >= size->value()) width /= 2;
  return width;
}

void CpuNest::vector_loop(LV lo, LV hi, int width, const std::function<void(LV)>& body) {
  ForOptions o{.mapping = Mapping::vector, .role = AxisRole::col, .width = static_cast<std::uint16_t>(width)};
  b_.for_(lo, hi, b_.index(width), o, {}, [&](LV iv, const Builder::Values&) {
    body(iv);
    return Builder::Values{};
  });
}

Dim CpuNest::outer_size() const {
  Dim n = 1;
  for (const NestLoop* l : outer_) n = n * *l->size;
  return n;
}

void CpuNest::tiles(const Dim& count, const std::function<void(LV)>& body) {
  b_.kernel().tiles = count;
  b_.for_(b_.index(0), b_.dim(count), b_.index(1), {.mapping = Mapping::tile}, {}, [&](LV t, const Builder::Values&) {
    b_.poll();
    body(t);
    return Builder::Values{};
  });
}

void CpuNest::decode(LV flat) {
  for (std::size_t i = outer_.size(); i-- > 0;) {
    if (i == 0) {
      clone_.set(outer_[i]->iv, flat);
      break;
    }
    LV size = b_.dim(*outer_[i]->size);
    clone_.set(outer_[i]->iv, b_.op(Op::rem, {flat, size}));
    flat = b_.op(Op::div, {flat, size});
  }
}

}  // namespace ag::passes
