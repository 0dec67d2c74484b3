// What the files of the importer share. Not for users: see onnx.hpp.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "frontend/onnx/json.hpp"
#include "frontend/onnx/onnx.hpp"
#include "frontend/onnx/tensor.hpp"
#include "ir/builder.hpp"
#include "ir/op.hpp"

namespace google::protobuf {
template <typename Element>
class RepeatedPtrField;
}

namespace ag::onnx {

template <class T>
using Repeated = google::protobuf::RepeatedPtrField<T>;

namespace pb {
class ModelProto;
class OperatorSetIdProto;
class GraphProto;
class NodeProto;
class FunctionProto;
class AttributeProto;
class ValueInfoProto;
class TypeProto;
}  // namespace pb

/// One graph that is being built: the whole one or a region.
struct Scope {
  Graph graph;
  GraphBuilder builder{graph};
};

/// What a name stands for. One without a value is the result of something that was refused: using it is no new error.
struct Binding {
  ValueId value;
  Loc loc;
  bool absent = false;  ///< an input of a function that the call leaves out
};

using Opsets = std::map<std::string, std::int64_t, std::less<>>;

/// A call of a model-local function that is being inlined.
struct Call {
  const pb::FunctionProto* function;
  /// The values that `ref_attr_name` finds; those of the call, else the function's defaults.
  std::map<std::string, const pb::AttributeProto*, std::less<>> attributes;
  const Call* caller;
  int depth;
};

/// Where names are looked up: a graph, a region, or the body of a function, which sees nothing around it.
struct Frame {
  Scope& scope;
  const Frame* outer;   ///< of a region: to tell names that shadow
  const Call* call;     ///< the function whose body this is or lies in
  const Opsets& opsets;
  std::string path;     ///< "graph", "graph.node[3] If.then_branch"
  std::string prefix;   ///< of value names: "" for the graph itself, "call/" inside a function
  int depth = 0;        ///< regions around it
  std::unordered_map<std::string, Binding> names = {};
  std::set<std::string, std::less<>> given_names = {};  ///< results of a function: the caller names them
};

/// Types of a region's own inputs, where the op's signature gives them. Inputs [first, last) are carried from trip to
/// trip: input i comes out as output i - first + offset.
struct RegionTypes {
  std::optional<std::vector<Type>> inputs;
  std::size_t first = 0, last = 0, offset = 0;
};

class Importer {
 public:
  /// `places`: of the messages in a text, if the model was one.
  Importer(pb::ModelProto& model, const std::string& file, const ImportOptions& options, const Places* places);
  ~Importer();
  Result<Graph> run();
  ExternalData& external() { return external_; }

 private:
  // -- import.cpp: model, graph, inputs, initializers, outputs
  void opsets(const Repeated<pb::OperatorSetIdProto>& imports, Opsets& out, const std::string& path);
  void graph_members(Frame& f, const pb::GraphProto& g);
  void inputs(Frame& f, const pb::GraphProto& g);
  void initializers(Frame& f, const pb::GraphProto& g);
  void free_data(int initializer);
  void nodes(Frame& f, const Repeated<pb::NodeProto>& list);
  void outputs(Frame& f, const pb::GraphProto& g);
  std::optional<Type> type(const pb::TypeProto& t, std::string_view name, const Loc& loc);
  std::optional<Type> input_type(const pb::ValueInfoProto& v, const Loc& loc);

  // -- import_node.cpp
  void node(Frame& f, const pb::NodeProto& n, const std::string& path);
  void constant(Frame& f, const pb::NodeProto& n, const Loc& loc);
  void add_node(Frame& f, const pb::NodeProto& n, const OpInfo& op, const std::string& path, const Loc& loc);
  std::optional<std::vector<ValueId>> operands(Frame& f, const pb::NodeProto& n, const Loc& loc);
  void define_results(Frame& f, const pb::NodeProto& n, NodeId id, const Loc& loc);
  void poison(Frame& f, const pb::NodeProto& n, const Loc& loc);
  bool inline_branch(Frame& f, const pb::NodeProto& n, const std::vector<ValueId>& in, const std::string& path,
                     std::size_t errors);
  bool regions(Frame& f, const pb::NodeProto& n, const OpInfo& op, const std::string& path,
               std::vector<ValueId>& operands, std::vector<GraphPtr>& out, Attrs& attrs);
  void gradient(Frame& f, const pb::NodeProto& n, const OpInfo& op, const Loc& loc);  ///< gradient.cpp
  GraphPtr region(Frame& outer, const pb::GraphProto& g, const OpInfo& op, const std::string& path,
                  const RegionTypes& types, const std::vector<std::string>& captures);
  std::vector<Type> opened(const Frame& f, const RegionTypes& types) const;

  // -- import_attrs.cpp
  std::optional<Attrs> attributes(Frame& f, const pb::NodeProto& n, const OpInfo& op, const Loc& loc);
  /// The attribute itself, or what it refers to in the call around it; null where that was left out.
  const pb::AttributeProto* resolve(const Frame& f, const pb::AttributeProto& a) const;
  std::optional<AttrValue> attribute(const pb::AttributeProto& a, const AttrSpec& spec, const OpInfo& op,
                                     const Loc& loc);
  std::optional<LiteralPtr> constant_value(const pb::AttributeProto& a, const Loc& loc);

  // -- functions.cpp
  void collect_functions();
  const pb::FunctionProto* find_function(const pb::NodeProto& n) const;
  bool check_cycles();
  void check_ops();
  void inline_call(Frame& f, const pb::NodeProto& n, const pb::FunctionProto& function, const std::string& path,
                   const Loc& loc);

  const OpInfo* find_op(const Opsets& opsets, const pb::NodeProto& n) const;
  Diag unknown_op(const Opsets& opsets, const pb::NodeProto& n, const Loc& loc) const;

  // -- names
  void define(Frame& f, const std::string& name, ValueId value, const Loc& loc);
  const Binding* lookup(const Frame& f, const std::string& name) const;
  Diag unknown_value(const Frame& f, const std::string& name, const Loc& loc) const;
  bool check_name(const std::string& name, const Loc& loc);
  /// A place in the file: a path of fields, and the name of what stands there.
  Loc loc(std::string path) const;
  void report(Diag d);
  void report(Diags d);
  bool full() const { return errors_.size() >= options_.max_errors; }

  pb::ModelProto& model_;
  const ImportOptions& options_;
  std::shared_ptr<const std::string> file_;
  const Places* places_;
  ExternalData external_;
  Diags errors_;
  Opsets opsets_;
  std::map<std::string, const pb::FunctionProto*, std::less<>> functions_;  ///< by domain, name, overload
  std::map<const pb::FunctionProto*, Opsets> function_opsets_;
  std::set<std::string, std::less<>> statistics_;  ///< running mean and variance of batch norms
  std::size_t node_count_ = 0;
};

/// No overlong forms, no surrogates, no NUL.
bool valid_utf8(std::string_view s);
/// "graph.node[3] conv1", or its operator in parentheses where it has no name.
std::string node_path(const std::string& graph_path, int index, const pb::NodeProto& n);
/// "" for ONNX's own domain, which files also spell "ai.onnx".
std::string_view domain_of(const pb::NodeProto& n);
/// Names that the graphs inside a node use and do not define, in order of first use.
std::vector<std::string> free_names(const std::vector<const pb::GraphProto*>& graphs);

}  // namespace ag::onnx
