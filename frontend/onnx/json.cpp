// The two codecs are driven by one table of the messages in onnx.proto: protobuf-lite knows no names of fields.
#include "frontend/onnx/json.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <span>

#include <fmt/format.h>

#include "ir/base/suggest.hpp"
#include "ir/base/utf8.hpp"
#include "ir/text.hpp"

namespace ag::onnx {
namespace {

using json::View;

enum class Kind : std::uint8_t { i64, i32, u64, f32, f64, text, bytes, word, message };
enum Message : std::uint8_t {
  model,
  graph,
  node,
  attribute,
  tensor,
  segment,
  sparse,
  shape,
  dimension,
  type,
  tensor_type,
  sequence,
  map_type,
  optional_type,
  value_info,
  function,
  opset,
  entry
};
struct Field {
  int number;
  std::string_view name;  ///< as in onnx.proto
  Kind kind;
  bool repeated = false;
  Message of = model;                            ///< of a message
  std::span<const std::string_view> words = {};  ///< of an enum, by value
};

constexpr std::string_view attribute_types[] = {
    "UNDEFINED", "FLOAT",   "INT",    "STRING",        "TENSOR",         "GRAPH",      "FLOATS",     "INTS",
    "STRINGS",   "TENSORS", "GRAPHS", "SPARSE_TENSOR", "SPARSE_TENSORS", "TYPE_PROTO", "TYPE_PROTOS"};
constexpr std::string_view locations[] = {"DEFAULT", "EXTERNAL"};

constexpr Field model_fields[] = {{1, "ir_version", Kind::i64},
                                  {2, "producer_name", Kind::text},
                                  {3, "producer_version", Kind::text},
                                  {4, "domain", Kind::text},
                                  {5, "model_version", Kind::i64},
                                  {6, "doc_string", Kind::text},
                                  {7, "graph", Kind::message, false, graph},
                                  {8, "opset_import", Kind::message, true, opset},
                                  {14, "metadata_props", Kind::message, true, entry},
                                  {25, "functions", Kind::message, true, function}};
constexpr Field graph_fields[] = {{1, "node", Kind::message, true, node},
                                  {2, "name", Kind::text},
                                  {5, "initializer", Kind::message, true, tensor},
                                  {10, "doc_string", Kind::text},
                                  {11, "input", Kind::message, true, value_info},
                                  {12, "output", Kind::message, true, value_info},
                                  {13, "value_info", Kind::message, true, value_info},
                                  {15, "sparse_initializer", Kind::message, true, sparse},
                                  {16, "metadata_props", Kind::message, true, entry}};
constexpr Field node_fields[] = {{1, "input", Kind::text, true},
                                 {2, "output", Kind::text, true},
                                 {3, "name", Kind::text},
                                 {4, "op_type", Kind::text},
                                 {5, "attribute", Kind::message, true, attribute},
                                 {6, "doc_string", Kind::text},
                                 {7, "domain", Kind::text},
                                 {8, "overload", Kind::text},
                                 {9, "metadata_props", Kind::message, true, entry}};
constexpr Field attribute_fields[] = {{1, "name", Kind::text},
                                      {2, "f", Kind::f32},
                                      {3, "i", Kind::i64},
                                      {4, "s", Kind::bytes},
                                      {5, "t", Kind::message, false, tensor},
                                      {6, "g", Kind::message, false, graph},
                                      {7, "floats", Kind::f32, true},
                                      {8, "ints", Kind::i64, true},
                                      {9, "strings", Kind::bytes, true},
                                      {10, "tensors", Kind::message, true, tensor},
                                      {11, "graphs", Kind::message, true, graph},
                                      {13, "doc_string", Kind::text},
                                      {14, "tp", Kind::message, false, type},
                                      {15, "type_protos", Kind::message, true, type},
                                      {20, "type", Kind::word, false, model, attribute_types},
                                      {21, "ref_attr_name", Kind::text},
                                      {22, "sparse_tensor", Kind::message, false, sparse}};
constexpr Field tensor_fields[] = {{1, "dims", Kind::i64, true},
                                   {2, "data_type", Kind::i32},
                                   {3, "segment", Kind::message, false, segment},
                                   {4, "float_data", Kind::f32, true},
                                   {5, "int32_data", Kind::i32, true},
                                   {6, "string_data", Kind::bytes, true},
                                   {7, "int64_data", Kind::i64, true},
                                   {8, "name", Kind::text},
                                   {9, "raw_data", Kind::bytes},
                                   {10, "double_data", Kind::f64, true},
                                   {11, "uint64_data", Kind::u64, true},
                                   {12, "doc_string", Kind::text},
                                   {13, "external_data", Kind::message, true, entry},
                                   {14, "data_location", Kind::word, false, model, locations}};
constexpr Field segment_fields[] = {{1, "begin", Kind::i64}, {2, "end", Kind::i64}};
constexpr Field sparse_fields[] = {{1, "values", Kind::message, false, tensor},
                                   {2, "indices", Kind::message, false, tensor},
                                   {3, "dims", Kind::i64, true}};
constexpr Field shape_fields[] = {{1, "dim", Kind::message, true, dimension}};
constexpr Field dimension_fields[] = {
    {1, "dim_value", Kind::i64}, {2, "dim_param", Kind::text}, {3, "denotation", Kind::text}};
constexpr Field type_fields[] = {{1, "tensor_type", Kind::message, false, tensor_type},
                                 {4, "sequence_type", Kind::message, false, sequence},
                                 {5, "map_type", Kind::message, false, map_type},
                                 {6, "denotation", Kind::text},
                                 {8, "sparse_tensor_type", Kind::message, false, tensor_type},
                                 {9, "optional_type", Kind::message, false, optional_type}};
constexpr Field tensor_type_fields[] = {{1, "elem_type", Kind::i32}, {2, "shape", Kind::message, false, shape}};
constexpr Field sequence_fields[] = {{1, "elem_type", Kind::message, false, type}};
constexpr Field map_fields[] = {{1, "key_type", Kind::i32}, {2, "value_type", Kind::message, false, type}};
constexpr Field value_info_fields[] = {
    {1, "name", Kind::text}, {2, "type", Kind::message, false, type}, {3, "doc_string", Kind::text}};
constexpr Field function_fields[] = {{1, "name", Kind::text},
                                     {4, "input", Kind::text, true},
                                     {5, "output", Kind::text, true},
                                     {6, "attribute", Kind::text, true},
                                     {7, "node", Kind::message, true, node},
                                     {8, "doc_string", Kind::text},
                                     {9, "opset_import", Kind::message, true, opset},
                                     {10, "domain", Kind::text},
                                     {11, "attribute_proto", Kind::message, true, attribute},
                                     {12, "value_info", Kind::message, true, value_info},
                                     {13, "overload", Kind::text}};
constexpr Field opset_fields[] = {{1, "domain", Kind::text}, {2, "version", Kind::i64}};
constexpr Field entry_fields[] = {{1, "key", Kind::text}, {2, "value", Kind::text}};

struct Layout {
  std::string_view name;
  std::span<const Field> fields;
};
/// In the order of Message.
constexpr Layout layouts[] = {{"model", model_fields},
                              {"graph", graph_fields},
                              {"node", node_fields},
                              {"attribute", attribute_fields},
                              {"tensor", tensor_fields},
                              {"segment", segment_fields},
                              {"sparse tensor", sparse_fields},
                              {"shape", shape_fields},
                              {"dim", dimension_fields},
                              {"type", type_fields},
                              {"tensor type", tensor_type_fields},
                              {"sequence type", sequence_fields},
                              {"map type", map_fields},
                              {"optional type", sequence_fields},
                              {"value", value_info_fields},
                              {"function", function_fields},
                              {"opset", opset_fields},
                              {"entry", entry_fields}};

/// "rawData" of "raw_data".
std::string camel(std::string_view snake) {
  std::string out;
  for (std::size_t i = 0; i < snake.size(); ++i) {
    if (snake[i] != '_')
      out += snake[i];
    else if (++i < snake.size())
      out += static_cast<char>(snake[i] - 'a' + 'A');
  }
  return out;
}

// ---- Bytes ---------------------------------------------------------------------------------------------------

void put_varint(std::string& out, std::uint64_t v) {
  for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
  out += static_cast<char>(v);
}
void put_tag(std::string& out, int number, unsigned wire) {
  put_varint(out, static_cast<std::uint64_t>(number) << 3 | wire);
}
template <class T>
void put_raw(std::string& out, T v) {
  char bytes[sizeof v];
  std::memcpy(bytes, &v, sizeof v);
  out.append(bytes, sizeof v);
}
// ---- JSON to bytes -------------------------------------------------------------------------------------------

class Encoder {
 public:
  explicit Encoder(Places* places) : places_(places) {}

  Result<std::string> message(View v, Message m, const std::string& path) {
    if (!v.is(json::Kind::object))
      return fail(Code::AG0014, v.loc(),
                  fmt::format("a {} is an object, and this is {}", layouts[m].name, json::kind_name(v.kind())));
    std::string out;
    for (View member : v) {
      const Field* f = find(m, member.key());
      if (!f) return fail(unknown(member, m));
      if (member.is(json::Kind::null)) continue;
      if (f->repeated != member.is(json::Kind::array))
        return fail(Code::AG0014, member.loc(),
                    fmt::format("`{}` is {}, and this is {}", member.key(), f->repeated ? "an array" : "no array",
                                json::kind_name(member.kind())));
      if (!f->repeated) {
        AG_TRY_(field(out, *f, member, path, 0));
        continue;
      }
      int i = 0;
      for (View item : member) AG_TRY_(field(out, *f, item, path, i++));
    }
    return out;
  }

 private:
  static const Field* find(Message m, std::string_view key) {
    for (const Field& f : layouts[m].fields)
      if (f.name == key || camel(f.name) == key) return &f;
    return nullptr;
  }
  static Diag unknown(View member, Message m) {
    Diag d = error(Code::AG0013, member.key_loc(),
                   fmt::format("a {} of ONNX has no member `{}`", layouts[m].name, member.key()), "unknown key");
    std::vector<std::string> names;
    for (const Field& f : layouts[m].fields) names.push_back(camel(f.name));
    if (auto near = suggest(member.key(), names))
      d.help(fmt::format("a member with a similar name exists: `{}`", *near), member.key_loc(), json::quote(*near));
    return d;
  }

  Status field(std::string& out, const Field& f, View v, const std::string& path, int index) {
    auto wrong = [&](std::string_view what) {
      return fail(Code::AG0014, v.loc(), fmt::format("`{}` is {}, and this is {}", camel(f.name), what, v.spelling()));
    };
    switch (f.kind) {
      case Kind::message: {
        std::string inner = child_path(path, f, v, index);
        AG_TRY(std::string bytes, message(v, f.of, inner));
        put_tag(out, f.number, 2);
        put_varint(out, bytes.size());
        out += bytes;
        return {};
      }
      case Kind::text:
      case Kind::bytes: {
        if (!v.is(json::Kind::string)) return wrong("a string");
        std::optional<std::string> s;
        if (f.kind == Kind::text)
          s = v.str();
        else if (auto bytes = ag::text::from_base64(v.str()))
          s.emplace(reinterpret_cast<const char*>(bytes->data()), bytes->size());
        if (!s) return wrong("base64");
        put_tag(out, f.number, 2);
        put_varint(out, s->size());
        out += *s;
        return {};
      }
      case Kind::f32:
      case Kind::f64: {
        auto d = number(v);
        if (!d) return wrong("a number");
        put_tag(out, f.number, f.kind == Kind::f32 ? 5 : 1);
        if (f.kind == Kind::f32)
          put_raw(out, static_cast<float>(*d));
        else
          put_raw(out, *d);
        return {};
      }
      case Kind::word: {
        auto n = integer(v);
        if (v.is(json::Kind::string) && !n) {
          auto it = std::ranges::find(f.words, v.str());
          if (it == f.words.end()) return wrong("one of a few words");
          n = static_cast<std::uint64_t>(it - f.words.begin());
        }
        if (!n) return wrong("a word");
        put_tag(out, f.number, 0);
        put_varint(out, *n);
        return {};
      }
      case Kind::i64:
      case Kind::i32:
      case Kind::u64: {
        auto n = integer(v);
        if (!n) return wrong("an integer");
        put_tag(out, f.number, 0);
        put_varint(out, *n);
        return {};
      }
    }
    return {};
  }

  /// Integers as numbers or as strings, which is how protobuf writes those of 64 bits.
  static std::optional<std::uint64_t> integer(View v) {
    if (v.is(json::Kind::integer)) {
      if (auto i = v.as_int()) return static_cast<std::uint64_t>(*i);
      return v.as_uint();
    }
    if (!v.is(json::Kind::string)) return std::nullopt;
    std::string_view s = v.str();
    std::int64_t i = 0;
    std::uint64_t u = 0;
    const char* end = s.data() + s.size();
    if (auto r = std::from_chars(s.data(), end, i); r.ec == std::errc() && r.ptr == end && !s.empty())
      return static_cast<std::uint64_t>(i);
    if (auto r = std::from_chars(s.data(), end, u); r.ec == std::errc() && r.ptr == end && !s.empty()) return u;
    return std::nullopt;
  }
  static std::optional<double> number(View v) {
    if (v.is_numeric()) return v.as_double();
    if (!v.is(json::Kind::string)) return std::nullopt;
    if (v.str() == "NaN") return std::numeric_limits<double>::quiet_NaN();
    if (v.str() == "Infinity") return std::numeric_limits<double>::infinity();
    if (v.str() == "-Infinity") return -std::numeric_limits<double>::infinity();
    return std::nullopt;
  }

  /// The paths that the importer makes: see node_path() and its places of inputs, outputs and initializers.
  std::string child_path(const std::string& path, const Field& f, View v, int index) {
    if (!places_) return {};
    auto text = [&](std::string_view snake) {
      View found = v.find(snake) ? v.find(snake) : v.find(camel(snake));
      return found.is(json::Kind::string) ? std::string(found.str()) : std::string();
    };
    if (f.of == attribute) return fmt::format("{}.{}", path, text("name"));
    if (f.name == "g" || f.name == "graphs") return path;
    std::string out = path.empty() ? std::string(f.name) : fmt::format("{}.{}", path, f.name);
    if (f.repeated) out += fmt::format("[{}]", index);
    std::string name = text("name");
    if (f.of == node && name.empty()) name = fmt::format("({})", text("op_type"));
    if (!name.empty() && f.repeated && f.of != function) out += " " + name;
    places_->emplace(out, v.loc());
    return out;
  }

  Places* places_;
};

// ---- Bytes to JSON: of messages that we have written ------------------------------------------------------------

class Decoder {
 public:
  Result<std::string> message(std::string_view bytes, Message m, int indent) {
    std::map<int, std::vector<std::string>> values;
    while (!bytes.empty()) {
      AG_TRY(std::uint64_t tag, varint(bytes));
      const Field* f = nullptr;
      for (const Field& candidate : layouts[m].fields)
        if (static_cast<std::uint64_t>(candidate.number) == tag >> 3) f = &candidate;
      AG_TRY(std::string_view content, take(bytes, static_cast<unsigned>(tag & 7)));
      if (f) AG_TRY_(field(*f, static_cast<unsigned>(tag & 7), content, indent, values[f->number]));
    }
    std::string out, pad(static_cast<std::size_t>(indent + 2), ' ');
    for (const Field& f : layouts[m].fields) {
      auto it = values.find(f.number);
      if (it == values.end()) continue;
      out += fmt::format("{}\n{}\"{}\": ", out.empty() ? "" : ",", pad, camel(f.name));
      if (!f.repeated) {
        out += it->second.back();
        continue;
      }
      out += '[';
      for (std::size_t i = 0; i < it->second.size(); ++i) out += (i ? ", " : "") + it->second[i];
      out += ']';
    }
    return out.empty() ? "{}" : fmt::format("{{{}\n{}}}", out, std::string(static_cast<std::size_t>(indent), ' '));
  }

 private:
  static std::unexpected<Diags> broken() { return fail(Code::AG0021, {}, "the bytes are no ONNX model"); }

  static Result<std::uint64_t> varint(std::string_view& bytes) {
    std::uint64_t v = 0;
    for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
      auto byte = static_cast<unsigned char>(bytes.front());
      bytes.remove_prefix(1);
      v |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return v;
    }
    return broken();
  }
  /// The bytes of one field: those of a varint, of a number, or of what has a length.
  static Result<std::string_view> take(std::string_view& bytes, unsigned wire) {
    std::size_t n = wire == 1 ? 8 : wire == 5 ? 4 : 0;
    if (wire == 0) {
      std::string_view start = bytes;
      AG_TRY([[maybe_unused]] std::uint64_t value, varint(bytes));
      return start.substr(0, start.size() - bytes.size());
    }
    if (wire == 2) {
      AG_TRY(std::uint64_t length, varint(bytes));
      n = static_cast<std::size_t>(length);
    } else if (n == 0) {
      return broken();
    }
    if (n > bytes.size()) return broken();
    std::string_view out = bytes.substr(0, n);
    bytes.remove_prefix(n);
    return out;
  }

  Status field(const Field& f, unsigned wire, std::string_view content, int indent, std::vector<std::string>& out) {
    if (f.kind == Kind::message) {
      AG_TRY(std::string text, message(content, f.of, indent + 2));
      out.push_back(std::move(text));
      return {};
    }
    if (f.kind == Kind::text || f.kind == Kind::bytes) {
      out.push_back(json::quote(f.kind == Kind::text ? std::string(content)
                                                     : ag::text::base64(std::as_bytes(std::span(content)))));
      return {};
    }
    // Numbers stand alone or packed.
    do {
      if (f.kind == Kind::f32 || f.kind == Kind::f64) {
        std::size_t width = f.kind == Kind::f32 ? 4 : 8;
        if (content.size() < width) return broken();
        out.push_back(f.kind == Kind::f32 ? real<float>(content) : real<double>(content));
        content.remove_prefix(width);
      } else {
        AG_TRY(std::uint64_t v, varint(content));
        out.push_back(integer(f, v));
      }
    } while (wire == 2 && !content.empty());
    return {};
  }

  static std::string integer(const Field& f, std::uint64_t v) {
    switch (f.kind) {
      case Kind::i32: return std::to_string(static_cast<std::int32_t>(v));
      case Kind::u64: return fmt::format("\"{}\"", v);
      case Kind::word: return v < f.words.size() ? json::quote(f.words[v]) : std::to_string(v);
      default: return fmt::format("\"{}\"", static_cast<std::int64_t>(v));
    }
  }
  template <class T>
  static std::string real(std::string_view bytes) {
    T v;
    std::memcpy(&v, bytes.data(), sizeof v);
    if (v != v) return "\"NaN\"";
    if (v == std::numeric_limits<T>::infinity()) return "\"Infinity\"";
    if (v == -std::numeric_limits<T>::infinity()) return "\"-Infinity\"";
    return fmt::format("{}", v);
  }
};

}  // namespace

Result<std::string> model_from_json(const json::Document& doc, Places* places) {
  return Encoder(places).message(doc.root(), model, "");
}

Result<std::string> model_to_json(std::string_view bytes) {
  AG_TRY(std::string text, Decoder().message(bytes, model, 0));
  return text + "\n";
}

}  // namespace ag::onnx
