// Every op of the table with every sample: what the machine-made tests walk over.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "ir/op.hpp"

namespace ag::test {

struct Case {
  const OpInfo* op;
  OpSample sample;
  std::string label;  ///< "tanh #2 f32[2,3]"
};

inline void name_case(Case& c, std::size_t number) {
  c.label = std::string(c.op->name) + " #" + std::to_string(number);
  for (const auto& o : c.sample.operands) c.label += " " + o.type.str();
}

inline DTypeSet dtypes_of(const OpInfo& op) { return op.operands.empty() ? any_dtype : op.operands[0].dtypes; }

/// Shapes for an elementwise op: equal, broadcast, scalar, empty; in each dtype that it takes.
inline std::vector<OpSample> elementwise_samples(const OpInfo& op) {
  std::vector<std::vector<Dims>> shapes = {{{2, 3}, {2, 3}}, {{3}, {2, 1}}, {{}, {}}, {{0, 2}, {2}}};
  std::vector<OpSample> out;
  for (int i = 0; i < dtype_count; ++i) {
    auto t = static_cast<DType>(i);
    if (!dtypes_of(op).has(t)) continue;
    for (const auto& s : shapes) {
      OpSample sample;
      double low = op.low, high = op.high;
      if (is_int(t)) low = op.low > 0 ? 1 : is_unsigned_int(t) ? 0 : -9, high = op.low > 0 ? 5 : 9;
      for (std::size_t k = 0; k < op.operands.size(); ++k)
        sample.operands.push_back({{t, s[k % s.size()]}, nullptr, low, high});
      out.push_back(std::move(sample));
    }
  }
  return out;
}

inline std::vector<Case> all_cases() {
  std::vector<Case> out;
  for (const OpInfo& op : op_table().all()) {
    std::vector<OpSample> samples;
    if (op.samples)
      samples = op.samples();
    else if (op.lower_class == LowerClass::map)
      samples = elementwise_samples(op);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      out.push_back({&op, std::move(samples[i]), {}});
      name_case(out.back(), i);
    }
  }
  return out;
}

/// SplitMix64: the same numbers everywhere.
class Random {
 public:
  explicit Random(std::string_view seed) {
    for (char c : seed) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  }
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  double uniform(double low, double high) { return low + (high - low) * (static_cast<double>(bits() >> 11) * 0x1p-53); }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325ull;
};

inline std::vector<std::int64_t> sizes(const Type& t) { return *static_shape(t.shape); }

inline bool is_static(const Type& t) { return static_shape(t.shape).has_value(); }
/// Numbers for a value whose size only the data knows: 0.5, 0.625, ... along the first axis.
inline ValueId ramp_like(GraphBuilder& b, const Type& t) { return b.add(b.mul(b.iota(t, 0), 0.125), 0.5); }

inline Array random_array(const Type& t, double low, double high, Random& r) {
  Array a(t.dtype, sizes(t));
  for (std::int64_t i = 0; i < a.elems(); ++i) {
    if (t.dtype == DType::boolean)
      a.set_int(i, static_cast<std::int64_t>(r.bits() & 1));
    else if (is_int(t.dtype))
      a.set_int(i, static_cast<std::int64_t>(std::floor(r.uniform(std::ceil(low), std::floor(high) + 1))));
    else
      a.set_double(i, r.uniform(low, high));
  }
  return a;
}

/// A graph of the one node; operands that are not literals are inputs, all results are outputs.
struct Built {
  Graph graph;
  NodeId node;
  std::vector<ValueId> inputs;
  std::vector<Array> values;  ///< random, one per input
};

inline Result<Built> build(const Case& c) {
  Built out;
  GraphBuilder b(out.graph);
  GraphBuilder::NodeArgs args;
  Random random(c.label);
  for (std::size_t i = 0; i < c.sample.operands.size(); ++i) {
    const auto& o = c.sample.operands[i];
    if (o.literal) {
      args.operands.push_back(b.constant(o.literal));
      continue;
    }
    args.operands.push_back(b.input("x" + std::to_string(i), o.type));
    out.inputs.push_back(args.operands.back());
    out.values.push_back(random_array(o.type, o.low, o.high, random));
  }
  args.attrs = c.sample.attrs;
  AG_TRY(out.node, b.try_add(*c.op, std::move(args)));
  const Node& n = out.graph.node(out.node);
  for (std::uint32_t r = 0; r < n.result_count; ++r)
    out.graph.outputs.push_back({"y" + std::to_string(r), n.result(r), {}});
  return out;
}

inline std::string messages(const Diags& diags) {
  std::string out;
  for (const Diag& d : diags) out += code_name(d.code) + ": " + d.message + "\n";
  return out;
}

}  // namespace ag::test
