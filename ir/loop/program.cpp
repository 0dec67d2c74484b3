#include "ir/loop/program.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "ir/loop/storage.hpp"
#include "ir/loop/text.hpp"

namespace ag::loop {
namespace {

constexpr std::array<std::string_view, 5> kind_names{"input", "output", "constant", "temp", "state"};
constexpr std::array<std::string_view, 3> place_names{"arena", "growable", "slot"};
constexpr std::array<std::string_view, 3> rel_names{"==", "<=", "|"};
constexpr std::string_view digits64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool numbered(BufferKind k) { return k != BufferKind::temp; }

std::optional<std::int64_t> constant_bytes(const ProgramBuffer& b) {
  Dim n = product(b.shape);
  if (!n.valid() || !n.is_const() || n.value() < 0) return std::nullopt;
  return checked_mul(n.value(), static_cast<std::int64_t>(dtype_bytes(b.dtype)));
}

std::string base64(const unsigned char* p, std::size_t n) {
  std::string out;
  out.reserve((n + 2) / 3 * 4);
  for (std::size_t i = 0; i < n; i += 3) {
    std::uint32_t v = std::uint32_t{p[i]} << 16 | (i + 1 < n ? p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
    for (int shift : {18, 12, 6, 0}) out += digits64[v >> shift & 63];
    if (i + 1 >= n) out[out.size() - 2] = '=';
    if (i + 2 >= n) out[out.size() - 1] = '=';
  }
  return out;
}

/// Decodes exactly n bytes; nullptr if the text is not their base64.
std::shared_ptr<const void> from_base64(std::string_view text, std::size_t n) {
  if (text.size() != (n + 2) / 3 * 4) return nullptr;
  std::shared_ptr<unsigned char[]> out(new unsigned char[n + 1]);
  std::size_t at = 0;
  for (std::size_t i = 0; i < text.size(); i += 4) {
    std::uint32_t v = 0;
    std::size_t bytes = std::min<std::size_t>(3, n - at);
    for (std::size_t j = 0; j < 4; ++j) {
      std::size_t digit = digits64.find(text[i + j]);
      bool padding = j > bytes;
      if (padding != (text[i + j] == '=') || (!padding && digit == std::string_view::npos)) return nullptr;
      v = v << 6 | (padding ? 0 : static_cast<std::uint32_t>(digit));
    }
    for (std::size_t j = 0; j < bytes; ++j) out[at++] = static_cast<unsigned char>(v >> (16 - 8 * j));
  }
  return std::shared_ptr<const void>(out, out.get());
}

// Printing.

template <class Range, class Text>
std::string joined(const Range& items, Text&& text) {
  std::string s;
  for (const auto& item : items) s += (s.empty() ? "" : ", ") + text(item);
  return s;
}
std::string name(ProgramBufferId id) { return id ? fmt::format("p{}", id.index) : "p?"; }
std::string names(const std::vector<ProgramBufferId>& ids) { return joined(ids, name); }
std::string sizes(const Dims& dims) {
  return joined(dims, [](const Dim& d) { return d.str(); });
}

std::string buffer_text(const ProgramBuffer& b, std::size_t i) {
  std::string s = fmt::format("p{}", i);
  if (!b.name.empty()) s += " " + quote(b.name);
  s += fmt::format(": {}", kind_names[static_cast<std::size_t>(b.kind)]);
  if (numbered(b.kind)) s += fmt::format(" {}", b.index);
  s += fmt::format(" {}[{}]", dtype_name(b.dtype), sizes(b.shape));
  if (b.place != Place::arena) s += fmt::format(" {}", place_names[static_cast<std::size_t>(b.place)]);
  if (!b.axes.empty()) s += fmt::format(" axes({})", joined(b.axes, [](std::int64_t a) { return std::to_string(a); }));
  if (b.planned && !b.alias_of) s += fmt::format(" offset({})", b.offset.str());
  if (b.alias_of) s += " alias " + name(b.alias_of);
  if (b.alias_of && !b.offset.is(0)) s += fmt::format(" at({})", b.offset.str());
  auto bytes = constant_bytes(b);
  if (b.constant && bytes)
    s += " = " + quote(base64(static_cast<const unsigned char*>(b.constant.get()), static_cast<std::size_t>(*bytes)));
  return s;
}

std::string from(std::uint32_t source) { return source ? fmt::format(" from {}", source - 1) : ""; }
std::string guard_text(const DimGuard& g) {
  return fmt::format("guard {} {} {} {}{}", g.lhs.str(), rel_names[static_cast<std::size_t>(g.rel)], g.rhs.str(),
                     quote(g.text), from(g.source));
}
std::string segment_text(const Segment& s) {
  std::string out =
      fmt::format("  segment({}) {{\n", joined(s.symbols, [](const std::string& n) { return Dim::symbol(n).str(); }));
  for (const DimGuard& g : s.guards) out += "    " + guard_text(g) + "\n";
  if (!s.arena_bytes.is(0)) out += fmt::format("    arena({})\n", s.arena_bytes.str());
  if (!s.scratch_bytes.is(0)) out += fmt::format("    scratch({})\n", s.scratch_bytes.str());
  return out + "  }\n";
}

void print_seq(const Seq& seq, int depth, std::string& out) {
  std::string pad(2 * static_cast<std::size_t>(depth), ' ');
  auto nested = [&](const std::shared_ptr<Seq>& s) {
    out += " {\n";
    if (s && depth < max_nesting) print_seq(*s, depth + 1, out);
    out += pad + "}";
  };
  for (const Step& step : seq.steps) {
    out += pad;
    if (auto* call = std::get_if<KernelCall>(&step.value)) {
      out += fmt::format("call {}({})", call->kernel.index, names(call->buffers));
      if (!call->dims.empty()) out += fmt::format(" dims({})", sizes(call->dims));
      if (!call->origins.empty())
        out += fmt::format(" origins({})", joined(call->origins, [](std::uint32_t n) { return std::to_string(n); }));
      if (!call->label.empty()) out += " " + quote(call->label);
    } else if (auto* host = std::get_if<HostCall>(&step.value)) {
      out += fmt::format("host {}({}) -> ({})", host->function, names(host->inputs), names(host->outputs));
      if (!host->label.empty()) out += " " + quote(host->label);
    } else if (auto* branch = std::get_if<IfStep>(&step.value)) {
      out += "if " + name(branch->predicate);
      nested(branch->then);
      out += " else";
      nested(branch->otherwise);
    } else if (auto* loop = std::get_if<WhileStep>(&step.value)) {
      out += "while " + name(loop->predicate);
      nested(loop->cond);
      out += " do";
      nested(loop->body);
    } else if (auto* bind = std::get_if<BindStep>(&step.value)) {
      std::string values = bind->values ? name(bind->values) : fmt::format("({})", sizes(bind->exprs));
      out += fmt::format("bind {} = {}{}", bind->segment.index, values, from(bind->source));
      if (!bind->label.empty()) out += " " + quote(bind->label);
    } else if (auto* swap = std::get_if<SwapStep>(&step.value)) {
      out += fmt::format("swap {}, {}", name(swap->a), name(swap->b));
    } else if (auto* slot = std::get_if<SlotStep>(&step.value)) {
      out += fmt::format("slot {} = {} at {}", name(slot->view), name(slot->of), name(slot->index));
      if (slot->backwards) out += fmt::format(" backwards({})", slot->count.str());
      out += from(slot->source);
    } else if (auto* check = std::get_if<CheckStep>(&step.value)) {
      out += fmt::format("check {{\n");
      for (const DimGuard& g : check->guards) out += pad + "  " + guard_text(g) + "\n";
      out += pad + "}";
    }
    out += "\n";
  }
}

}  // namespace

std::string print(const Program& p) {
  std::string out = fmt::format("program {} {{\n", quote(p.name));
  std::size_t i = 0;
  for (const ProgramBuffer& b : p.buffers) out += fmt::format("  {}\n", buffer_text(b, i++));
  out += fmt::format("  inputs({})\n  outputs({})\n", names(p.inputs), names(p.outputs));
  for (const DimSource& d : p.dim_sources)
    out += fmt::format("  dim {} = input {} axis {}\n", Dim::symbol(d.symbol).str(), d.input, d.axis);
  for (const DimGuard& g : p.guards) out += "  " + guard_text(g) + "\n";
  for (const Segment& s : p.segments) out += segment_text(s);
  for (const Loc& l : p.sources)
    out += fmt::format("  source {} {} {} {} {} {}\n", quote(l.file ? *l.file : ""), l.line, l.col, l.end_line,
                       l.end_col, quote(l.pointer));
  if (!p.arena_bytes.is(0)) out += fmt::format("  arena({})\n", p.arena_bytes.str());
  if (!p.scratch_bytes.is(0)) out += fmt::format("  scratch({})\n", p.scratch_bytes.str());
  for (const Kernel& k : p.kernels) print_kernel(k, {.indent = 1}, out);
  out += "  body {\n";
  print_seq(p.body, 2, out);
  return out + "  }\n}\n";
}

namespace {

// Parsing.

class ProgramParser {
 public:
  ProgramParser(std::string_view text, std::string file) : lex_(text, std::move(file)) {}

  Result<Program> run() {
    Loc start = lex_.loc();
    AG_TRY_(lex_.expect("program"));
    AG_TRY(p_.name, lex_.string());
    AG_TRY_(lex_.expect("{"));
    while (!lex_.accept("}")) AG_TRY_(item());
    if (lex_.peek().kind != Token::Kind::end) return lex_.unexpected("the end of the text");
    if (auto status = verify(p_); !status) {
      for (Diag& d : status.error())
        if (d.spans.empty() || !d.spans[0].loc.known()) d.spans = {Span{start, "", true}};
      return fail(std::move(status).error());
    }
    return std::move(p_);
  }

 private:
  Lexer lex_;
  Program p_;

  Status item() {
    std::string_view word = lex_.peek().text;
    if (word == "kernel") {
      AG_TRY(Kernel k, parse_kernel(lex_));
      p_.kernels.push(std::move(k));
      return {};
    }
    if (lex_.accept("inputs")) return references(p_.inputs);
    if (lex_.accept("outputs")) return references(p_.outputs);
    if (lex_.accept("dim")) return dim_source();
    if (lex_.accept("guard")) return guard(p_.guards);
    if (lex_.accept("segment")) return segment();
    if (lex_.accept("source")) return source();
    if (lex_.accept("arena")) return parenthesised(p_.arena_bytes);
    if (lex_.accept("scratch")) return parenthesised(p_.scratch_bytes);
    if (lex_.accept("body")) {
      AG_TRY_(lex_.expect("{"));
      return seq(p_.body, 0);
    }
    return buffer();
  }

  /// `later`: it may be declared behind this place, which verify() checks.
  Result<ProgramBufferId> reference(bool later = false) {
    std::string_view text = lex_.peek().text;
    std::uint32_t n = 0;
    if (lex_.peek().kind != Token::Kind::word || text[0] != 'p') return lex_.unexpected("a buffer");
    auto [end, error] = std::from_chars(text.data() + 1, text.data() + text.size(), n);
    if (error != std::errc() || end != text.data() + text.size()) return lex_.unexpected("a buffer");
    if (!later && n >= p_.buffers.size())
      return fail(Code::AG1806, lex_.loc(), fmt::format("there is no buffer `{}`", text));
    lex_.next();
    return ProgramBufferId(n);
  }

  /// `( item, item )`
  template <class F>
  Status list(F&& item) {
    AG_TRY_(lex_.expect("("));
    for (bool first = true; !lex_.accept(")"); first = false) {
      if (!first) AG_TRY_(lex_.expect(","));
      AG_TRY_(item());
    }
    return {};
  }
  Status references(std::vector<ProgramBufferId>& out) {
    return list([&]() -> Status {
      AG_TRY(ProgramBufferId id, reference());
      out.push_back(id);
      return {};
    });
  }
  Status parenthesised(Dim& out) {
    AG_TRY_(lex_.expect("("));
    AG_TRY(out, lex_.dim());
    return lex_.expect(")");
  }
  Status number(std::uint32_t& out) {
    AG_TRY(auto n, lex_.integer(0, UINT32_MAX));
    out = static_cast<std::uint32_t>(n);
    return {};
  }
  Status label(std::string& out) {
    if (lex_.peek().kind != Token::Kind::string) return {};
    AG_TRY(out, lex_.string());
    return {};
  }

  Status buffer() {
    ProgramBuffer b;
    AG_TRY_(lex_.expect(fmt::format("p{}", p_.buffers.size())));
    AG_TRY_(label(b.name));
    AG_TRY_(lex_.expect(":"));
    std::size_t kind = 0;
    while (kind < kind_names.size() && kind_names[kind] != lex_.peek().text) ++kind;
    if (kind == kind_names.size()) return lex_.unexpected("input, output, constant, temp or state");
    lex_.next();
    b.kind = static_cast<BufferKind>(kind);
    if (numbered(b.kind)) AG_TRY_(number(b.index));
    auto t = parse_dtype(lex_.peek().text);
    if (!t) return lex_.unexpected("an element type");
    lex_.next();
    b.dtype = *t;
    AG_TRY_(lex_.expect("["));
    for (bool first = true; !lex_.accept("]"); first = false) {
      if (!first) AG_TRY_(lex_.expect(","));
      AG_TRY(Dim d, lex_.dim());
      b.shape.push_back(std::move(d));
    }
    for (std::size_t i = 1; i < place_names.size(); ++i)
      if (lex_.accept(place_names[i])) b.place = static_cast<Place>(i);
    if (lex_.accept("axes")) {
      AG_TRY_(lex_.expect("("));
      for (bool first = true; !lex_.accept(")"); first = false) {
        if (!first) AG_TRY_(lex_.expect(","));
        std::uint32_t axis = 0;
        AG_TRY_(number(axis));
        b.axes.push_back(axis);
      }
    }
    b.planned = lex_.accept("offset");
    if (b.planned) AG_TRY_(parenthesised(b.offset));
    if (lex_.accept("alias")) {
      AG_TRY(b.alias_of, reference(true));
      if (lex_.accept("at")) AG_TRY_(parenthesised(b.offset));
    }
    if (lex_.accept("=")) {
      Loc loc = lex_.loc();
      auto bytes = constant_bytes(b);
      AG_TRY(std::string text, lex_.string());
      if (bytes) b.constant = from_base64(text, static_cast<std::size_t>(*bytes));
      if (!b.constant) return fail(Code::AG0801, loc, "this is not the base64 text of the constant's bytes");
    }
    p_.buffers.push(std::move(b));
    return {};
  }

  Status dim_source() {
    DimSource d;
    AG_TRY(Dim symbol, lex_.dim());
    if (!symbol.as_symbol()) return fail(Code::AG0801, lex_.loc(), "a size source needs a symbol");
    d.symbol = *symbol.as_symbol();
    AG_TRY_(lex_.expect("="));
    AG_TRY_(lex_.expect("input"));
    AG_TRY_(number(d.input));
    AG_TRY_(lex_.expect("axis"));
    AG_TRY_(number(d.axis));
    p_.dim_sources.push_back(std::move(d));
    return {};
  }

  Status from(std::uint32_t& source) {
    if (!lex_.accept("from")) return {};
    AG_TRY_(number(source));
    return source == UINT32_MAX ? lex_.unexpected("a source") : Status((++source, Status()));
  }

  Status segment() {
    Segment s;
    AG_TRY_(list([&]() -> Status {
      AG_TRY(Dim symbol, lex_.dim());
      if (!symbol.as_symbol()) return fail(Code::AG0801, lex_.loc(), "a segment has symbols");
      s.symbols.push_back(*symbol.as_symbol());
      return {};
    }));
    AG_TRY_(lex_.expect("{"));
    while (!lex_.accept("}")) {
      if (lex_.accept("guard")) {
        AG_TRY_(guard(s.guards));
      } else if (lex_.accept("arena")) {
        AG_TRY_(parenthesised(s.arena_bytes));
      } else if (lex_.accept("scratch")) {
        AG_TRY_(parenthesised(s.scratch_bytes));
      } else {
        return lex_.unexpected("guard, arena, scratch or `}`");
      }
    }
    p_.segments.push(std::move(s));
    return {};
  }

  Result<BindStep> bind() {
    BindStep s;
    std::uint32_t n = 0;
    AG_TRY_(number(n));
    s.segment = SegmentId(std::size_t{n});
    AG_TRY_(lex_.expect("="));
    if (lex_.peek().text == "(") {
      AG_TRY_(list([&]() -> Status {
        AG_TRY(Dim d, lex_.dim());
        s.exprs.push_back(std::move(d));
        return {};
      }));
    } else {
      AG_TRY(s.values, reference());
    }
    AG_TRY_(from(s.source));
    AG_TRY_(label(s.label));
    return s;
  }

  Result<SlotStep> slot() {
    SlotStep s;
    AG_TRY(s.view, reference());
    AG_TRY_(lex_.expect("="));
    AG_TRY(s.of, reference());
    AG_TRY_(lex_.expect("at"));
    AG_TRY(s.index, reference());
    s.backwards = lex_.accept("backwards");
    if (s.backwards) AG_TRY_(parenthesised(s.count));
    AG_TRY_(from(s.source));
    return s;
  }

  Status guard(std::vector<DimGuard>& to) {
    DimGuard g;
    AG_TRY(g.lhs, lex_.dim());
    std::size_t rel = 0;
    while (rel < rel_names.size() && !lex_.accept(rel_names[rel])) ++rel;
    if (rel == rel_names.size()) return lex_.unexpected("`==`, `<=` or `|`");
    g.rel = static_cast<DimGuard::Rel>(rel);
    AG_TRY(g.rhs, lex_.dim());
    AG_TRY_(label(g.text));
    AG_TRY_(from(g.source));
    to.push_back(std::move(g));
    return {};
  }

  Status source() {
    Loc l;
    AG_TRY(std::string file, lex_.string());
    if (!file.empty()) l.file = std::make_shared<const std::string>(std::move(file));
    for (std::uint32_t* n : {&l.line, &l.col, &l.end_line, &l.end_col}) AG_TRY_(number(*n));
    AG_TRY(l.pointer, lex_.string());
    p_.sources.push_back(std::move(l));
    return {};
  }

  /// Steps up to the closing brace; the opening one has been read.
  Status seq(Seq& out, int depth) {
    if (depth > max_nesting) return fail(Code::AG0801, lex_.loc(), "steps nest too deep");
    while (!lex_.accept("}")) {
      Step step;
      if (lex_.accept("call")) {
        AG_TRY(step.value, call());
      } else if (lex_.accept("host")) {
        AG_TRY(step.value, host());
      } else if (lex_.accept("if")) {
        IfStep s;
        AG_TRY(s.predicate, reference());
        AG_TRY(s.then, nested(depth));
        AG_TRY_(lex_.expect("else"));
        AG_TRY(s.otherwise, nested(depth));
        step.value = std::move(s);
      } else if (lex_.accept("while")) {
        WhileStep s;
        AG_TRY(s.predicate, reference());
        AG_TRY(s.cond, nested(depth));
        AG_TRY_(lex_.expect("do"));
        AG_TRY(s.body, nested(depth));
        step.value = std::move(s);
      } else if (lex_.accept("bind")) {
        AG_TRY(step.value, bind());
      } else if (lex_.accept("swap")) {
        SwapStep s;
        AG_TRY(s.a, reference());
        AG_TRY_(lex_.expect(","));
        AG_TRY(s.b, reference());
        step.value = s;
      } else if (lex_.accept("slot")) {
        AG_TRY(step.value, slot());
      } else if (lex_.accept("check")) {
        CheckStep s;
        AG_TRY_(lex_.expect("{"));
        while (!lex_.accept("}")) {
          AG_TRY_(lex_.expect("guard"));
          AG_TRY_(guard(s.guards));
        }
        step.value = std::move(s);
      } else {
        return lex_.unexpected("call, host, if, while, bind, swap, slot, check or `}`");
      }
      out.steps.push_back(std::move(step));
    }
    return {};
  }

  Result<std::shared_ptr<Seq>> nested(int depth) {
    AG_TRY_(lex_.expect("{"));
    auto s = std::make_shared<Seq>();
    AG_TRY_(seq(*s, depth + 1));
    return s;
  }

  Result<KernelCall> call() {
    KernelCall c;
    std::uint32_t kernel = 0;
    AG_TRY_(number(kernel));
    c.kernel = KernelId(kernel);
    AG_TRY_(references(c.buffers));
    if (lex_.accept("dims"))
      AG_TRY_(list([&]() -> Status {
        AG_TRY(Dim d, lex_.dim());
        c.dims.push_back(std::move(d));
        return {};
      }));
    if (lex_.accept("origins")) AG_TRY_(list([&]() -> Status { return number(c.origins.emplace_back()); }));
    AG_TRY_(label(c.label));
    return c;
  }

  Result<HostCall> host() {
    HostCall h;
    AG_TRY_(number(h.function));
    AG_TRY_(references(h.inputs));
    AG_TRY_(lex_.expect("->"));
    AG_TRY_(references(h.outputs));
    AG_TRY_(label(h.label));
    return h;
  }
};

}  // namespace

Result<Program> parse_program(std::string_view text, std::string file) {
  return ProgramParser(text, std::move(file)).run();
}

}  // namespace ag::loop
