// The structures a recorded program has had, as a trie: a path from the root is one sequence of records (an input of
// some type, an operation on earlier values), and everything that follows from the structure hangs on its nodes: types,
// inferred once when the node was made, and whatever the caller attaches (compiled programs, derivatives).
//
// Recording what was recorded before is a comparison with the child taken last time; nothing is built.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "frontend/trace/recipe.hpp"

namespace ag::rec {

/// Type of a recorded value, shared by all that have it.
struct TypeInfo {
  Type type;
  std::vector<std::int64_t> shape;  ///< of a static type
  bool is_static = true;
  std::int64_t elems = 1;  ///< of a static type
  std::size_t bytes = 0;  ///< of a static type
  static std::shared_ptr<const TypeInfo> make(Type type);
  static std::shared_ptr<const TypeInfo> make(DType dtype, std::vector<std::int64_t> shape);
};
using TypePtr = std::shared_ptr<const TypeInfo>;
bool same(const TypePtr& a, const TypePtr& b);

/// A whole graph as one operation: a derivative, a function traced before. Compared by address.
struct Call {
  GraphPtr graph;
  std::vector<std::string> grads;  ///< per output: name of its gradient function
  std::string name;
};

/// What is recorded. Operands are positions of values in the sequence.
struct Record {
  const Recipe* recipe = nullptr;  ///< null with `call` null: an input of type `input`
  const Call* call = nullptr;
  std::span<const std::uint32_t> operands = {};
  Params params = {};
  const TypePtr* input = nullptr;
  std::uint32_t remat = 0;
};

/// Something the caller keeps with a node.
struct Attachment {
  virtual ~Attachment() = default;
};

class TrieNode {
 public:
  const TrieNode* parent = nullptr;
  const Recipe* recipe = nullptr;
  std::shared_ptr<const Call> call;  ///< kept alive
  std::vector<std::uint32_t> operands;
  std::vector<std::int64_t> params;
  std::uint32_t remat = 0;
  std::vector<TypePtr> results;  ///< one for an input
  std::uint32_t first_value = 0;  ///< position of the first result
  std::uint32_t depth = 0;  ///< records before this one
  Loc loc;  ///< where it was recorded first
  std::unique_ptr<Attachment> attachment;

  bool is_input() const { return !recipe && !call; }
  std::string describe() const;  ///< "mul f32[3], f32[]" for messages
  /// The child that a record leads to; null if it is new.
  TrieNode* find(const Record& record, std::size_t hash);
  /// What was recorded in this place before `child` was, last; null if nothing was.
  const TrieNode* elder(const TrieNode& child) const;

 private:
  friend class Trie;
  bool matches(const Record& record) const;
  TrieNode* last_ = nullptr;
  std::vector<std::unique_ptr<TrieNode>> children_;
  std::unordered_multimap<std::size_t, TrieNode*> index_;  ///< once there are more than a few children
};

std::size_t hash_of(const Record& record);

class Trie {
 public:
  Trie() = default;
  ~Trie();
  TrieNode* root() { return root_.get(); }
  std::size_t size() const { return size_; }
  /// Forgets everything.
  void clear();

  TrieNode* step(TrieNode* at, const Record& record) {
    TrieNode* child = at->last_;
    if (child && child->matches(record)) [[likely]]
      return child;
    return at->find(record, hash_of(record));
  }
  /// A new child: types are inferred by running the recipe on operands of the given types. Throws Rejected.
  TrieNode* grow(TrieNode* at, const Record& record, std::span<const TypePtr> operand_types, Loc loc,
                 std::shared_ptr<const Call> call = nullptr);

 private:
  std::unique_ptr<TrieNode> root_ = std::make_unique<TrieNode>();
  std::size_t size_ = 0;
};

/// Result types of a recipe on operands of these types. Throws Rejected.
std::vector<TypePtr> infer(const Recipe& recipe, std::span<const TypePtr> operands, Params params, const Loc& loc);

/// The graph of the path to `end`: its inputs in order of recording, the values at `outputs`. Names are in0, in1, ...
/// and out0, out1, ... Throws Rejected.
Graph graph_of(const TrieNode& end, std::span<const std::uint32_t> outputs);

}  // namespace ag::rec
