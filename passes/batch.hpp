// Batching (vmap): Graph -> Graph, the same function on many members at once.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

/// The graph for a batch of `size` members: the inputs that `batched` names (one entry per input) get an axis in
/// front, the others serve all members; every output has the axis in front. Gradient requests are dropped. AG3010 where
/// members would give results of different sizes.
///
/// An op without a batching rule of its own becomes a Scan over the members.
/// A Loop whose members stop at different times runs until the last one has stopped; a member that has stopped keeps
/// its values. Both branches of an If run where its predicate differs from member to member.
Result<Graph> batch(const Graph& g, const std::vector<bool>& batched, const Dim& size);

}  // namespace ag::passes
