// Whole compiled programs in the cache of files: found by what was given to the compiler, so that nothing is done again
// but linking, and work on the values of weights. Those are not kept: an entry says how each constant of the program
// follows from the constants of the graph (passes/constants.hpp).
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "ir/survey.hpp"
#include "passes/constants.hpp"
#include "runtime/exec/compile_cache.hpp"
#include "runtime/exec/program_file.hpp"

namespace ag::runtime {

struct EngineOptions;

/// What a compiled graph takes and gives: names and types in order. Gradients follow the graph's own outputs.
struct Port {
  std::string name;
  Type type;
};

/// What an entry holds beside constants.
struct KeptProgram {
  std::vector<Port> inputs, outputs, states;
  loop::Program program;
  std::vector<CompiledKernelRef> objects;  ///< by kernel
  std::vector<std::size_t> statements;  ///< by kernel
  std::vector<loop::Footprint> footprints;  ///< by kernel
  Diags warnings;
  std::vector<std::string> fusion;
};

/// Everything that decides what a compilation gives.
std::string program_key(const GraphSurvey& survey, const TargetSpec& target, const EngineOptions& options);
/// True if all that the caller wants of a compilation is its result.
bool program_may_be_kept(const EngineOptions& options);

/// Constants of the graph, known by their owners. Does not keep them: passes may release what they are done with.
class LiteralIndex {
 public:
  explicit LiteralIndex(const std::vector<LiteralPtr>& literals);
  std::optional<std::size_t> find(const std::weak_ptr<const Literal>& literal) const;  ///< released ones too

 private:
  std::map<std::weak_ptr<const Literal>, std::size_t, std::owner_less<>> index_;
};

/// The entry of a program; nullopt if it cannot be kept: its constants are large and nobody noted how they are made.
std::optional<std::string> write_entry(const KeptProgram& kept, const passes::ConstantRecipes& recipes,
                                       const LiteralIndex& literals, const PlaceIndex& places);

/// The program of an entry, with its constants, computed from those of the graph on up to `threads` threads; nothing if
/// the entry is damaged. Bytes are not trusted. `found` is called once the entry is known to be whole; then constants
/// of the survey are released as they are done with. Errors: those of the interpreter.
Result<std::optional<KeptProgram>> read_entry(std::string_view entry, GraphSurvey& survey, int threads,
                                              const std::function<void()>& found, double& constants_ms);

}  // namespace ag::runtime
