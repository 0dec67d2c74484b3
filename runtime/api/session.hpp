// The session of a thread: what is being recorded, what structures it has seen, and the programs compiled for them.
#pragma once
#include <functional>
#include <source_location>

#include "frontend/trace/recipes.hpp"
#include "runtime/api/small.hpp"
#include "runtime/api/value.hpp"
#include "runtime/engine.hpp"

namespace ag::lazy {

using Place = std::source_location;
Loc loc_of(const Place& place);
/// Throws api::Error with the diagnostics' first message, code and place.
[[noreturn]] void raise(const Diags& diags);
[[noreturn]] void raise(Code code, const std::string& message, const Place& place = Place::current());

using Results = Small<ValueRef, 3>;

/// A derivative of one recorded operation, as a graph: from saved operands and results and the cotangents of the
/// floating results to the cotangents of the wanted operands.
struct Vjp {
  struct Source {
    enum class Kind : std::uint8_t { operand, result, cotangent } kind;
    std::uint32_t index;
  };
  std::shared_ptr<const rec::Call> call;
  std::vector<Source> inputs;
  std::vector<int> outputs;  ///< per operand: which output of the call, -1 for none
  std::shared_ptr<const Diags> refused;  ///< why there is no derivative; told when it is asked for
  std::shared_ptr<const rec::Call> of;   ///< kept alive: its address is part of the key
};
using VjpPtr = std::shared_ptr<const Vjp>;

/// A compiled segment: everything that a run needs but the pointers.
struct Plan {
  std::vector<std::uint32_t> live;  ///< positions that become arrays
  std::shared_ptr<const runtime::Executable> executable;
  std::unique_ptr<runtime::ExecContext> context;
  std::vector<runtime::HostArray> inputs, outputs;
};

/// What hangs on a node of the trie.
struct Known final : rec::Attachment {
  std::vector<std::unique_ptr<Plan>> plans;                    ///< of segments that end here
  std::vector<std::pair<std::uint64_t, VjpPtr>> derivatives;   ///< of this operation, by wanted operands
};

/// The open segment: a path in the trie, its inputs, and who refers to its values.
class Segment final : public Recording {
 public:
  rec::TrieNode* at = nullptr;
  std::vector<Value*> values;           ///< by position; null: dead, or an input
  std::vector<TypePtr> types;           ///< by position
  std::vector<ValueRef> inputs;         ///< concrete, in order of recording
  std::uint64_t number = 0;
  rec::TrieNode* first_new = nullptr;   ///< where the structure left what was known
  void forget(std::uint32_t index) override { values[index] = nullptr; }
};

class TraceFrame;

class Session {
 public:
  Session();
  ~Session();
  static Session& current();

  struct Recorded {
    rec::TrieNode* node = nullptr;  ///< null in a trace
  };
  /// Records an operation; `results` receives its values.
  Recorded record(const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                  std::span<Value* const> operands, rec::Params params, Results& results, const Place& place);
  /// Compiles and runs the open segment: all values that are referred to become arrays.
  void close();
  /// Makes sure of an array. Throws if the value never got one, or belongs to another thread or a trace.
  void materialise(Value& value, const Place& place);
  std::uint64_t segment_number() const { return segment_.number; }
  bool segment_empty() const { return segment_.values.empty(); }

  /// The derivative of an operation, made once. `wanted`: bit i for operand i; all where there are more than 64.
  VjpPtr derivative(rec::TrieNode* node, const rec::Recipe* recipe, const std::shared_ptr<const rec::Call>& call,
                    std::span<const TypePtr> operands, rec::Params params, std::uint64_t wanted, const Place& place);
  /// The same if it was made at this node already, else null.
  static const VjpPtr* known_derivative(const rec::TrieNode* node, std::uint64_t wanted) {
    if (!node || !node->attachment) return nullptr;
    for (const auto& [mask, vjp] : static_cast<const Known&>(*node->attachment).derivatives)
      if (mask == wanted) return &vjp;
    return nullptr;
  }
  /// The generator's key: it moves on by a fixed step with each draw, so that a compiled graph of n draws knows all
  /// of its keys from the first.
  std::uint64_t next_key(std::uint64_t n = 1) {
    const std::uint64_t key = key_mix(seed, 0) + draws * rec::r::key_step;
    draws += n;
    return key;
  }
  static std::uint64_t key_mix(std::uint64_t seed, std::uint64_t n);
  void clear();

  bool grad_mode = true;
  bool updated = false;   ///< a leaf was changed without gradient: the next recorded function begins a new step
  std::uint64_t sequence = 0;  ///< of gradient functions
  std::uint64_t seed = 0x5eed, draws = 0;
  std::size_t compilations = 0;
  std::uint32_t remat = 0, remats = 0;
  TraceFrame* frame = nullptr;
  std::function<void(const std::string&)> on_recompile;

 private:
  std::uint32_t position(Value& value, const Place& place);
  Plan& plan(const Segment& segment, std::span<const std::uint32_t> live);
  void explain(const Segment& segment, std::span<const std::uint32_t> live);
  void run(Plan& plan, Segment& segment);
  void abandon(const std::string& why, const Diags& diags);
  void reset_segment();
  rec::Trie trie_;
  Segment segment_;
  std::size_t plans_ = 0;
  std::vector<std::uint32_t> live_;
  /// Which concrete values are inputs of the open segment: an open-addressed table, cleared by number.
  struct Slot {
    const Value* value = nullptr;
    std::uint64_t segment = 0;
    std::uint32_t index = 0;
  };
  std::vector<Slot> table_;
  std::size_t table_used_ = 0;
  std::uint32_t* find_slot(const Value* value, bool& found);
  void grow_table();
  std::map<std::string, VjpPtr, std::less<>> derivatives_;
};

/// Writes a line where the program said that lines go; nowhere until it did.
void to_console(const std::string& line);

/// The engine that all sessions share; made at first use. Throws api::Error.
runtime::Engine& engine();
const runtime::EngineOptions& engine_options();
runtime::ExecOptions exec_options();

Array to_array(const Value& value);  ///< a copy
ValueRef from_array(const Array& array);

}  // namespace ag::lazy
