// From a graph to something that runs: the pipeline, code generation, linking. The only place that sees passes, code
// generators and devices together; the command and embedding programs call the same function.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ir/graph.hpp"
#include "passes/pass.hpp"
#include "runtime/cpu/loader.hpp"
#include "runtime/exec/compile_cache.hpp"
#include "runtime/exec/disk_cache.hpp"
#include "runtime/exec/executable.hpp"
#include "runtime/program_cache.hpp"

namespace ag::runtime {

struct EngineOptions {
  std::string target = "cpu:native";
  passes::PipelineOptions pipeline;   ///< its opt_level is the optimisation level
  bool fast_math = false;
  int winograd_tile = 2;              ///< 2, or 4: faster, less exact (PassContext)
  std::int64_t memory_limit = 0;      ///< bytes that a run may take: loops keep checkpoints to stay below; 0: none
  int compile_threads = 0;            ///< 0: as many as there are cores
  bool use_cache = true;              ///< objects of kernels compiled before in this process
  std::string cache_folder;           ///< with use_cache: objects kept between processes (DiskCache); empty: none
  bool keep_programs = true;          ///< with cache_folder: whole programs too
  bool line_info = false;
};

struct KernelReport {
  std::string name, label;   ///< "k3", "dot_general+add+tanh"
  std::size_t calls = 0, object_bytes = 0, statements = 0;
  double codegen_ms = 0;     ///< processor time of the thread; 0 if it came from the cache
  bool cached = false;
};

struct CompileReport {
  std::vector<passes::PassTime> passes;
  std::vector<KernelReport> kernels;
  double passes_ms = 0, codegen_ms = 0, link_ms = 0, total_ms = 0;
  double constants_ms = 0;  ///< reading, folding and packing the values of constants: of total_ms, none of the others
  bool kept = false;  ///< the program came from the cache of files: no passes ran
  std::vector<std::string> fusion;  ///< --print-fusion
  Diags warnings;
};

struct Compiled {
  std::vector<Port> inputs, outputs;
  std::vector<Port> states;  ///< what a step changes in place, in the order of the executable's states
  std::shared_ptr<const Executable> executable;
  CompileReport report;
};

/// Holds what compilations share: the linker and the cache of objects. Thread-safe; no global state.
class Engine {
 public:
  /// Errors: AG4101, linking cannot be set up on this machine.
  static Result<std::shared_ptr<Engine>> create();
  /// Errors: those of the passes (AG2, AG3), AG4 of code generation.
  Result<Compiled> compile(Graph graph, const EngineOptions& options = {});

 private:
  ObjectStore* store(const EngineOptions& options, Diags& warnings);
  Result<std::optional<Compiled>> kept(const std::string& key, ObjectStore& store, Graph& graph, GraphSurvey& survey,
                                       const EngineOptions& options);
  Result<Compiled> link(KeptProgram program, std::vector<HostFn> host, CompileReport report);

  std::shared_ptr<Loader> loader_;
  CompileCache cache_;
  std::mutex mutex_;
  std::map<std::string, Result<std::shared_ptr<DiskCache>>> folders_;  ///< opened once, errors too
};

/// The graph with every float type, constant and conversion widened to f64: what gradients are checked in.
Result<Graph> widen_to_f64(const Graph& graph);

HostArray view_of(const Array& array);
/// Runs with arrays of the IR's kind; outputs are new arrays.
Result<std::vector<Array>> run(ExecContext& context, std::span<const Array> inputs);

}  // namespace ag::runtime
