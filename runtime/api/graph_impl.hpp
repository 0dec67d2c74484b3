// The graph behind ag::Graph.
#pragma once
#include "ir/graph.hpp"
#include "runtime/api/public.hpp"
#include "runtime/api/session.hpp"

namespace ag::api {

struct Graph::Impl {
  ag::Graph graph;
};

Port port_of(const std::string& name, const Type& t);
/// The array of a view, its shape taken from the port where the caller gave none.
runtime::HostArray host_array(const View& v, const Port& port, const Type& type, bool output);
/// The input that the random numbers of a traced graph follow from: the generator of the calling thread's session
/// gives it where the caller does not.
struct Generator {
  std::optional<std::size_t> input;
  std::uint64_t draws = 0;  ///< of a run

  static Generator of(const ag::Graph& g, const std::vector<Port>& inputs);
  std::uint64_t next_key() const { return lazy::Session::current().next_key(draws); }
};
/// A place for the key of a run.
struct Key {
  std::optional<std::size_t> input;
  std::uint64_t* memory;
  bool drawn = false;  ///< out: the caller gave none

  runtime::HostArray array() const { return {ag::DType::u64, {}, memory, sizeof *memory}; }
};
/// An array for each port, in order, from what was given by name. Throws for one that is missing or unknown.
void settle(const Bindings& given, const std::vector<Port>& ports, const std::vector<Type>& types, bool output,
            std::vector<runtime::HostArray>& arrays, Key* key = nullptr);
/// The same for inputs given in order.
void settle(const Tensors& given, const std::vector<Port>& ports, const std::vector<Type>& types,
            std::vector<runtime::HostArray>& arrays, Key& key);

/// Runs f; anything that is not an Error becomes one.
template <class F>
auto guarded(F f) {
  try {
    return f();
  } catch (const rec::Rejected& r) {
    lazy::raise(r.diags);
  } catch (const InternalError& e) {
    lazy::raise(Code::AG9001, e.message + " (" + e.file + ":" + std::to_string(e.line) + ")", {});
  }
}

}  // namespace ag::api
