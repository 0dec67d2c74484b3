// Shadow memory: per element, who wrote and who read it last, so that the interpreter can tell races and reads
// of memory that nobody wrote.
//
// Serial execution of parallel loops (CPU): each iteration of a parallel loop is a strand with an id of its own.
// The iterations of one loop instance have consecutive ids, and ids grow with time. Two strands are parallel iff,
// below their lowest common ancestor, they are different iterations of one loop instance. As execution is depth
// first, one remembered reader suffices (Feng and Leiserson, "Efficient detection of determinacy races in Cilk
// programs", 1997).
// Lockstep execution (GPU): an access is (sequence number of the interval between barriers, thread); blocks are run
// one after the other and accesses of different blocks are never ordered.
#pragma once
#include <cstdint>
#include <vector>

namespace ag::loop {

/// Zero means: nobody yet.
struct Shadow {
  std::uint64_t writer = 0, reader = 0;
};

class Strands {
 public:
  static constexpr std::uint64_t root = 1;

  std::uint64_t current() const { return path_.empty() ? root : path_.back().strand; }
  /// Begins a parallel loop; iteration i then is enter(i).
  void begin(std::uint64_t trips) {
    path_.push_back({instances_.size(), 0});
    instances_.push_back({next_, path_.size() > 1 ? path_[path_.size() - 2].strand : root, path_.size() - 1});
    if (path_.size() == 1) epoch_ = next_;
    next_ += trips;
  }
  void enter(std::uint64_t iteration) { path_.back().strand = instances_[path_.back().instance].base + iteration; }
  void end() {
    path_.pop_back();
    if (path_.empty()) {  // everything so far is ordered before what follows
      instances_.clear();
      epoch_ = next_;
    }
  }
  /// Whether the earlier access by strand `s` is unordered with the current strand.
  bool parallel(std::uint64_t s) const { return s >= epoch_ && s != current() && find(s).first >= 0; }
  /// The two iterations (of the same loop) that are unordered; {-1, -1} if there are none.
  std::pair<std::int64_t, std::int64_t> find(std::uint64_t s) const {
    while (s >= epoch_ && !path_.empty()) {
      const Instance& in = instances_[instance_of(s)];
      if (in.depth < path_.size() && instances_[path_[in.depth].instance].base == in.base) {
        auto mine = path_[in.depth].strand;
        if (mine == s) return {-1, -1};
        return {static_cast<std::int64_t>(s - in.base), static_cast<std::int64_t>(mine - in.base)};
      }
      s = in.parent;
    }
    return {-1, -1};
  }

 private:
  struct Instance {
    std::uint64_t base, parent;
    std::size_t depth;
  };
  struct Frame {
    std::size_t instance;
    std::uint64_t strand;
  };
  std::size_t instance_of(std::uint64_t s) const {
    std::size_t lo = 0, hi = instances_.size();  // last instance with base <= s
    while (hi - lo > 1) {
      auto mid = (lo + hi) / 2;
      (instances_[mid].base <= s ? lo : hi) = mid;
    }
    return lo;
  }
  std::vector<Instance> instances_;
  std::vector<Frame> path_;
  std::uint64_t next_ = root + 1, epoch_ = root + 1;
};

/// Stamps of lockstep execution: (sequence number, thread, whether other threads did the same).
struct LockstepStamp {
  static std::uint64_t make(std::uint64_t seq, std::uint32_t thread) { return seq << 12 | thread << 1; }
  static std::uint64_t seq(std::uint64_t s) { return s >> 12; }
  static std::uint32_t thread(std::uint64_t s) { return static_cast<std::uint32_t>(s >> 1) & 2047; }
  static bool many(std::uint64_t s) { return s & 1; }
};

}  // namespace ag::loop
