// Reads the text form of graphs; the grammar stands in ir/print.cpp. The text is not trusted: every node goes through
// the builder's checks, sizes are checked before anything is allocated, regions nest at most 64 deep.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "ir/base/sha256.hpp"
#include "ir/base/suggest.hpp"
#include "ir/op.hpp"
#include "ir/text.hpp"

namespace ag {
namespace {

constexpr int max_depth = 64;
using text::Cursor;

class Parser {
 public:
  Parser(std::string_view text, std::string file, std::string resources)
      : c_(text, std::move(file)), resources_(std::move(resources)) {}

  Result<Graph> file() {
    if (!c_.accept_word("ag.ir"))
      return c_.error(Code::AG0301, "this is no text of ag: it does not begin with `ag.ir 1`");
    AG_TRY(std::int64_t version, c_.integer(0, 1 << 20));
    if (version != 1)
      return c_.error(Code::AG0301,
                      fmt::format("version {} of the text form is not known; this is version 1", version));
    Graph g;
    AG_TRY_(header(g));
    if (c_.accept_word("elided"))
      return c_.error(Code::AG0304, "this text was printed without its weights, so it cannot be read");
    AG_TRY_(c_.expect_word("graph"));
    AG_TRY_(body(g, 0));
    if (!c_.at_end()) return c_.expected("the end of the text");
    AG_TRY_(verify(g));
    return g;
  }

 private:
  Cursor c_;
  std::string resources_;

  Status header(Graph& g) {
    constexpr std::int64_t most = 1 << 20;
    if (c_.accept_word("stage")) {
      AG_TRY_(c_.expect('='));
      AG_TRY(g.stage, c_.word_or_string("a stage"));
    }
    if (c_.accept_word("opset")) {
      AG_TRY_(c_.expect('='));
      AG_TRY(g.opset, c_.integer(0, most));
    }
    if (c_.accept_word("ag")) {
      AG_TRY_(c_.expect('='));
      AG_TRY(g.ag_opset, c_.integer(0, most));
    }
    return {};
  }

  Result<std::vector<Loc>> places() {
    std::vector<Loc> out;
    while (c_.peek() == '@') {
      AG_TRY(Loc l, c_.place());
      out.push_back(std::move(l));
    }
    return out;
  }
  Result<Loc> place() {
    if (c_.peek() != '@') return Loc{};
    return c_.place();
  }

  Status body(Graph& g, int depth) {
    if (depth > max_depth)
      return c_.error(Code::AG1108, fmt::format("regions are nested more than {} deep", max_depth));
    if (c_.accept('@')) {
      AG_TRY(g.name, c_.word_or_string("a name"));
    }
    AG_TRY_(c_.expect('{'));
    GraphBuilder b(g);
    while (!c_.accept_word("return")) {
      if (c_.peek() == '%')
        AG_TRY_(node(b, depth));
      else if (c_.accept_word("symbol"))
        AG_TRY_(symbol(g));
      else if (c_.accept_word("extra"))
        AG_TRY_(extra(g.extras));
      else if (c_.accept_word("inputs"))
        AG_TRY_(inputs(g));
      else if (c_.accept_word("grad"))
        AG_TRY_(grad_request(g));
      else
        return c_.expected("a node or `return`");
    }
    while (!c_.accept('}')) {
      if (!g.outputs.empty()) AG_TRY_(c_.expect(','));
      Output o;
      if (c_.peek() == '"') {
        AG_TRY(o.name, c_.string());
      }
      AG_TRY(o.value, operand(g));
      AG_TRY(o.loc, place());
      g.outputs.push_back(std::move(o));
    }
    return {};
  }

  Status symbol(Graph& g) {
    SymbolInfo s;
    AG_TRY(s.name, c_.word_or_string("a symbol"));
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    if (c_.accept_word("min")) {
      AG_TRY(s.min, c_.integer(-most - 1, most));
    }
    if (c_.accept_word("max")) {
      AG_TRY(s.max, c_.integer(-most - 1, most));
    }
    if (c_.accept_word("multiple_of")) {
      AG_TRY(s.multiple_of, c_.integer(-most - 1, most));
    }
    AG_TRY(s.loc, place());
    g.symbols.push_back(std::move(s));
    return {};
  }

  Status extra(std::vector<std::pair<std::string, std::string>>& list) {
    AG_TRY(std::string key, c_.string());
    AG_TRY(std::string json, c_.string());
    list.emplace_back(std::move(key), std::move(json));
    return {};
  }

  Status inputs(Graph& g) {
    g.inputs.clear();
    while (c_.peek() == '%') {
      AG_TRY(ValueId v, operand(g));
      g.inputs.push_back(v);
      if (!c_.accept(',')) break;
    }
    return {};
  }

  Status named(std::vector<std::string>& list, std::vector<Loc>& locs) {
    do {
      AG_TRY(std::string s, c_.string());
      AG_TRY(Loc l, place());
      list.push_back(std::move(s));
      locs.push_back(std::move(l));
    } while (c_.accept(','));
    return {};
  }

  Status grad_request(Graph& g) {
    GradRequest r;
    AG_TRY(r.loc, place());
    r.trainable = c_.accept_word("trainable");
    AG_TRY_(c_.expect_word("of"));
    AG_TRY(r.of, c_.string());
    AG_TRY(r.of_loc, place());
    if (c_.accept_word("wrt")) AG_TRY_(named(r.wrt, r.wrt_locs));
    if (c_.accept_word("seed")) {
      AG_TRY(r.seed, c_.string());
      AG_TRY(r.seed_loc, place());
    }
    if (c_.accept_word("seed_value")) {
      AG_TRY(r.seed_value, number());
    }
    if (c_.accept_word("names")) {
      do {
        AG_TRY(std::string from, c_.string());
        AG_TRY_(c_.expect('='));
        AG_TRY(std::string to, c_.string());
        r.names.emplace_back(std::move(from), std::move(to));
      } while (c_.accept(','));
    }
    if (c_.accept_word("stop")) AG_TRY_(named(r.stop, r.stop_locs));
    if (c_.accept_word("checkpoint")) {
      AG_TRY(r.checkpoint, c_.string());
    }
    g.grads.push_back(std::move(r));
    return {};
  }

  // ---- Nodes -----------------------------------------------------------------------------------------------

  Result<ValueId> operand(const Graph& g) {
    if (c_.accept_word("_")) return ValueId{};
    Loc at = c_.here();
    AG_TRY(std::uint32_t n, c_.value_number());
    if (n >= g.value_count()) return fail(Code::AG1107, at, fmt::format("%{} is used before it is defined", n));
    return ValueId(std::size_t{n});
  }

  Status results(const Graph& g, std::vector<Type>& types) {
    do {
      Loc at = c_.here();
      AG_TRY(std::uint32_t n, c_.value_number());
      if (n != g.value_count() + types.size())
        return fail(Code::AG1107, at,
                    fmt::format("values are numbered in order: this is %{}", g.value_count() + types.size()));
      AG_TRY_(c_.expect(':'));
      AG_TRY(Type t, c_.type());
      types.push_back(std::move(t));
    } while (c_.accept(','));
    return c_.expect('=');
  }

  Result<const OpInfo*> op_name() {
    Loc at = c_.here();
    AG_TRY(std::string name, c_.word("an op"));
    if (const OpInfo* op = op_table().find(name)) return op;
    Diag d = error(Code::AG0306, at, fmt::format("there is no op `{}`", name));
    if (auto near = suggest(name, op_table().names())) d.help(fmt::format("did you mean `{}`?", *near));
    return fail(std::move(d));
  }

  Status node(GraphBuilder& b, int depth) {
    Graph& g = b.graph();
    Loc at = c_.here();
    GraphBuilder::NodeArgs args;
    AG_TRY_(results(g, args.stated));
    AG_TRY(const OpInfo* op, op_name());
    bool constant = op->name == "constant", input = op->name == "input";
    if (input) args.attrs.set("type", args.stated[0]);
    if (constant) {
      AG_TRY(LiteralPtr l, literal(args.stated[0]));
      args.attrs.set("value", std::move(l));
    }
    if (!c_.new_line() && (c_.peek() == '%' || c_.peek_word() == "_")) {
      do {
        AG_TRY(ValueId v, operand(g));
        args.operands.push_back(v);
      } while (c_.accept(','));
    }
    if (c_.accept('{')) AG_TRY_(attrs(*op, args.attrs));
    std::vector<std::string> names;
    AG_TRY_(result_names(g, args.stated.size(), names));
    if (c_.accept_word("node")) {
      AG_TRY(args.name, c_.string());
    }
    if (c_.accept_word("remat")) {
      AG_TRY(args.remat, c_.integer(1, std::numeric_limits<std::uint32_t>::max()));
    }
    if (c_.accept_call("grad")) {
      AG_TRY(args.grad_of, operand(g));
      AG_TRY_(c_.expect(')'));
    }
    while (c_.accept_word("meta")) AG_TRY_(extra(args.extras));
    AG_TRY(std::vector<Loc> locs, places());
    for (std::size_t i = 0; c_.accept_word("region"); ++i) AG_TRY_(region(g, *op, i, args.regions, depth));
    args.locs = {at};  // errors point into this text
    args.result_count = static_cast<std::uint32_t>(args.stated.size());
    AG_TRY(NodeId id, b.try_add(*op, std::move(args)));
    g.node(id).locs = std::move(locs);
    if (input) g.inputs.push_back(g.node(id).result());
    for (std::uint32_t r = 0; r < names.size(); ++r)
      if (!names[r].empty()) g.set_name(g.node(id).result(r), std::move(names[r]));
    return {};
  }

  Status result_names(const Graph& g, std::size_t count, std::vector<std::string>& names) {
    if (c_.peek() != '"') return {};
    do {
      Loc at = c_.here();
      std::string name;
      AG_TRY(name, c_.string());
      bool taken = !name.empty() && (g.find(name) || std::ranges::find(names, name) != names.end());
      if (taken) return fail(Code::AG1107, at, fmt::format("the name `{}` is taken", name));
      names.push_back(std::move(name));
    } while (c_.accept(','));
    if (names.size() > count) return c_.error(Code::AG1107, "more names than results");
    return {};
  }

  Status region(const Graph& outer, const OpInfo& op, std::size_t i, std::vector<GraphPtr>& regions, int depth) {
    Loc at = c_.here();
    AG_TRY(std::string name, c_.word("the name of a region"));
    if (i >= op.regions.size() || op.regions[i].name != name)
      return fail(Code::AG1106, at, fmt::format("region {} of `{}` is not `{}`", i, op.name, name));
    auto g = std::make_shared<Graph>();
    g->stage = outer.stage;
    g->opset = outer.opset;
    g->ag_opset = outer.ag_opset;
    AG_TRY_(header(*g));
    AG_TRY_(body(*g, depth + 1));
    regions.push_back(std::move(g));
    return {};
  }

  // ---- Attributes and literals -----------------------------------------------------------------------------

  Status attrs(const OpInfo&, Attrs& attrs) {
    while (!c_.accept('}')) {
      AG_TRY(std::string name, c_.word("the name of an attribute"));
      AG_TRY_(c_.expect('='));
      if (attrs.find(name)) return c_.error(Code::AG1105, fmt::format("the attribute `{}` is given twice", name));
      AG_TRY(AttrValue v, attr());
      attrs.set(name, std::move(v));
      if (c_.peek() != '}') AG_TRY_(c_.expect(','));
    }
    return {};
  }

  Result<double> number() {
    Loc at = c_.here();
    AG_TRY(std::string_view s, c_.scalar());
    Array a(DType::f64, {});
    if (!text::read_element(s, a, 0)) return fail(Code::AG0303, at, fmt::format("`{}` is no number", s.substr(0, 40)));
    return a.get_double(0);
  }

  static bool integer_spelling(std::string_view s) {
    return s.find_first_not_of("-0123456789") == std::string_view::npos;
  }

  Result<AttrValue> attr() {
    if (c_.peek() == '"') {
      AG_TRY(std::string s, c_.string());
      return AttrValue(std::move(s));
    }
    if (c_.accept('[')) return list();
    if (c_.accept_word("dims")) {
      AG_TRY(Dims d, c_.dims());
      return AttrValue(std::move(d));
    }
    if (c_.accept_word("tensor")) {
      AG_TRY(Type t, c_.type());
      AG_TRY(LiteralPtr l, literal(t));
      return AttrValue(std::move(l));
    }
    if (c_.accept_word("true")) return AttrValue(true);
    if (c_.accept_word("false")) return AttrValue(false);
    if (auto t = parse_dtype(c_.peek_word())) {
      if (c_.accept_word(dtype_name(*t)); c_.peek() != '[') return AttrValue(*t);
      AG_TRY(Dims shape, c_.shape());
      return AttrValue(Type{*t, std::move(shape)});
    }
    return scalar_attr();
  }

  Result<AttrValue> scalar_attr() {
    Loc at = c_.here();
    AG_TRY(std::string_view s, c_.scalar());
    if (!integer_spelling(s)) {
      Array a(DType::f64, {});
      if (!text::read_element(s, a, 0))
        return fail(Code::AG0303, at, fmt::format("`{}` is no value of an attribute", s.substr(0, 40)));
      return AttrValue(a.as<double>()[0]);
    }
    Array a(DType::i64, {});
    if (!text::read_element(s, a, 0))
      return fail(Code::AG0303, at, fmt::format("`{}` is no 64-bit integer", s.substr(0, 40)));
    return AttrValue(a.get_int(0));
  }

  /// Integers, numbers or strings; an empty list becomes what the op wants.
  Result<AttrValue> list() {
    std::vector<std::string> strings;
    std::vector<std::int64_t> ints;
    std::vector<double> numbers;
    bool integral = true;
    while (!c_.accept(']')) {
      if (strings.size() + numbers.size() > 0) AG_TRY_(c_.expect(','));
      if (c_.peek() == '"') {
        AG_TRY(std::string s, c_.string());
        strings.push_back(std::move(s));
        continue;
      }
      AG_TRY(AttrValue v, scalar_attr());
      const auto* i = std::get_if<std::int64_t>(&v);
      integral = integral && i;
      ints.push_back(i ? *i : 0);
      numbers.push_back(i ? static_cast<double>(*i) : std::get<double>(v));
    }
    if (!strings.empty() && !numbers.empty()) return c_.error(Code::AG0303, "strings and numbers in one list");
    if (!strings.empty()) return AttrValue(std::move(strings));
    if (integral) return AttrValue(std::move(ints));
    return AttrValue(std::move(numbers));
  }

  Result<LiteralPtr> literal(const Type& type) {
    Loc at = c_.here();
    auto l = std::make_shared<Literal>();
    l->dtype = type.dtype;
    auto shape = static_shape(type.shape);
    if (!shape || !Array::byte_size(type.dtype, *shape))
      return fail(Code::AG0303, at, fmt::format("a constant cannot be {}", type.str()));
    l->shape = *shape;
    l->inline_operand = c_.accept_word("inline");
    if (c_.accept_word("splat")) {
      l->form = Literal::Form::splat;
      AG_TRY(std::string_view s, c_.scalar());
      Array one(l->dtype, {});
      if (!text::read_element(s, one, 0)) return bad_element(at, s, l->dtype);
      std::memcpy(&l->bits, one.bytes().data(), dtype_bytes(l->dtype));
      return l;
    }
    if (c_.accept_word("random")) return random(std::move(l));
    if (c_.accept_word("file")) {
      l->form = Literal::Form::file;
      AG_TRY(l->file, c_.string());
      AG_TRY(l->file_key, c_.string());
    }
    AG_TRY(l->array, elements(l->dtype, l->shape));
    return l;
  }

  Result<LiteralPtr> random(std::shared_ptr<Literal> l) {
    l->form = Literal::Form::random;
    AG_TRY(l->distribution, c_.string());
    if (l->distribution != "normal" && l->distribution != "uniform")
      return c_.error(Code::AG0303, "a distribution is \"normal\" or \"uniform\"");
    AG_TRY_(c_.expect_word("scale"));
    AG_TRY_(c_.expect('='));
    AG_TRY(l->scale, number());
    AG_TRY_(c_.expect_word("key"));
    AG_TRY_(c_.expect('='));
    AG_TRY(l->key, c_.unsigned_integer());
    return l;
  }

  static std::unexpected<Diags> bad_element(const Loc& at, std::string_view s, DType t) {
    return fail(Code::AG0303, at, fmt::format("`{}` is no {}", s.substr(0, 40), dtype_name(t)));
  }

  Result<Array> elements(DType t, const std::vector<std::int64_t>& shape) {
    Loc at = c_.here();
    if (c_.accept_word("base64")) {
      AG_TRY(std::string_view s, c_.string_bytes());
      auto bytes = text::from_base64(s);
      if (!bytes) return fail(Code::AG0303, at, "this is no base64");
      return from_bytes(at, t, shape, *bytes);
    }
    if (c_.accept_word("resource")) {
      AG_TRY(std::string name, c_.string());
      AG_TRY(std::vector<std::byte> bytes, resource(at, name));
      return from_bytes(at, t, shape, bytes);
    }
    // Spelled out: read before anything of the stated size is allocated.
    std::vector<std::pair<std::string_view, Loc>> spelled;
    bool list = c_.accept('[');
    while (!list || !c_.accept(']')) {
      if (!spelled.empty()) AG_TRY_(c_.expect(','));
      Loc where = c_.here();
      AG_TRY(std::string_view s, c_.scalar());
      spelled.emplace_back(s, std::move(where));
      if (!list) break;
    }
    std::size_t want = *Array::byte_size(t, shape) / dtype_bytes(t);
    if (spelled.size() != want)
      return fail(Code::AG0303, at, fmt::format("{} elements are given for a constant of {}", spelled.size(), want));
    Array a(t, shape);
    for (std::size_t i = 0; i < want; ++i)
      if (!text::read_element(spelled[i].first, a, static_cast<std::int64_t>(i)))
        return bad_element(spelled[i].second, spelled[i].first, t);
    return a;
  }

  static Result<Array> from_bytes(const Loc& at, DType t, const std::vector<std::int64_t>& shape,
                                  std::span<const std::byte> bytes) {
    std::size_t want = *Array::byte_size(t, shape);
    if (bytes.size() != want)
      return fail(Code::AG0303, at, fmt::format("{} bytes are given for a constant of {}", bytes.size(), want));
    if (t == DType::boolean)
      for (std::byte b : bytes)
        if (std::to_integer<int>(b) > 1) return fail(Code::AG0303, at, "a bool is 0 or 1");
    return Array::from_bytes(t, shape, bytes);
  }

  Result<std::vector<std::byte>> resource(const Loc& at, const std::string& name) {
    bool hash = name.size() == 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!hash) return fail(Code::AG0303, at, "a resource is named by the 64 hexadecimal digits of its SHA-256");
    if (resources_.empty())
      return fail(Code::AG0305, at, "this text keeps its weights in files; say where with --resources");
    std::filesystem::path path = std::filesystem::path(resources_) / (name + ".bin");
    std::error_code ec;
    auto size = std::filesystem::file_size(path, ec);
    std::ifstream file(path, std::ios::binary);
    if (ec || !file) return fail(Code::AG0305, at, fmt::format("cannot read `{}`", path.string()));
    std::vector<std::byte> bytes(size);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
    if (!file || sha256_hex(bytes) != name)
      return fail(Code::AG0305, at, fmt::format("`{}` does not have the content that its name states", path.string()));
    return bytes;
  }
};

}  // namespace

Result<Graph> parse_graph(std::string_view text, std::string file, const std::string& resources) {
  return Parser(text, std::move(file), resources).file();
}

}  // namespace ag
