#include "frontend/trace/trie.hpp"

#include <algorithm>

namespace ag::rec {
namespace {

std::size_t mix(std::size_t h, std::size_t v) { return (h ^ v) * 0x9e3779b97f4a7c15ull + (h >> 29); }

constexpr std::size_t few = 4;

}  // namespace

TypePtr TypeInfo::make(Type type) {
  auto info = std::make_shared<TypeInfo>();
  info->type = std::move(type);
  if (auto shape = static_shape(info->type.shape)) {
    info->shape = std::move(*shape);
    for (std::int64_t d : info->shape) info->elems *= d;
    info->bytes = static_cast<std::size_t>(info->elems) * dtype_bytes(info->type.dtype);
  } else {
    info->is_static = false;
  }
  return info;
}
TypePtr TypeInfo::make(DType dtype, std::vector<std::int64_t> shape) {
  return make(Type{dtype, Dims(shape.begin(), shape.end())});
}
bool same(const TypePtr& a, const TypePtr& b) {
  if (a == b) return true;
  if (a->type.dtype != b->type.dtype || a->is_static != b->is_static) return false;
  return a->is_static ? a->shape == b->shape : a->type == b->type;
}

std::size_t hash_of(const Record& r) {
  std::size_t h = mix(reinterpret_cast<std::size_t>(r.recipe), reinterpret_cast<std::size_t>(r.call));
  h = mix(h, r.remat);
  for (std::uint32_t o : r.operands) h = mix(h, o + 1);
  for (std::int64_t p : r.params) h = mix(h, static_cast<std::size_t>(p));
  if (r.input) {
    h = mix(h, static_cast<std::size_t>((*r.input)->type.dtype));
    for (std::int64_t d : (*r.input)->shape) h = mix(h, static_cast<std::size_t>(d));
  }
  return h;
}

bool TrieNode::matches(const Record& r) const {
  if (recipe != r.recipe || call.get() != r.call || remat != r.remat) return false;
  if (r.input) return is_input() && same(results[0], *r.input);
  return std::equal(operands.begin(), operands.end(), r.operands.begin(), r.operands.end()) &&
         std::equal(params.begin(), params.end(), r.params.begin(), r.params.end());
}

TrieNode* TrieNode::find(const Record& record, std::size_t hash) {
  if (children_.size() <= few) {
    for (auto& c : children_)
      if (c->matches(record)) return last_ = c.get();
    return nullptr;
  }
  auto [from, to] = index_.equal_range(hash);
  for (auto it = from; it != to; ++it)
    if (it->second->matches(record)) return last_ = it->second;
  return nullptr;
}

const TrieNode* TrieNode::elder(const TrieNode& child) const {
  for (std::size_t i = 1; i < children_.size(); ++i)
    if (children_[i].get() == &child) return children_[i - 1].get();
  return nullptr;
}

std::string TrieNode::describe() const {
  if (is_input()) return "an input " + results[0]->type.str();
  std::string text = recipe ? std::string(recipe->name) : call->name;
  for (std::size_t i = 0; i < results.size(); ++i) text += (i ? ", " : " -> ") + results[i]->type.str();
  return text;
}

Trie::~Trie() { clear(); }

void Trie::clear() {
  // A path may be long: taken apart without recursion.
  std::vector<std::unique_ptr<TrieNode>> doomed;
  auto take = [&](TrieNode& n) {
    for (auto& c : n.children_) doomed.push_back(std::move(c));
    n.children_.clear();
    n.index_.clear();
    n.last_ = nullptr;
  };
  take(*root_);
  root_->attachment.reset();
  while (!doomed.empty()) {
    auto n = std::move(doomed.back());
    doomed.pop_back();
    take(*n);
  }
  size_ = 0;
}

namespace {

/// Runs one record in a graph.
std::vector<ValueId> emit(Graph& g, const Recipe* recipe, const Call* call, std::span<const ValueId> operands,
                          Params params, const Loc& loc, std::uint32_t remat) {
  Emit e(g, loc, remat);
  if (call) return e.b().inline_graph(*call->graph, operands);
  return recipe->build(e, operands, params);
}

std::vector<TypePtr> infer(const Recipe* recipe, const Call* call, std::span<const TypePtr> operands, Params params,
                           const Loc& loc) {
  Graph g;
  GraphBuilder b(g);
  std::vector<ValueId> in;
  for (const TypePtr& t : operands) in.push_back(b.input("in" + std::to_string(in.size()), t->type));
  std::vector<TypePtr> types;
  for (ValueId v : emit(g, recipe, call, in, params, loc, 0)) types.push_back(TypeInfo::make(g.type(v)));
  return types;
}

}  // namespace

std::vector<TypePtr> infer(const Recipe& recipe, std::span<const TypePtr> operands, Params params, const Loc& loc) {
  return infer(&recipe, nullptr, operands, params, loc);
}

TrieNode* Trie::grow(TrieNode* at, const Record& r, std::span<const TypePtr> operand_types, Loc loc,
                     std::shared_ptr<const Call> call) {
  auto node = std::make_unique<TrieNode>();
  node->parent = at;
  node->recipe = r.recipe;
  node->call = std::move(call);
  node->operands.assign(r.operands.begin(), r.operands.end());
  node->params.assign(r.params.begin(), r.params.end());
  node->remat = r.remat;
  node->first_value = at->first_value + static_cast<std::uint32_t>(at->results.size());
  node->depth = at->depth + 1;
  node->loc = std::move(loc);
  if (r.input)
    node->results = {*r.input};
  else
    node->results = infer(r.recipe, node->call.get(), operand_types, r.params, node->loc);
  TrieNode* child = node.get();
  at->children_.push_back(std::move(node));
  if (at->children_.size() > few) {
    if (at->index_.empty())
      for (auto& c : at->children_) {
        Record of{c->recipe, c->call.get(), c->operands, c->params, c->is_input() ? &c->results[0] : nullptr, c->remat};
        at->index_.emplace(hash_of(of), c.get());
      }
    else
      at->index_.emplace(hash_of(r), child);
  }
  ++size_;
  return at->last_ = child;
}

Graph graph_of(const TrieNode& end, std::span<const std::uint32_t> outputs) {
  std::vector<const TrieNode*> path;
  for (const TrieNode* n = &end; n->parent; n = n->parent) path.push_back(n);
  std::reverse(path.begin(), path.end());
  Graph g;
  g.name = "recorded";
  GraphBuilder b(g);
  std::vector<ValueId> values;
  for (const TrieNode* n : path) {
    if (n->is_input()) {
      values.push_back(b.input("in" + std::to_string(g.inputs.size()), n->results[0]->type, n->loc));
      continue;
    }
    std::vector<ValueId> in;
    for (std::uint32_t o : n->operands) in.push_back(values[o]);
    for (ValueId v : emit(g, n->recipe, n->call.get(), in, n->params, n->loc, n->remat)) values.push_back(v);
  }
  for (std::uint32_t o : outputs)
    g.outputs.push_back({"out" + std::to_string(g.outputs.size()), values[o], g.loc(values[o])});
  return g;
}

}  // namespace ag::rec
