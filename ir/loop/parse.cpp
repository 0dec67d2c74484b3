#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "ir/loop/text.hpp"

namespace ag::loop {
namespace {

/// Element bits from a constant's text: decimal, `true`, `inf`, `nan`, or bits in hexadecimal.
std::optional<std::uint64_t> parse_bits(DType t, std::string_view text) {
  const char *first = text.data(), *last = first + text.size();
  auto whole = [&](std::from_chars_result r) { return r.ec == std::errc() && r.ptr == last; };
  std::uint64_t max = dtype_bytes(t) == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * dtype_bytes(t))) - 1;
  if (text.starts_with("0x")) {
    std::uint64_t bits = 0;
    if (!whole(std::from_chars(first + 2, last, bits, 16)) || bits > max) return std::nullopt;
    return bits;
  }
  if (t == DType::boolean) {
    if (text != "true" && text != "false") return std::nullopt;
    return text == "true";
  }
  if (t == DType::f32) {  // read as it is: by way of f64 it could be rounded twice
    float v = 0;
    if (!whole(std::from_chars(first, last, v))) return std::nullopt;
    std::uint64_t bits = constant_bits(t, static_cast<double>(v));
    return bits;
  }
  if (is_float(t)) {
    double v = 0;
    if (!whole(std::from_chars(first, last, v))) return std::nullopt;
    return constant_bits(t, v);
  }
  if (t == DType::u64) {
    std::uint64_t v = 0;
    return whole(std::from_chars(first, last, v)) ? std::optional(v) : std::nullopt;
  }
  std::int64_t v = 0;
  if (!whole(std::from_chars(first, last, v))) return std::nullopt;
  std::uint64_t bits = constant_bits(t, v);
  return bits_to_int(t, bits) == v ? std::optional(bits) : std::nullopt;
}

const std::map<std::string_view, Op>& op_names() {
  static const auto table = [] {
    std::map<std::string_view, Op> m;
#define AG_LOOP_OP(id, operands, cls) m.emplace(describe(Op::id).name, Op::id);
#include "ir/loop/ops.def"
#undef AG_LOOP_OP
    return m;
  }();
  return table;
}

template <class Enum, class Name>
std::optional<Enum> named(std::string_view text, int count, Name&& name) {
  for (int i = 0; i < count; ++i)
    if (name(static_cast<Enum>(i)) == text) return static_cast<Enum>(i);
  return std::nullopt;
}

class KernelParser {
 public:
  explicit KernelParser(Lexer& lexer) : lex_(lexer) {}

  Result<Kernel> run() {
    kernel_loc_ = lex_.loc();
    AG_TRY_(header());
    AG_TRY_(lex_.expect("{"));
    k_.blocks.push({});
    while (lex_.accept("alloc")) AG_TRY_(local_buffer());
    AG_TRY_(block(k_.top(), 0));
    if (auto fault = find_fault(k_, false))
      return fail(fault->code, fault->stmt ? locs_[fault->stmt] : kernel_loc_, fault->message);
    return std::move(k_);
  }

 private:
  Lexer& lex_;
  Kernel k_;
  Loc kernel_loc_;
  std::map<std::string_view, ValueId> names_;
  IdMap<StmtId, Loc> locs_;

  struct Named {
    Token token;
    VType type;
  };

  Status header() {
    AG_TRY_(lex_.expect("kernel"));
    if (lex_.peek().kind != Token::Kind::value || lex_.peek().text[0] != '@') return lex_.unexpected("`@` and a name");
    k_.name = lex_.next().text.substr(1);
    AG_TRY_(lex_.expect("("));
    while (!lex_.accept(")")) {
      if (!k_.buffers.empty()) AG_TRY_(lex_.expect(","));
      AG_TRY(Buffer b, buffer_head());
      AG_TRY(auto access, lex_.word("read, write or read_write"));
      auto a = named<Access>(access, 3, access_name);
      if (!a) return fail(Code::AG0801, lex_.loc(), fmt::format("unknown access `{}`", access));
      b.access = *a;
      if (lex_.accept("alias")) b.noalias = false;
      k_.buffers.push_back(std::move(b));
    }
    while (lex_.peek().kind == Token::Kind::word) AG_TRY_(clause());
    return {};
  }

  Status clause() {
    Token name = lex_.next();
    AG_TRY_(lex_.expect("("));
    std::vector<Dim> items;
    while (!lex_.accept(")")) {
      if (!items.empty()) AG_TRY_(lex_.expect(","));
      AG_TRY(Dim d, lex_.dim());
      items.push_back(std::move(d));
    }
    auto one = [&](Dim& out) {
      if (items.size() == 1) out = items[0];
      return items.size() == 1;
    };
    auto number = [](const Dim& d) { return d.is_const() && d.value() >= 0 && d.value() <= UINT32_MAX; };
    bool ok = true;
    if (name.text == "dims") {
      for (const Dim& d : items) {
        auto symbol = d.as_symbol();
        ok = ok && symbol;
        if (symbol) k_.dims.push_back(*symbol);
      }
    } else if (name.text == "tiles") {
      ok = one(k_.tiles);
    } else if (name.text == "flops") {
      ok = one(k_.flops);
    } else if (name.text == "bytes") {
      ok = one(k_.bytes);
    } else if (name.text == "grid") {
      ok = items.size() == 3;
      if (ok) std::copy(items.begin(), items.end(), k_.grid.begin());
    } else if (name.text == "block" || name.text == "origins") {
      ok = std::all_of(items.begin(), items.end(), number) && (name.text == "origins" || items.size() == 3);
      for (std::size_t i = 0; ok && i < items.size(); ++i) {
        auto n = static_cast<std::uint32_t>(items[i].value());
        if (name.text == "block")
          k_.block[i] = n;
        else
          k_.origins.push_back(n);
      }
    } else {
      return fail(Code::AG0801, lex_.loc(name), fmt::format("unknown clause `{}` of a kernel", name.text));
    }
    return ok ? Status{} : fail(Code::AG0801, lex_.loc(name), fmt::format("malformed clause `{}`", name.text));
  }

  /// `b2: f32[N]`; buffers are numbered in order.
  Result<Buffer> buffer_head() {
    Buffer b;
    b.name = fmt::format("b{}", k_.buffers.size());
    AG_TRY_(lex_.expect(b.name));
    AG_TRY_(lex_.expect(":"));
    AG_TRY(b.dtype, dtype());
    AG_TRY_(lex_.expect("["));
    AG_TRY(b.elems, lex_.dim());
    AG_TRY_(lex_.expect("]"));
    return b;
  }

  Status local_buffer() {
    AG_TRY(Buffer b, buffer_head());
    AG_TRY(auto word, lex_.word("local, scratch or shared"));
    auto scope = named<Scope>(word, 4, scope_name);
    if (!scope || *scope == Scope::param)
      return fail(Code::AG0801, lex_.loc(), fmt::format("unknown scope `{}`", word));
    b.scope = *scope, b.access = Access::read_write;
    k_.buffers.push_back(std::move(b));
    return {};
  }

  Result<DType> dtype() {
    auto t = lex_.peek().kind == Token::Kind::word ? parse_dtype(lex_.peek().text) : std::nullopt;
    if (!t) return lex_.unexpected("an element type");
    lex_.next();
    return *t;
  }

  Result<VType> vtype() {
    VType t;
    AG_TRY(t.elem, dtype());
    if (!lex_.accept("<")) return t;
    std::string_view text = lex_.peek().text;
    std::size_t x = text.find('x');
    auto part = [](std::string_view s, std::uint16_t& out) {
      auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), out);
      return error == std::errc() && end == s.data() + s.size() && out > 0;
    };
    if (x == std::string_view::npos || !part(text.substr(0, x), t.rows) || !part(text.substr(x + 1), t.lanes))
      return lex_.unexpected("a tile shape such as 6x64");
    lex_.next();
    AG_TRY_(lex_.expect(">"));
    return t;
  }

  Result<ValueId> use() {
    if (lex_.peek().kind != Token::Kind::value) return lex_.unexpected("a value");
    auto it = names_.find(lex_.peek().text);
    if (it == names_.end())
      return fail(Code::AG1801, lex_.loc(), fmt::format("`{}` is not defined before its use", lex_.peek().text));
    lex_.next();
    return it->second;
  }

  Status uses(std::vector<ValueId>& out) {
    if (lex_.peek().kind != Token::Kind::value) return {};
    do {
      AG_TRY(ValueId v, use());
      out.push_back(v);
    } while (lex_.accept(","));
    return {};
  }

  Result<Token> value_name() {
    if (lex_.peek().kind != Token::Kind::value) return lex_.unexpected("a value's name");
    return lex_.next();
  }

  Result<ValueId> define(const Named& n, Value value) {
    if (names_.contains(n.token.text))
      return fail(Code::AG1802, lex_.loc(n.token), fmt::format("`{}` is defined twice", n.token.text));
    value.type = n.type;
    ValueId id = k_.values.push(value);
    names_.emplace(n.token.text, id);
    return id;
  }

  Result<BlockId> new_block(const std::vector<Named>& args) {
    BlockId id = k_.blocks.push({});
    for (const Named& n : args) {
      AG_TRY(ValueId v, define(n, {{}, {}, id, static_cast<std::uint32_t>(k_.blocks[id].args.size())}));
      k_.blocks[id].args.push_back(v);
    }
    return id;
  }

  /// `%0: f32, %1: i64`
  Status typed_names(std::vector<Named>& out) {
    if (lex_.peek().kind != Token::Kind::value) return {};
    do {
      Named n;
      AG_TRY(n.token, value_name());
      AG_TRY_(lex_.expect(":"));
      AG_TRY(n.type, vtype());
      out.push_back(n);
    } while (lex_.accept(","));
    return {};
  }

  /// Statements up to the closing brace; the opening one has been read.
  Status block(BlockId id, int nesting) {
    if (nesting > max_nesting)
      return fail(Code::AG0801, lex_.loc(), fmt::format("blocks nest deeper than {}", max_nesting));
    while (!lex_.accept("}")) {
      if (lex_.peek().kind == Token::Kind::end) return lex_.unexpected("`}`");
      AG_TRY_(statement(id, nesting));
    }
    return {};
  }

  Status statement(BlockId where, int nesting) {
    std::vector<Named> results;
    AG_TRY_(typed_names(results));
    if (!results.empty()) AG_TRY_(lex_.expect("="));
    Token word = lex_.peek();
    if (word.kind != Token::Kind::word) return lex_.unexpected("a statement");
    lex_.next();
    bool is_for = word.text.starts_with("for.");
    auto it = op_names().find(is_for ? std::string_view("for") : word.text);
    if (it == op_names().end())
      return fail(Code::AG0801, lex_.loc(word), fmt::format("unknown statement `{}`", word.text));
    Stmt s{it->second};
    AG_TRY_(body(s, word, results, nesting));
    if (lex_.accept("!")) {
      AG_TRY(auto origin, lex_.integer(1, UINT32_MAX));
      s.origin = static_cast<std::uint32_t>(origin);
    }
    StmtId id(k_.stmts.size());
    for (const Named& n : results) {
      AG_TRY(ValueId v, define(n, {{}, id, {}, static_cast<std::uint32_t>(s.results.size())}));
      s.results.push_back(v);
    }
    k_.stmts.push(std::move(s));
    locs_.at_grow(id) = lex_.loc(word);
    k_.blocks[where].stmts.push_back(id);
    return {};
  }

  Status body(Stmt& s, const Token& word, const std::vector<Named>& results, int nesting) {
    switch (s.op) {
      case Op::constant: return constant(s, results);
      case Op::dim: return dimension(s);
      case Op::for_: return for_loop(s, word, nesting);
      case Op::while_: return while_loop(s, nesting);
      case Op::if_: return conditional(s, nesting);
      case Op::load:
      case Op::store:
      case Op::load_tile:
      case Op::store_tile: return memory(s);
      case Op::prefetch: AG_TRY_(parameter(s)); return memory(s);
      case Op::reduce_lanes:
      case Op::reduce_rows:
      case Op::extract:
      case Op::shuffle_xor:
      case Op::trap: AG_TRY_(parameter(s)); break;
      default: break;
    }
    // A statement without operands may stand before a line that begins with a value.
    return describe(s.op).operands == 0 ? Status{} : uses(s.operands);
  }

  Status constant(Stmt& s, const std::vector<Named>& results) {
    if (results.size() != 1) return lex_.unexpected("one result");
    auto bits = parse_bits(results[0].type.elem, lex_.peek().text);
    if (!bits) return lex_.unexpected(fmt::format("a constant of type {}", dtype_name(results[0].type.elem)));
    lex_.next();
    s.attr.imm = *bits;
    return {};
  }

  Status dimension(Stmt& s) {
    Loc loc = lex_.loc();
    AG_TRY(Dim d, lex_.dim());
    auto symbol = d.as_symbol();
    auto it = symbol ? std::find(k_.dims.begin(), k_.dims.end(), *symbol) : k_.dims.end();
    if (it == k_.dims.end()) return fail(Code::AG1801, loc, fmt::format("`{}` is not in the kernel's dims", d.str()));
    s.attr.index = static_cast<std::uint32_t>(it - k_.dims.begin());
    return {};
  }

  Status parameter(Stmt& s) {
    AG_TRY_(lex_.expect("("));
    if (s.op == Op::reduce_lanes || s.op == Op::reduce_rows) {
      auto kind = named<ReduceKind>(lex_.peek().text, 6, reduce_name);
      if (!kind) return lex_.unexpected("sum, prod, min, max, and, or");
      lex_.next();
      s.attr.reduce = *kind;
    } else {
      AG_TRY(auto n, lex_.integer(0, UINT32_MAX));
      s.attr.index = static_cast<std::uint32_t>(n);
    }
    return lex_.expect(")");
  }

  Status operand(Stmt& s) {
    AG_TRY(ValueId v, use());
    s.operands.push_back(v);
    return {};
  }

  Status memory(Stmt& s) {
    Token name = lex_.peek();
    unsigned n = 0;
    std::string_view digits = name.text.starts_with('b') ? name.text.substr(1) : std::string_view();
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
    if (digits.empty() || error != std::errc() || end != digits.data() + digits.size())
      return lex_.unexpected("a buffer");
    if (n >= k_.buffers.size())
      return fail(Code::AG1805, lex_.loc(), fmt::format("there is no buffer `{}`", name.text));
    lex_.next();
    s.attr.buffer = BufferId(n);
    AG_TRY_(lex_.expect("["));
    AG_TRY_(operand(s));
    if (s.op == Op::load_tile || s.op == Op::store_tile) {
      for (std::string_view axis : {"r", "l"}) {
        AG_TRY_(lex_.expect("+"));
        AG_TRY_(lex_.expect(axis));
        AG_TRY_(lex_.expect("*"));
        AG_TRY_(operand(s));
      }
    }
    AG_TRY_(lex_.expect("]"));
    if (s.op == Op::store || s.op == Op::store_tile) {
      AG_TRY_(lex_.expect(","));
      AG_TRY_(operand(s));
    }
    if (lex_.accept("mask")) AG_TRY_(operand(s));
    if (s.op == Op::store || s.op == Op::store_tile) s.attr.nontemporal = lex_.accept("nontemporal");
    return {};
  }

  Status for_loop(Stmt& s, const Token& word, int nesting) {
    auto mapping = named<Mapping>(word.text.size() > 4 ? word.text.substr(4) : "", 13, mapping_name);
    if (!mapping) return fail(Code::AG0801, lex_.loc(word), fmt::format("unknown mapping of a loop: `{}`", word.text));
    s.attr.mapping = *mapping;
    if (lex_.accept("(")) {
      auto role = named<AxisRole>(lex_.peek().text, 5, role_name);
      if (!role) return lex_.unexpected("batch, row, col or reduce");
      lex_.next();
      s.attr.role = *role;
      AG_TRY_(lex_.expect(")"));
    }
    std::vector<Named> args(1);
    args[0].type = index_type;
    AG_TRY(args[0].token, value_name());
    for (std::string_view part : {"=", "to", "step"}) {
      AG_TRY_(lex_.expect(part));
      AG_TRY_(operand(s));
    }
    if (lex_.accept("carry")) {
      AG_TRY_(lex_.expect("("));
      do {
        Named n;
        AG_TRY(n.token, value_name());
        AG_TRY_(lex_.expect("="));
        AG_TRY_(operand(s));
        n.type = k_.type(s.operands.back());
        args.push_back(n);
      } while (lex_.accept(","));
      AG_TRY_(lex_.expect(")"));
    }
    for (auto [name, field] : {std::pair{"width", &s.attr.width}, {"unroll", &s.attr.unroll}}) {
      if (!lex_.accept(name)) continue;
      AG_TRY(auto n, lex_.integer(1, UINT16_MAX));
      *field = static_cast<std::uint16_t>(n);
    }
    s.attr.reassociate = lex_.accept("reassociate");
    return nested(s, args, nesting);
  }

  Status nested(Stmt& s, const std::vector<Named>& args, int nesting) {
    AG_TRY(BlockId id, new_block(args));
    s.blocks.push_back(id);
    AG_TRY_(lex_.expect("{"));
    return block(id, nesting + 1);
  }

  Status while_loop(Stmt& s, int nesting) {
    AG_TRY_(lex_.expect("("));
    AG_TRY_(uses(s.operands));
    AG_TRY_(lex_.expect(")"));
    for (bool first : {true, false}) {
      if (!first) AG_TRY_(lex_.expect("do"));
      AG_TRY_(lex_.expect("("));
      std::vector<Named> args;
      AG_TRY_(typed_names(args));
      AG_TRY_(lex_.expect(")"));
      AG_TRY_(nested(s, args, nesting));
    }
    return {};
  }

  Status conditional(Stmt& s, int nesting) {
    AG_TRY_(operand(s));
    AG_TRY_(nested(s, {}, nesting));
    AG_TRY_(lex_.expect("else"));
    return nested(s, {}, nesting);
  }
};

}  // namespace

Result<Kernel> parse_kernel(Lexer& lexer) { return KernelParser(lexer).run(); }

Result<Kernel> parse_kernel(std::string_view text, std::string file) {
  Lexer lexer(text, std::move(file));
  AG_TRY(Kernel k, parse_kernel(lexer));
  if (lexer.peek().kind != Token::Kind::end) return lexer.unexpected("the end of the text");
  return k;
}

}  // namespace ag::loop
