// The graph behind ag::Graph.
#pragma once
#include "ir/graph.hpp"
#include "runtime/api/public.hpp"

namespace ag::api {

struct Graph::Impl {
  ag::Graph graph;
};

}  // namespace ag::api
