// Random ops inside loops draw new numbers in every trip: their keys are made to follow from the trip numbers of all
// loops around them.
#pragma once
#include "ir/graph.hpp"

namespace ag {

/// The graph with a key operand at every random op of a loop body that has none (ir/ops/random.cpp): Loop gives its
/// trip number, a Scan gains a sequence 0, 1, ... for it, and inner regions capture the key of those around them. A
/// graph without random ops in regions comes back as it is. For importers and tracers, once a graph is complete.
Graph with_random_keys(Graph graph);

/// For a graph that is run again and again, as a training step is: a last input `name`, i64[], the number of the run,
/// from which the keys of all its random ops follow that have none. A graph without such ops comes back as it is.
Graph with_run_keys(Graph graph, const std::string& name);

}  // namespace ag
