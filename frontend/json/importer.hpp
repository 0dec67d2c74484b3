// What the files of the importer share. Not for users: see import.hpp.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "frontend/json/import.hpp"
#include "ir/builder.hpp"
#include "ir/op.hpp"

namespace ag::json {

/// What a name stands for. A poisoned one is the result of something that was refused: using it is no new error.
struct Def {
  ValueId value;
  Loc loc;  ///< of the name
};

/// One graph that is being built: the whole one or a region.
struct Scope {
  explicit Scope(Scope* outer = nullptr) : outer(outer), builder(graph) {}
  Graph graph;
  Scope* outer;
  GraphBuilder builder;
  std::map<std::string, Def, std::less<>> names;
  std::map<std::string, View, std::less<>> later;  ///< every definition in this graph's text, its regions excluded
};

/// An initializer's or attribute's tensor, or a reason not to have one (already reported).
using MaybeLiteral = std::optional<LiteralPtr>;

class Importer {
 public:
  Importer(const Document& doc, const ImportOptions& options) : doc_(doc), options_(options) {}
  Result<Graph> run();

 private:
  // -- import.cpp: the graph's members
  bool header(View root, Graph& graph);
  void opset(View v, Graph& graph);
  void dims(View v, Graph& graph);
  void inputs(Scope& scope, View list);
  void initializers(Scope& scope, View list);
  void initializer(Scope& scope, View v);
  void outputs(Scope& scope, View list);
  void grads(Graph& graph, View v);
  std::optional<GradRequest> grad(View v);
  std::vector<std::string> strings(View list, std::string_view what, std::vector<Loc>& locs);
  void collect_later(Scope& scope, View graph_like);

  // -- import_node.cpp
  void nodes(Scope& scope, View list);
  void node(Scope& scope, View v);
  void constant_node(Scope& scope, View v, View attrs, const std::vector<View>& outs);
  const OpInfo* find_op(View v, std::string& domain);
  void unknown_op(View op, const std::string& domain);
  std::optional<std::vector<View>> out_names(View v);
  std::optional<std::vector<ValueId>> operands(Scope& scope, View in, const OpInfo* op);
  void define_all(Scope& scope, const std::vector<View>& outs, const Graph* graph, NodeId id);
  Diag place(Diag d, View node, const OpInfo& op, const Loc& whole);

  // -- import_attrs.cpp
  std::optional<Attrs> attributes(View v, const OpInfo& op);
  std::optional<AttrValue> attribute(View v, const AttrSpec& spec, const OpInfo& op);

  // -- import_literal.cpp
  MaybeLiteral tensor(View v, bool attribute);
  MaybeLiteral random(View v, const Type& type);
  MaybeLiteral from_file(View v, const std::optional<Type>& type);
  std::optional<Type> type(View v, std::string_view name);
  std::optional<std::vector<std::int64_t>> static_shape_of(View v, const Type& t);

  // -- import_region.cpp
  bool regions(Scope& scope, View v, const OpInfo& op, std::vector<ValueId>& operands, std::vector<GraphPtr>& out,
               Attrs& attrs);
  GraphPtr region(Scope& outer, View v, const OpInfo& op, std::string_view name,
                  const std::optional<std::vector<Type>>& types, const std::vector<std::string>& captures);
  std::vector<std::string> captures(const Scope& scope, View regions);

  // -- names
  const Def* lookup(const Scope& scope, std::string_view name) const;
  bool define(Scope& scope, View name, ValueId value);
  bool check_name(View name);
  Diag unknown_value(const Scope& scope, View use);
  std::string cycle_through(const Scope& scope, const std::string& name);

  // -- reading members, each with its complaint
  void report(Diag d);
  void report(Diags d);
  bool keys(View object, std::string_view what, std::initializer_list<std::string_view> known);
  bool expect(View v, Kind kind, std::string_view what);
  std::optional<std::string> text(View v, std::string_view what);
  std::optional<std::int64_t> integer(View v, std::string_view what);
  View required(View object, std::string_view key, std::string_view what);
  std::vector<std::pair<std::string, std::string>> extras(View object) const;

  const Document& doc_;
  const ImportOptions& options_;
  Diags errors_;
  std::unordered_map<std::string, Loc> defined_;  ///< every name so far, regions included
  int opset_ = 21, ag_opset_ = 1;
};

/// The dtype of a literal operand; see SPEC 1, rule 2. `known` are the dtypes of the operands that are values,
/// nullopt for literals and omitted ones; `fits(i, t)` tells whether literal i, as spelled, can be of dtype t.
/// Nothing if no allowed dtype fits.
std::optional<DType> literal_dtype(const OpInfo& op, std::size_t position,
                                   const std::vector<std::optional<DType>>& known, const std::vector<bool>& is_literal,
                                   const std::function<bool(std::size_t, DType)>& fits);

/// Types of a region's own inputs, as the op's signature gives them (If: none; Loop: trip, condition, carried; Scan:
/// states and slices); nullopt for an op whose regions state their types.
std::optional<std::vector<Type>> region_input_types(const OpInfo& op, const Graph& graph,
                                                    std::span<const ValueId> operands, const Attrs& attrs);
/// Whether a node's number of results is that of the names it gives them (Split without sizes).
bool counts_results(const OpInfo& op, std::span<const ValueId> operands, const Attrs& attrs);
/// A region that gives back its first input.
GraphPtr identity_region(std::span<const Type> inputs);
bool is_extra_key(std::string_view key);

}  // namespace ag::json
