// Which groups must run before which: the transitive closure of a growing acyclic graph, as bit sets.
#pragma once
#include <bit>
#include <cstdint>
#include <vector>

namespace ag::passes {

/// Adding a node without successors costs one pass over a set; an edge to a node with successors one for each of them.
class Reachability {
 public:
  std::size_t size() const { return before_.size(); }
  void push() {
    before_.emplace_back();
    after_.emplace_back();
  }
  /// True if `a` must run before `b`.
  bool before(std::size_t a, std::size_t b) const { return before_[b].test(a); }
  /// Nodes that must run before `b`.
  std::size_t depth(std::size_t b) const { return before_[b].count(); }

  /// `a` runs before `b`; the caller knows that `b` does not run before `a`.
  void add(std::size_t a, std::size_t b) {
    if (a == b || before(a, b)) return;
    Set gained = before_[a], followers = after_[b];
    gained.set(a);
    followers.set(b);
    followers.each([&](std::size_t f) { before_[f].merge(gained); });
    gained.each([&](std::size_t g) { after_[g].merge(followers); });
  }
  /// `into` stands for both from now on; neither runs before the other.
  void merge(std::size_t from, std::size_t into) {
    const Set earlier = before_[from], later = after_[from];
    earlier.each([&](std::size_t a) { add(a, into); });
    later.each([&](std::size_t b) { add(into, b); });
  }

 private:
  struct Set {
    std::vector<std::uint64_t> words;
    bool test(std::size_t i) const { return i / 64 < words.size() && (words[i / 64] >> (i % 64) & 1); }
    void set(std::size_t i) {
      if (i / 64 >= words.size()) words.resize(i / 64 + 1);
      words[i / 64] |= std::uint64_t{1} << (i % 64);
    }
    void merge(const Set& other) {
      if (other.words.size() > words.size()) words.resize(other.words.size());
      for (std::size_t i = 0; i < other.words.size(); ++i) words[i] |= other.words[i];
    }
    std::size_t count() const {
      std::size_t n = 0;
      for (std::uint64_t w : words) n += static_cast<std::size_t>(std::popcount(w));
      return n;
    }
    template <class F>
    void each(F&& f) const {
      for (std::size_t i = 0; i < words.size(); ++i)
        for (std::uint64_t w = words[i]; w; w &= w - 1) f(64 * i + static_cast<std::size_t>(std::countr_zero(w)));
    }
  };
  std::vector<Set> before_, after_;
};

}  // namespace ag::passes
