// Random kernels: chains of statements over mixed types, loops and branches, so that LLVM's combinations of
// neighbouring instructions are tried too.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <random>

#include "codegen/backend.hpp"
#include "harness.hpp"
#include "ir/loop/elementwise.hpp"

using namespace ag;
using namespace ag::loop;
using namespace ag::test;

namespace {

constexpr std::int64_t tiles = 12, room = 4096;

class Fuzzer {
 public:
  /// `plain`: only what codegen::plain() knows.
  explicit Fuzzer(std::uint64_t seed, bool plain = false) : rng_(seed), b_("k0"), plain_(plain) {
    for (int i = 0; i < dtype_count; ++i) types_.push_back(static_cast<DType>(i));
    if (plain) types_ = {DType::f32, DType::i32};
    constexpr std::pair<int, int> shapes[] = {{1, 1}, {1, 4}, {1, 16}, {2, 8}, {1, 24}, {3, 32}, {4, 1}};
    auto [r, l] = shapes[pick(std::size(shapes))];
    rows_ = static_cast<std::uint16_t>(r), lanes_ = static_cast<std::uint16_t>(l);
  }

  Kernel kernel() {
    for (DType t : types_) in_.push_back(b_.param(t, room, Access::read));
    for (DType t : types_) out_.push_back(b_.param(t, room, Access::write));
    b_.for_each(b_.index(tiles), {.mapping = Mapping::tile}, [&](ValueId iv) {
      base_ = b_.mul(iv, b_.index(rows_ * lanes_));
      for (std::size_t i = 0; i < types_.size(); ++i) values_.push_back(load(i));
      if (plain_)
        for (std::size_t i : {0, 1}) values_.push_back(b_.op(Op::cmp_lt, {values_[i], b_.constant_int(types_[i], 1)}));
      statements(25, 0);
      store_last_of_each_type();
    });
    b_.kernel().tiles = tiles;
    return std::move(b_).finish();
  }

 private:
  std::size_t pick(std::size_t n) { return rng_() % n; }
  DType any_type() { return types_[pick(types_.size())]; }
  ValueId load(std::size_t i) {
    return b_.load_tile(in_[i], {types_[i], rows_, lanes_}, base_, b_.index(lanes_), b_.index(1));
  }
  ValueId value(DType t) {  // some value of that type, mostly a late one
    std::vector<ValueId> found;
    for (ValueId v : values_)
      if (b_.type(v).elem == t) found.push_back(v);
    return found[found.size() - 1 - std::min(pick(found.size()), pick(found.size()))];
  }
  ValueId scalar_bool() {
    if (plain_)
      return b_.op(Op::cmp_lt,
                   {b_.extract(b_.reduce_rows(ReduceKind::max, value(DType::f32)), 0), b_.constant(DType::f32, 1)});
    ValueId v = b_.reduce_rows(ReduceKind::or_, value(DType::boolean));
    return b_.extract(v, static_cast<int>(pick(lanes_)));
  }

  void elementwise() {
    for (;;) {
      Op op = static_cast<Op>(pick(static_cast<std::size_t>(Op::trap) + 1));
      DType t = plain_ && pick(4) == 0 ? DType::boolean : any_type();
      OpClass c = describe(op).cls;
      if (plain_ && t != DType::f32 && !plain_op(op, t)) continue;
      if (op == Op::cast) return values_.push_back(b_.cast(value(t), any_type()));
      if (op == Op::select) return values_.push_back(b_.select(value(DType::boolean), value(t), value(t)));
      // A NaN's sign and payload are not defined, so its bits must not become visible.
      if (op == Op::bitcast || op == Op::copysign || op == Op::ldexp) continue;
      if (c != OpClass::unary && c != OpClass::binary && c != OpClass::compare && c != OpClass::ternary) continue;
      if (!elementwise_fn(op, c == OpClass::compare ? DType::boolean : t, t)) continue;
      std::vector<ValueId> args;
      for (int i = 0; i < describe(op).operands; ++i) args.push_back(value(t));
      return values_.push_back(b_.op(op, args));
    }
  }

  static bool plain_op(Op op, DType t) {
    if (t == DType::boolean) return op == Op::and_ || op == Op::or_ || op == Op::not_ || op == Op::cast;
    for (Op known :
         {Op::add, Op::sub, Op::min, Op::max, Op::and_, Op::or_, Op::xor_, Op::shl, Op::shr, Op::cast, Op::select})
      if (op == known) return true;
    return describe(op).cls == OpClass::compare;
  }

  void statements(int count, int depth) {
    for (int i = 0; i < count; ++i) {
      std::size_t kind = pick(depth < 2 ? 14 : 12);
      if (kind < 11) {
        elementwise();
      } else if (kind == 11) {
        ValueId v = value(plain_ ? DType::f32 : any_type());
        bool power = (lanes_ & (lanes_ - 1)) == 0;
        DType t = b_.type(v).elem;
        auto reduce = t == DType::boolean ? ReduceKind::or_ : static_cast<ReduceKind>(pick(4));
        ValueId r = power && pick(2) ? b_.reduce_lanes(reduce, v) : b_.reduce_rows(reduce, v);
        values_.push_back(b_.broadcast(r, rows_, lanes_));
      } else {
        nested(kind == 12, depth);
      }
    }
  }

  void nested(bool loop, int depth) {
    auto any = [&] { return value(plain_ ? DType::f32 : any_type()); };
    std::vector<ValueId> carried{any(), any()};
    auto body = [&](const std::vector<ValueId>& args) {
      std::size_t outer = values_.size();
      values_.insert(values_.end(), args.begin(), args.end());
      statements(6, depth + 1);
      Builder::Values out;
      for (ValueId v : carried) out.push_back(value(b_.type(v).elem));
      values_.resize(outer);
      return out;
    };
    Builder::Values results;
    if (loop) {
      ForOptions options{.mapping = pick(2) ? Mapping::serial : Mapping::unrolled};
      results = b_.for_(b_.index(0), b_.index(static_cast<std::int64_t>(pick(4))), b_.index(1), options, carried,
                        [&](ValueId, const Builder::Values& c) { return body(c); });
    } else {
      ValueId cond = scalar_bool();
      results = b_.if_(cond, [&] { return body({}); }, [&] { return body({}); });
    }
    values_.insert(values_.end(), results.begin(), results.end());
  }

  void store_last_of_each_type() {
    for (std::size_t i = 0; i < types_.size(); ++i)
      for (auto it = values_.rbegin(); it != values_.rend(); ++it)
        if (b_.type(*it).elem == types_[i]) {
          b_.store_tile(out_[i], base_, b_.index(lanes_), b_.index(1), *it);
          break;
        }
  }

  std::mt19937_64 rng_;
  Builder b_;
  std::uint16_t rows_ = 1, lanes_ = 1;
  bool plain_;
  std::vector<DType> types_;
  std::vector<BufferId> in_, out_;
  std::vector<ValueId> values_;
  ValueId base_;
};

}  // namespace

TEST_CASE("random kernels agree with the interpreter") {
  const char* more = std::getenv("AG_FUZZ");  // how many seeds; the default keeps the test short
  std::uint64_t count = more ? std::strtoull(more, nullptr, 10) : 40;
  std::vector<Bytes> data;
  for (int i = 0; i < 2 * dtype_count; ++i) data.push_back(sample(static_cast<DType>(i % dtype_count), room, 7 + i));
  for (std::uint64_t seed = 0; seed < count; ++seed) {
    Kernel k = Fuzzer(seed).kernel();
    auto difference = compare(k, data);
    if (!difference.empty()) {
      INFO("seed " << seed << "\n" << print(k));
      CHECK(difference == "");
    }
  }
  SUCCEED();
}

TEST_CASE("random plain kernels agree with the interpreter") {
  const char* more = std::getenv("AG_FUZZ");
  std::uint64_t count = more ? std::strtoull(more, nullptr, 10) : 40;
  std::vector<Bytes> data;
  for (DType t : {DType::f32, DType::i32, DType::f32, DType::i32}) data.push_back(sample(t, room, 3 + data.size()));
  for (std::uint64_t seed = 0; seed < count; ++seed) {
    Kernel k = Fuzzer(seed, true).kernel();
    INFO("seed " << seed << "\n" << print(k));
    CHECK(codegen::plain(k));
    CHECK(compare(k, data) == "");
  }
}
