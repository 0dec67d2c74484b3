#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "ir/loop/text.hpp"

namespace ag::loop {

std::string_view scope_name(Scope s) {
  return std::array<std::string_view, 4>{"param", "local", "scratch", "shared"}[static_cast<std::size_t>(s)];
}
std::string_view access_name(Access a) {
  return std::array<std::string_view, 3>{"read", "write", "read_write"}[static_cast<std::size_t>(a)];
}
std::string_view role_name(AxisRole r) {
  return std::array<std::string_view, 5>{"none", "batch", "row", "col", "reduce"}[static_cast<std::size_t>(r)];
}
std::string_view reduce_name(ReduceKind k) {
  return std::array<std::string_view, 6>{"sum", "prod", "min", "max", "and", "or"}[static_cast<std::size_t>(k)];
}

std::string quote(std::string_view s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') {
      out += '\\', out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string print(const VType& t) {
  return t.scalar() ? std::string(dtype_name(t.elem)) : fmt::format("{}<{}x{}>", dtype_name(t.elem), t.rows, t.lanes);
}

std::string print_bits(DType t, std::uint64_t bits) {
  if (t == DType::boolean && bits <= 1) return bits ? "true" : "false";
  if (t == DType::u64) return fmt::format("{}", bits);
  if (!is_float(t) && t != DType::boolean) return fmt::format("{}", bits_to_int(t, bits));
  double v = bits_to_double(t, bits);
  std::string text;
  if (std::isinf(v)) {
    text = v < 0 ? "-inf" : "inf";
  } else if (std::isfinite(v) && t != DType::boolean) {
    text = t == DType::f64 ? fmt::format("{}", v) : fmt::format("{}", static_cast<float>(v));
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    double back = 0;
    std::from_chars(text.data(), text.data() + text.size(), back);
    float narrow = 0;
    std::from_chars(text.data(), text.data() + text.size(), narrow);
    bool same = t == DType::f32 ? std::bit_cast<std::uint32_t>(narrow) == bits : constant_bits(t, back) == bits;
    if (!same) text.clear();
  }
  if (text.empty()) text = fmt::format("0x{:0{}x}", bits, 2 * dtype_bytes(t));
  return text;
}

namespace {

class Printer {
 public:
  Printer(const Kernel& k, const PrintOptions& options, std::string& out)
      : k_(k), options_(options), out_(out), numbers_(k.values.size(), -1) {
    for (std::size_t i = 0; i < k.dims.size(); ++i)
      renamed_.emplace(k.dims[i], Dim::symbol(options.canonical ? "d" + std::to_string(i) : k.dims[i]));
  }

  void kernel() {
    header();
    out_ += " {\n";
    depth_ = options_.indent + 1;
    for (std::size_t i = k_.param_count(); i < k_.buffers.size(); ++i) {
      const Buffer& b = k_.buffers[i];
      line(fmt::format("alloc b{}: {}[{}] {}", i, dtype_name(b.dtype), dim(b.elems), scope_name(b.scope)));
    }
    if (k_.blocks.size()) statements(k_.blocks[k_.top()], 0);
    depth_ = options_.indent;
    line("}");
  }

  /// One statement, its values numbered by id, nested blocks as {...}.
  void single(StmtId s) {
    for (std::size_t i = 0; i < numbers_.size(); ++i) numbers_[ValueId(i)] = static_cast<int>(i);
    elide_ = true;
    statement(k_.stmts[s], 0);
  }

 private:
  const Kernel& k_;
  PrintOptions options_;
  std::string& out_;
  IdMap<ValueId, int> numbers_;
  int next_ = 0, depth_ = 0;
  bool elide_ = false;
  std::map<std::string, Dim, std::less<>> renamed_;

  std::string dim(const Dim& d) const { return options_.canonical ? d.substitute(renamed_).str() : d.str(); }
  void line(std::string_view text) { fmt::format_to(std::back_inserter(out_), "{:{}}{}\n", "", 2 * depth_, text); }

  std::string def(ValueId v) {
    if (numbers_[v] < 0) numbers_[v] = next_++;
    return fmt::format("%{}", numbers_[v]);
  }
  std::string use(ValueId v) const {
    if (!numbers_.contains(v)) return "%?";
    return numbers_[v] < 0 ? fmt::format("%undefined{}", v.index) : fmt::format("%{}", numbers_[v]);
  }
  template <class Range>
  std::string uses(const Range& values) const {
    std::string s;
    for (ValueId v : values) s += (s.empty() ? "" : ", ") + use(v);
    return s;
  }
  std::string buffer(BufferId b) const { return b ? fmt::format("b{}", b.index) : "b?"; }

  void header() {
    out_ += fmt::format("{:{}}kernel @{}(", "", 2 * options_.indent, options_.canonical ? "k" : k_.name);
    for (std::size_t i = 0; i < k_.param_count(); ++i) {
      const Buffer& b = k_.buffers[i];
      out_ += fmt::format("{}b{}: {}[{}] {}{}", i ? ", " : "", i, dtype_name(b.dtype), dim(b.elems),
                          access_name(b.access), b.noalias ? "" : " alias");
    }
    out_ += ")";
    auto list = [&](std::string_view name, const auto& items, auto&& text) {
      std::string s;
      for (const auto& item : items) s += (s.empty() ? "" : ", ") + text(item);
      out_ += fmt::format(" {}({})", name, s);
    };
    if (!k_.dims.empty()) list("dims", k_.dims, [&](const std::string& d) { return dim(Dim::symbol(d)); });
    auto expression = [&](const Dim& d) { return dim(d); };
    if (!k_.tiles.is(1)) list("tiles", std::array{k_.tiles}, expression);
    if (k_.grid != std::array<Dim, 3>{1, 1, 1}) list("grid", k_.grid, expression);
    if (k_.block != std::array<std::uint32_t, 3>{1, 1, 1})
      list("block", k_.block, [](std::uint32_t n) { return std::to_string(n); });
    if (options_.canonical) return;
    if (!k_.flops.is(0)) list("flops", std::array{k_.flops}, expression);
    if (!k_.bytes.is(0)) list("bytes", std::array{k_.bytes}, expression);
    if (!k_.origins.empty()) list("origins", k_.origins, [](std::uint32_t n) { return std::to_string(n); });
  }

  void statements(const Block& block, int nesting) {
    for (StmtId id : block.stmts) {
      fmt::format_to(std::back_inserter(out_), "{:{}}", "", 2 * depth_);
      statement(k_.stmts[id], nesting);
      out_ += '\n';
    }
  }

  /// " {", the statements, "}" at the statement's own depth.
  void block(BlockId id, int nesting) {
    if (elide_ || nesting >= max_nesting || !k_.blocks.contains(id)) {
      out_ += "{...}";
      return;
    }
    out_ += "{\n";
    ++depth_;
    statements(k_.blocks[id], nesting + 1);
    --depth_;
    fmt::format_to(std::back_inserter(out_), "{:{}}}}", "", 2 * depth_);
  }

  std::string arguments(BlockId id, std::size_t from) {
    std::string s;
    if (!k_.blocks.contains(id)) return s;
    const Block& b = k_.blocks[id];
    for (std::size_t i = from; i < b.args.size(); ++i)
      s += fmt::format("{}{}: {}", i > from ? ", " : "", def(b.args[i]), print(k_.type(b.args[i])));
    return s;
  }

  void statement(const Stmt& s, int nesting) {
    std::string line;
    for (ValueId v : s.results) line += fmt::format("{}{}: {}", line.empty() ? "" : ", ", def(v), print(k_.type(v)));
    if (!line.empty()) line += " = ";
    line += describe(s.op).name;
    out_ += line;
    if (s.blocks.empty()) {
      plain(s);
    } else {
      control(s, nesting);
    }
    bool local_origin = !options_.canonical || s.op == Op::trap;  // emitted code stores a trap's origin
    if (s.origin && local_origin) out_ += fmt::format(" !{}", s.origin);
  }

  /// Operands from `i` on as a mask, if there is one.
  std::string mask(const Stmt& s, std::size_t i) const {
    return s.operands.size() > i ? " mask " + use(s.operands[i]) : std::string();
  }
  static const char* around(const Stmt& s) { return s.attr.nontemporal ? " nontemporal" : ""; }
  std::string tile(const Stmt& s) const {
    return fmt::format("{}[{} + r*{} + l*{}]", buffer(s.attr.buffer), use(s.operands[0]), use(s.operands[1]),
                       use(s.operands[2]));
  }

  void plain(const Stmt& s) {
    // Malformed statements reach this from verify's messages: print what there is.
    std::size_t needed = s.op == Op::load ? 1 : s.op == Op::store ? 2 : s.op == Op::load_tile ? 3 : 4;
    bool memory = describe(s.op).cls == OpClass::memory && s.operands.size() >= needed;
    switch (s.op) {
      case Op::constant: {
        DType t = s.results.empty() ? DType::u64 : k_.type(s.results[0]).elem;
        out_ += " " + print_bits(t, s.attr.imm);
        return;
      }
      case Op::dim: {
        bool known = s.attr.index < k_.dims.size();
        out_ += " " + (known ? dim(Dim::symbol(k_.dims[s.attr.index])) : fmt::format("?{}", s.attr.index));
        return;
      }
      case Op::reduce_lanes:
      case Op::reduce_rows: out_ += fmt::format("({})", reduce_name(s.attr.reduce)); break;
      case Op::extract:
      case Op::shuffle_xor:
      case Op::trap: out_ += fmt::format("({})", s.attr.index); break;
      case Op::prefetch:
        if (s.operands.empty()) break;
        out_ += fmt::format("({}) {}[{}]", s.attr.index, buffer(s.attr.buffer), use(s.operands[0]));
        return;
      case Op::load:
        if (!memory) break;
        out_ += fmt::format(" {}[{}]{}", buffer(s.attr.buffer), use(s.operands[0]), mask(s, 1));
        return;
      case Op::store:
        if (!memory) break;
        out_ += fmt::format(" {}[{}], {}{}{}", buffer(s.attr.buffer), use(s.operands[0]), use(s.operands[1]),
                            mask(s, 2), around(s));
        return;
      case Op::load_tile:
        if (!memory) break;
        out_ += " " + tile(s) + mask(s, 3);
        return;
      case Op::store_tile:
        if (!memory) break;
        out_ += fmt::format(" {}, {}{}{}", tile(s), use(s.operands[3]), mask(s, 4), around(s));
        return;
      default: break;
    }
    if (!s.operands.empty()) out_ += " " + uses(s.operands);
  }

  void control(const Stmt& s, int nesting) {
    if (s.op == Op::for_ && s.operands.size() >= 3 && k_.blocks.contains(s.blocks[0])) {
      const Block& body = k_.blocks[s.blocks[0]];
      out_ += fmt::format(".{}", mapping_name(s.attr.mapping));
      if (s.attr.role != AxisRole::none) out_ += fmt::format("({})", role_name(s.attr.role));
      std::string iv = body.args.empty() ? "%?" : def(body.args[0]);
      out_ += fmt::format(" {} = {} to {} step {}", iv, use(s.operands[0]), use(s.operands[1]), use(s.operands[2]));
      for (std::size_t i = 3; i < s.operands.size(); ++i) {
        std::string arg = i - 2 < body.args.size() ? def(body.args[i - 2]) : "%?";
        out_ += fmt::format("{}{} = {}", i == 3 ? " carry(" : ", ", arg, use(s.operands[i]));
      }
      if (s.operands.size() > 3) out_ += ")";
      if (s.attr.width) out_ += fmt::format(" width {}", s.attr.width);
      if (s.attr.unroll) out_ += fmt::format(" unroll {}", s.attr.unroll);
      if (s.attr.reassociate) out_ += " reassociate";
      out_ += " ";
      block(s.blocks[0], nesting);
    } else if (s.op == Op::while_ && s.blocks.size() == 2) {
      out_ += fmt::format("({}) ({}) ", uses(s.operands), arguments(s.blocks[0], 0));
      block(s.blocks[0], nesting);
      out_ += fmt::format(" do ({}) ", arguments(s.blocks[1], 0));
      block(s.blocks[1], nesting);
    } else {
      out_ += " " + uses(s.operands);
      for (std::size_t i = 0; i < s.blocks.size(); ++i) {
        out_ += i ? " else " : " ";
        block(s.blocks[i], nesting);
      }
    }
  }
};

}  // namespace

void print_kernel(const Kernel& kernel, const PrintOptions& options, std::string& out) {
  Printer(kernel, options, out).kernel();
}

std::string print(const Kernel& kernel) {
  std::string out;
  print_kernel(kernel, {}, out);
  return out;
}

std::string print_stmt(const Kernel& kernel, StmtId stmt) {
  std::string out;
  Printer(kernel, {}, out).single(stmt);
  return out;
}

}  // namespace ag::loop
