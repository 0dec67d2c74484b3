// What a compilation can depend on of a graph, as a hash, and what it may refer to: constants and places.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "ir/graph.hpp"

namespace ag {

struct GraphSurvey {
  /// Of structure, types, attributes, names, places (but for the names of files) and the values of all constants. Equal
  /// digests: the same program, to the bit.
  std::string digest;
  std::vector<LiteralPtr> literals;  ///< all constants and tensor attributes, regions' included, each once
  std::vector<Loc> places;  ///< each once, likewise
  double contents_ms = 0;  ///< time that reading the constants took
};

/// Large constants are read on up to `threads` threads.
GraphSurvey survey(const Graph& graph, int threads);

/// Where places stand in GraphSurvey::places.
class PlaceIndex {
 public:
  explicit PlaceIndex(const std::vector<Loc>& places);
  /// 1 + the index; 0 if it is none of them.
  std::size_t find(const Loc& place) const;

 private:
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace ag
