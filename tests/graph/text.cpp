// The text form: what is printed is read back to the same graph, byte for byte; what is no text of ours is refused.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "ir/base/sha256.hpp"
#include "ir/op.hpp"
#include "ir/text.hpp"

using namespace ag;

namespace {

/// Random graphs over the whole op table: whatever the builder accepts, with names, places and literals of all kinds.
class Generator {
 public:
  explicit Generator(std::uint32_t seed) : random_(seed) {}

  Graph graph() {
    Graph g;
    g.name = text();
    g.stage = pick<std::string>({"import", "autodiff", "a b"});
    g.opset = below(30);
    g.ag_opset = 1 + below(2);
    if (below(2)) g.symbols = {{.name = "N", .min = 1, .loc = place()}, {.name = "a b", .max = 9, .multiple_of = -3}};
    if (below(2)) g.extras = {{"x-" + text(), "{\"a\": [1, \"\\n\"]}"}, {"doc", "\"\""}};
    GraphBuilder b(g);
    for (int i = 0; i < 3; ++i) finish(g, g.def(input(b)).first_result);
    for (int i = 0; i < 25; ++i) step(b);
    if (below(2)) std::swap(g.inputs[0], g.inputs.back());
    for (int i = 0; i < 3; ++i) g.outputs.push_back({i ? text() + std::to_string(i) : "", any(g), place()});
    for (int i = below(3); i > 0; --i) g.grads.push_back(request());
    return g;
  }

 private:
  std::mt19937 random_;

  int below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  template <class T>
  T pick(std::vector<T> list) {
    return list[static_cast<std::size_t>(below(static_cast<int>(list.size())))];
  }
  ValueId any(const Graph& g) { return ValueId(static_cast<std::size_t>(below(static_cast<int>(g.value_count())))); }

  std::string text() {
    return pick<std::string>({"", "x", "layer.0/weight:0", "a \"quoted\" \\ name",
                              "tab\tnewline\nnull" + std::string(1, '\0') + "end", "\xc3\xa9", "_", "//", "%3"});
  }
  Loc place() {
    if (!below(4)) return {};
    Loc l = make_loc(pick<std::string>({"m.json", "dir/m.json", "two words", "_", "", "a:b", "x-1"}),
                     static_cast<std::uint32_t>(below(3)), static_cast<std::uint32_t>(below(3)));
    if (below(2))
      l.end_line = 0, l.end_col = 0;
    else
      l.end_line = l.line + 1, l.end_col = 7;
    if (below(2)) l.pointer = pick<std::string>({"/nodes/0/in", "/a b", "#", "/n-1~0"});
    if (!below(8)) l.file = nullptr;
    return l;
  }
  GradRequest request() {
    GradRequest r;
    r.of = text(), r.of_loc = place(), r.loc = place(), r.trainable = below(2);
    if (below(2)) r.wrt = {text(), text()}, r.wrt_locs = {place()};
    if (below(2)) r.seed = text(), r.seed_loc = place();
    if (below(2)) r.seed_value = pick<double>({1, -0.0, NAN, 0.1});
    if (below(2)) r.names = {{text(), text()}, {text(), text()}};
    if (below(2)) r.stop = {text()}, r.stop_locs = {place(), place()};
    r.checkpoint = pick<std::string>({"", "auto", "sqrt"});
    return r;
  }

  ValueId input(GraphBuilder& b) {
    auto type = pick<std::string>({"f32[N,4]", "f32[]", "f64[3]", "i64[2*N + 1]", "f32[\"a b\"]", "bool[N,4]",
                                   "i32[N,4]", "bf16[u4.1]", "u8[0,5]"});
    GraphBuilder::NodeArgs args;
    args.attrs.set("type", *Type::parse(type));
    ValueId v = b.graph().node(b.try_add(op("input"), std::move(args)).value()).result();
    b.graph().inputs.push_back(v);
    return v;
  }

  LiteralPtr literal() {
    auto t = static_cast<DType>(below(dtype_count));
    auto shape = pick<std::vector<std::int64_t>>({{}, {0}, {1}, {3}, {2, 2}, {9, 9}, {2, 0, 3}});
    Array a(t, shape);
    std::span<std::byte> bytes = a.mutable_bytes();
    for (std::byte& x : bytes) x = static_cast<std::byte>(t == DType::boolean ? below(2) : below(256));
    if (below(3) == 0 && is_float(t))  // all kinds of special values
      for (std::int64_t i = 0; i < a.elems(); ++i)
        a.set_double(i, pick<double>({0.0, -0.0, INFINITY, -INFINITY, NAN, 1e-40, 0.1, 65504, 1e300}));
    auto l = std::make_shared<Literal>();
    l->dtype = t, l->shape = shape;
    l->inline_operand = below(2);
    l->form = static_cast<Literal::Form>(below(4));
    if (l->form == Literal::Form::splat) {
      if (a.elems()) std::memcpy(&l->bits, a.bytes().data(), dtype_bytes(t));
    } else if (l->form == Literal::Form::random) {
      l->distribution = pick<std::string>({"normal", "uniform"});
      l->scale = pick<double>({1, 0.02, 1e-7});
      l->key = pick<std::uint64_t>({0, 7, ~std::uint64_t{0}});
    } else {
      l->array = a;
      if (l->form == Literal::Form::file) l->file = text(), l->file_key = text();
    }
    return l;
  }

  AttrValue attr(const AttrSpec& spec) {
    switch (spec.kind) {
      case AttrKind::integer: return std::int64_t{below(4) - 2};
      case AttrKind::number: return pick<double>({1, 0.5, -0.0, INFINITY, std::bit_cast<double>(0x7ff8000000000007)});
      case AttrKind::boolean: return below(2) == 1;
      case AttrKind::string:
        return spec.choices.empty()
                   ? text()
                   : std::string(spec.choices[static_cast<std::size_t>(below(static_cast<int>(spec.choices.size())))]);
      case AttrKind::ints: return pick<std::vector<std::int64_t>>({{}, {0}, {1, 0}, {0, 1}, {1, 1}});
      case AttrKind::numbers: return pick<std::vector<double>>({{}, {1, NAN}, {0.5}});
      case AttrKind::strings: return pick<std::vector<std::string>>({{}, {text()}, {"a", text()}});
      case AttrKind::dtype: return static_cast<DType>(below(dtype_count));
      case AttrKind::dims:
        return pick<Dims>({{}, {4}, {Dim::symbol("N"), 4}, {Dim::symbol("N") * 4}, {Dim::symbol("a b")}});
      case AttrKind::literal: return literal();
      case AttrKind::type: return *Type::parse(pick<std::string>({"f32[4]", "i64[N,4]"}));
    }
    return {};
  }

  void step(GraphBuilder& b) {
    Graph& g = b.graph();
    const auto& ops = op_table().all();
    for (int tries = 0; tries < 40; ++tries) {
      const OpInfo& o = below(5) ? ops[static_cast<std::size_t>(below(static_cast<int>(ops.size())))] : op("constant");
      if (o.name == "input" || !o.regions.empty()) continue;
      GraphBuilder::NodeArgs args;
      for (const OperandSpec& s : o.operands) {
        int count = s.variadic ? 1 + below(3) : 1;
        for (int i = 0; i < count; ++i) args.operands.push_back(s.optional && below(2) ? ValueId() : any(g));
      }
      for (const AttrSpec& s : o.attrs)
        if (s.required || below(2)) args.attrs.set(s.name, attr(s));
      if (below(2)) args.name = text();
      for (int i = below(4); i > 0; --i) args.locs.push_back(place());
      if (!below(3)) args.grad_of = any(g);
      if (!below(4)) args.remat = static_cast<std::uint32_t>(1 + below(9));
      if (!below(4)) args.extras = {{"x-a", "\"" + std::to_string(below(9)) + "\""}};
      if (auto id = b.try_add(o, std::move(args))) return finish(g, g.node(*id).result());
    }
  }

  void finish(Graph& g, ValueId first) {
    const Node& n = g.def(first);
    for (std::uint32_t r = 0; r < n.result_count; ++r)
      if (below(2)) {
        std::string name = text();
        if (!name.empty() && g.find(name)) name += std::to_string(n.result(r).index);
        g.set_name(n.result(r), name);
      }
  }
};

Code code_of(const Result<Graph>& r) { return r ? Code{} : r.error()[0].code; }
std::string loc_of(const Result<Graph>& r) {
  return r || r.error()[0].spans.empty() ? "" : r.error()[0].spans[0].loc.str();
}
Result<Graph> parse_body(const std::string& body) {
  return parse_graph("ag.ir 1 stage=import opset=21\ngraph @g {\n" + body + "\n}\n", "t.ag");
}

}  // namespace

TEST_CASE("random graphs print, parse and print the same") {
  std::size_t nodes = 0;
  std::set<std::string_view> ops;
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    Graph g = Generator(seed).graph();
    INFO("seed " << seed);
    if (auto sound = verify(g); !sound) FAIL(print(g) << sound.error()[0].message);
    std::string first = print(g);
    auto back = parse_graph(first);
    if (!back) FAIL(first << back.error()[0].message << " at " << loc_of(back));
    REQUIRE(print(*back) == first);
    nodes += g.node_count();
    for (NodeId id : g.node_ids()) ops.insert(g.node(id).op->name);
    for (NodeId id : g.node_ids()) REQUIRE(equal(g.node(id).attrs, back->node(id).attrs));
  }
  CHECK(nodes > 300 * 20);
  CHECK(ops.size() > 30);
}

TEST_CASE("random graphs survive resources; damaged resources are refused") {
  auto folder = std::filesystem::temp_directory_path() / "ag_test_resources";
  std::filesystem::remove_all(folder);
  Graph g;
  GraphBuilder b(g);
  Array a(DType::f32, {100});
  for (std::int64_t i = 0; i < 100; ++i) a.set_double(i, 0.1 * static_cast<double>(i));
  g.outputs.push_back({"w", b.constant(make_literal(a)), {}});
  std::string text = print_with_resources(g, folder.string()).value();
  CHECK(text.find("base64") == std::string::npos);
  auto back = parse_graph(text, "t.ag", folder.string());
  REQUIRE(back);
  CHECK(print(*back) == print(g));
  CHECK(code_of(parse_graph(text)) == Code::AG0305);
  for (const auto& file : std::filesystem::directory_iterator(folder)) std::ofstream(file.path(), std::ios::app) << "x";
  CHECK(code_of(parse_graph(text, "t.ag", folder.string())) == Code::AG0305);
  std::filesystem::remove_all(folder);
  CHECK(code_of(parse_graph(text, "t.ag", folder.string())) == Code::AG0305);
}

TEST_CASE("elided text is no input") {
  Graph g;
  GraphBuilder b(g);
  g.outputs.push_back({"w", b.constant(make_literal(Array::of<int>(DType::i32, {3}, std::vector<int>{1, 2, 3}))), {}});
  std::string text = print(g, {.elide_weights = true, .inline_elems = 2});
  CHECK(text.find("elided") != std::string::npos);
  CHECK(code_of(parse_graph(text)) == Code::AG0304);
}

TEST_CASE("the text looks as documented") {
  Graph g;
  g.name = "two_dot";
  GraphBuilder b(g);
  ValueId x = b.input("x", *Type::parse("f32[N]"), make_loc("two_dot.json", 3, 18));
  b.set_origin({make_loc("two_dot.json", 5, 5)});
  ValueId y = b.add_op("mul", {x, b.scalar(DType::f32, 2)});
  g.set_name(y, "y");
  b.set_origin({make_loc("two_dot.json", 6, 5)}, y);
  ValueId d = b.neg(y);
  g.outputs = {{"y", y, make_loc("two_dot.json", 7, 1)}, {"y_grad", d, {}}};
  CHECK(print(g) == R"(ag.ir 1 stage=import opset=21
graph @two_dot {
  %0: f32[N] = input  "x"  @two_dot.json:3:18
  %1: f32[] = constant 2  @two_dot.json:5:5
  %2: f32[N] = mul %0, %1  "y"  @two_dot.json:5:5
  %3: f32[N] = neg %2 grad(%2)  @two_dot.json:6:5
  return "y" %2  @two_dot.json:7:1, "y_grad" %3
}
)");
}

TEST_CASE("malformed texts are refused with a place") {
  CHECK(code_of(parse_graph("")) == Code::AG0301);
  CHECK(code_of(parse_graph("ag.ir 2 graph {return}")) == Code::AG0301);
  CHECK(parse_graph("ag.ir 1 graph {return}"));
  struct Case {
    std::string body;
    Code code;
    std::string at;
  };
  for (const Case& c : std::vector<Case>{
           {"  %0: f32[] = inptu\n return", Code::AG0306, "t.ag:3:15"},
           {"  %1: f32[] = input\n return", Code::AG1107, "t.ag:3:3"},
           {"%0: f32[] = neg %0\n return", Code::AG1107, "t.ag:3:17"},
           {"%0: f32[2] = input\n%1: f32[3] = neg %0\n return", Code::AG2103, "t.ag:4:1"},
           {"%0: f32[2] = input\n%1: f32[2], %2: f32[2] = neg %0\n return", Code::AG2103, "t.ag:4:1"},
           {"%0: f32[2] = input\n%1: f32[2] = neg %0, %0\n return", Code::AG1101, "t.ag:4:1"},
           {"%0: f32[2] = input\n%1: f32[2] = neg %0 {alpha = 1}\n return", Code::AG1102, "t.ag:4:1"},
           {"%0: f32[2] = constant [1, x]\n return", Code::AG0303, "t.ag:3:27"},
           {"%0: f32[2] = constant [1]\n return", Code::AG0303, "t.ag:3:23"},
           {"%0: u8[] = constant 256\n return", Code::AG0303, "t.ag:3:21"},
           {"%0: i32[] = constant 1.0\n return", Code::AG0303, "t.ag:3:22"},
           {"%0: f32[N] = constant 1\n return", Code::AG0303, "t.ag:3:23"},
           {"%0: f32[4611686018427387904,4611686018427387904] = constant splat 1\n return", Code::AG0303, ""},
           {"%0: f32[1000000000000] = constant base64 \"AAAA\"\n return", Code::AG0303, ""},
           {"%0: bool[3] = constant base64 \"AgAA\"\n return", Code::AG0303, ""},
           {"%0: f32[2] = constant base64 \"A\"\n return", Code::AG0303, ""},
           {"%0: f32[2] = constant resource \"../../etc/passwd\"\n return", Code::AG0303, ""},
           {"%0: f32[-1] = input\n return", Code::AG0303, ""},
           {"%0: f32[2 = input\n return", Code::AG0302, ""},
           {"%0: f32[2] = input \"x\"\n%1: f32[2] = input \"x\"\n return", Code::AG1107, "t.ag:4:20"},
           {"%0: f32[2] = input \"x\n return", Code::AG0302, "t.ag:3:20"},
           {"%0: f32[2] = input \"\\q\"\n return", Code::AG0302, ""},
           {"%0: f32[2] = input\n inputs %0, %0\n return", Code::AG1107, ""},
           {"%0: f32[2] = input\n return %1", Code::AG1107, "t.ag:4:9"},
           {"%0: f32[2] = input\n return \"a\" %0, \"a\" %0", Code::AG1107, ""},
           {"%0: f32[2] = input grad(%5)\n return", Code::AG1107, ""},
           {"return } x", Code::AG0302, ""},
       }) {
    INFO(c.body);
    auto r = parse_body(c.body);
    CHECK(code_name(code_of(r)) == code_name(c.code));
    if (!c.at.empty()) CHECK(loc_of(r) == c.at);
  }
}

TEST_CASE("no mutation of a text brings the parser down") {
  std::mt19937 random(1);
  int accepted = 0;
  for (std::uint32_t seed = 0; seed < 30; ++seed) {
    std::string text = print(Generator(seed).graph());
    for (int i = 0; i < 100; ++i) {
      std::string t = text;
      for (int k = 0; k < 3; ++k) {
        std::size_t at = random() % t.size();
        switch (random() % 4) {
          case 0: t.erase(at, 1 + random() % 9); break;
          case 1: t[at] = static_cast<char>(random()); break;
          case 2: t.insert(at, t.substr(random() % t.size(), random() % 20)); break;
          default: t.insert(at, 1, "0\"[]{}(),%@-9"[random() % 13]); break;
        }
        if (t.empty()) t = " ";
      }
      auto r = parse_graph(t);
      accepted += r.has_value();
      if (r) REQUIRE(print(parse_graph(print(*r)).value()) == print(*r));
    }
  }
  CHECK(accepted > 0);
}

TEST_CASE("base64 and SHA-256") {
  auto bytes = [](std::string_view s) { return std::as_bytes(std::span(s)); };
  CHECK(text::base64(bytes("")) == "");
  CHECK(text::base64(bytes("f")) == "Zg==");
  CHECK(text::base64(bytes("fo")) == "Zm8=");
  CHECK(text::base64(bytes("foobar")) == "Zm9vYmFy");
  for (const char* bad : {"Zg=", "Z===", "====", "Zg==Zg==", "Zm9 "}) CHECK_FALSE(text::from_base64(bad));
  CHECK(text::from_base64("Zm8=")->size() == 2);
  CHECK(sha256_hex(bytes("")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex(bytes("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex(bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}
