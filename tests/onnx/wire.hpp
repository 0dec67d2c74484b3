// ONNX messages by hand, byte for byte: what no writer would write.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace wire {

inline std::string varint(std::uint64_t v) {
  std::string out;
  for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
  return out += static_cast<char>(v);
}
/// An integer field.
inline std::string num(int field, std::int64_t v) {
  return varint(static_cast<std::uint64_t>(field) << 3) + varint(static_cast<std::uint64_t>(v));
}
/// A string, bytes or message field.
inline std::string str(int field, std::string_view v) {
  return varint(static_cast<std::uint64_t>(field) << 3 | 2) + varint(v.size()) + std::string(v);
}

inline std::string entry(std::string_view key, std::string_view value) { return str(1, key) + str(2, value); }

// TensorProto: dims 1, data_type 2, raw_data 9, name 8, external_data 13, data_location 14.
inline std::string tensor(std::string_view name, std::vector<std::int64_t> dims, int type, std::string_view raw) {
  std::string out;
  for (std::int64_t d : dims) out += num(1, d);
  return out + num(2, type) + str(8, name) + (raw.empty() ? "" : str(9, raw));
}
inline std::string external(std::string_view name, std::vector<std::int64_t> dims,
                            std::vector<std::pair<std::string, std::string>> entries) {
  std::string out = tensor(name, std::move(dims), 1, "");
  for (const auto& [k, v] : entries) out += str(13, entry(k, v));
  return out + num(14, 1);
}

// ValueInfoProto of a tensor; a dim below zero is left open.
inline std::string value(std::string_view name, int type, std::vector<std::int64_t> dims) {
  std::string shape;
  for (std::int64_t d : dims) shape += str(1, d == -1 ? std::string() : num(1, d));
  return str(1, name) + str(2, str(1, num(1, type) + str(2, shape)));
}

// NodeProto: input 1, output 2, name 3, op_type 4, attribute 5, domain 7.
inline std::string node(std::string_view op, std::vector<std::string> in, std::vector<std::string> out,
                        std::string_view more = {}) {
  std::string n;
  for (const std::string& i : in) n += str(1, i);
  for (const std::string& o : out) n += str(2, o);
  return n + str(4, op) + std::string(more);
}
/// An attribute that is a graph.
inline std::string graph_attribute(std::string_view name, std::string_view graph) {
  return str(5, str(1, name) + str(6, graph) + num(20, 5));
}

/// A model of a graph's fields; `more` are fields of the model.
inline std::string model(std::string_view graph, int opset = 21, std::string_view more = {}) {
  return num(1, 10) + str(7, graph) + str(8, num(2, opset)) + std::string(more);
}

/// FunctionProto `name` of the domain "local" with input x and output y.
inline std::string function(std::string_view name, std::vector<std::string> nodes) {
  std::string body;
  for (const std::string& n : nodes) body += str(7, n);
  return str(1, name) + str(4, "x") + str(5, "y") + body + str(9, num(2, 21)) + str(9, str(1, "local") + num(2, 1)) +
         str(10, "local");
}
inline std::string call(std::string_view name, std::string_view in, std::string_view out) {
  return node(name, {std::string(in)}, {std::string(out)}, str(7, "local"));
}

/// x: f32[2], y = f(x), as fields of a graph.
inline std::string graph_of(std::string_view nodes, std::string_view more = {}) {
  return std::string(nodes) + str(2, "g") + std::string(more) + str(11, value("x", 1, {2})) +
         str(12, value("y", 1, {2}));
}

}  // namespace wire
