// The look of diagnostics, byte for byte.
#include <nlohmann/json.hpp>
#include <random>

#include "ir/base/diag.hpp"
#include "ir/base/utf8.hpp"
#include "tests/diag/golden.hpp"

using namespace ag;

namespace {

constexpr std::string_view linear = R"({
  "ag": 1, "opset": 21, "name": "linear",
  "inputs": [
    { "name": "x", "type": "f32[3,4]" },
    { "name": "w", "type": "f32[6,4]" }
  ],
  "nodes": [
    { "op": "MatMul", "in": ["x", "w"], "out": "y" }
  ],
  "outputs": ["y"]
}
)";

/// A file of sources and places in it, found by the text that stands there.
struct File {
  Sources sources;
  std::shared_ptr<const std::string> name;
  std::string text;

  File(std::string file, std::string_view content) : text(content) { name = sources.add(std::move(file), text); }

  Loc range(std::size_t begin, std::size_t end, std::string pointer = {}) const {
    auto place = [&](std::size_t at) {
      std::string before = text.substr(0, at);
      auto line = 1 + std::count(before.begin(), before.end(), '\n');
      auto col = at - (before.rfind('\n') == std::string::npos ? 0 : before.rfind('\n') + 1) + 1;
      return std::pair(static_cast<std::uint32_t>(line), static_cast<std::uint32_t>(col));
    };
    auto [l0, c0] = place(begin);
    auto [l1, c1] = place(end);
    return {name, l0, c0, l1, c1, std::move(pointer)};
  }
  Loc of(std::string_view piece, std::string pointer = {}) const {
    std::size_t at = text.find(piece);
    REQUIRE(at != std::string::npos);
    return range(at, at + piece.size(), std::move(pointer));
  }
  void check(const std::string& golden, const Diags& diags) const {
    check_golden(golden + ".txt", render(diags, sources));
    std::string json = render(diags, sources, DiagFormat::json);
    check_golden(golden + ".json", json);
    std::istringstream in(json);
    std::size_t count = 0;
    for (std::string line; std::getline(in, line); ++count) CHECK_NOTHROW(nlohmann::json::parse(line).at("spans"));
    CHECK(count == diags.size());
    check_golden(golden + ".short", render(diags, sources, DiagFormat::short_));
  }
};

Diag some_error(Loc loc, std::string message, std::string label = {}) {
  return error(Code::AG9001, std::move(loc), std::move(message), std::move(label));
}

}  // namespace

TEST_CASE("several spans, a note, and a fix as a diff") {
  File f("linear.json", linear);
  auto d = some_error(f.of(R"(["x", "w"])", "/nodes/0/in"),
                      "`MatMul` inner dimensions differ: `x` has 4 columns, `w` has 6 rows",
                      "needs x[.., 3, K] * w[.., K, N]: K is 4 on the left and 6 on the right")
               .at(f.of("\"f32[3,4]\"", "/inputs/0/type"), "`x` is [3, 4]")
               .at(f.of("\"f32[6,4]\"", "/inputs/1/type"), "`w` is [6, 4]")
               .at(f.of("\"MatMul\""))
               .note("the transpose of `w` is [4, 6] and would fit: the result would be f32[3,6]")
               .help("transpose `w` first", f.of(R"({ "op": "MatMul", "in": ["x", "w"], "out": "y" })"),
                     R"({ "op": "Transpose", "in": ["w"], "out": "w_t", "attrs": { "perm": [1, 0] } },
    { "op": "MatMul", "in": ["x", "w_t"], "out": "y" })");
  f.check("matmul", {d});
}

TEST_CASE("labels on one line hang below, the last stands beside") {
  File f("linear.json", linear);
  auto d = some_error(f.of(R"("in")"), "all at once", "the middle")
               .at(f.of("\"MatMul\""), "the first")
               .at(f.of("\"y\" }"), "the last")
               .at(f.of("\"op\""), "before all");
  auto no_last_label = some_error(f.of("\"MatMul\""), "the last one has no label", "hangs").at(f.of("\"w\"]"));
  auto nested = some_error(f.of("\"x\", \"w\""), "one in the other", "inner")
                    .at(f.of(R"(["x", "w"], "out": "y")"), "outer")
                    .at(f.of("[\"x\""), "same start as outer");
  f.check("one_line", {d, no_last_label, nested});
}

TEST_CASE("spans of several lines are drawn by brackets") {
  File f("tall.json", R"({
  "nodes": [
    {
      "op": "If",
      "in": ["c"],
      "regions": {
        "then_branch": {
          "nodes": [],
          "outputs": ["a"]
        },
        "else_branch": { "nodes": [],
          "outputs": ["b"] }
      },
      "out": "y"
    }
  ]
})");
  auto region = [&](std::string_view from, std::string_view to) {
    std::size_t a = f.text.find(from), b = f.text.find(to, a);
    return f.range(a, b + to.size());
  };
  auto indented = some_error(region("{\n      \"op\"", "\"y\"\n    }"), "a whole node", "this node");
  auto tail = some_error(region("{ \"nodes\": [],\n", "] }"), "begins after text", "this branch")
                  .at(region("{\n          \"nodes\"", "]\n        }"), "the other branch");
  auto nested = some_error(f.of("\"outputs\": [\"a\"]"), "a line within brackets", "here")
                    .at(region("{\n      \"op\"", "\"y\"\n    }"), "in this node")
                    .at(region("{\n          \"nodes\"", "]\n        }"), "in this branch");
  f.check("brackets", {indented, tail, nested});
}

TEST_CASE("gaps, line numbers of several digits, two files, notes with places") {
  std::string many;
  for (int i = 1; i <= 1200; ++i) many += "line " + std::to_string(i) + "\n";
  File f("many.txt", many);
  auto other = f.sources.add("other.txt", "first\nsecond\n");
  auto d = some_error(f.of("line 1100"), "far apart", "here")
               .at(f.of("line 9\n"), "there\nand a line break")
               .at(f.of("line 11\n"), "one line between")
               .at({other, 2, 1, 2, 7, "/x"}, "in another file")
               .note("it was declared here", Loc{other, 1, 1, 1, 6, ""})
               .note("and that is all")
               .help("say it differently", f.of("line 1100"), "row 1100")
               .remove("or not at all", f.of("line 1101\n"))
               .help("or ask");
  f.check("far", {d});
}

TEST_CASE("tabs, wide and combining characters, bytes that are not UTF-8, control characters") {
  File f("odd.json",
         "\t{ \"name\": \"\xe5\xb1\x82\xe4\xb8\x80\", \"b\": \"e\xcc\x81t\xc3\xa9\", \"c\": 1 }\n"
         "\x1b[31m \"esc\" \xff\xfe \"bad\" \xe2\x80\xae \"bidi\"\r\n"
         "\xf0\x9f\x98\x80 \"emoji\"\n");
  f.check("odd", {some_error(f.of("\"b\""), "after \xe5\xb1\x82", "b").at(f.of("\"c\""), "c"),
                  some_error(f.of("\"esc\""), "name `\x1b[0m\r\n\xff` is odd", "label \x07")
                      .at(f.of("\"bad\""), "x")
                      .at(f.of("\"bidi\""), "y"),
                  some_error(f.of("\"emoji\""), "after an emoji", "here")});
}

TEST_CASE("long lines are windows around the marks") {
  std::string line = "{\"nodes\":[";
  for (int i = 0; i < 400; ++i)
    line += (i ? "," : "") + std::string("{\"op\":\"Add\",\"out\":\"v") + std::to_string(i) + "\"}";
  File f("minified.json", line + "]}");
  auto d = some_error(f.of("\"v200\""), "defined twice", "again")
               .at(f.of("\"v3\""), "first here")
               .at(f.of("\"v399\""), "and at the end")
               .at(f.of("\"v201\""), "near")
               .help("rename it", f.of("\"v200\""), "\"w200\"");
  auto whole = some_error(f.range(0, f.text.size()), "all of it", "this");
  f.check("long", {d, whole});
}

TEST_CASE("places that cannot be shown") {
  File f("short.txt", "one\ntwo\n");
  auto at = [&](std::uint32_t l, std::uint32_t c, std::uint32_t el, std::uint32_t ec) {
    return Loc{f.name, l, c, el, ec, ""};
  };
  auto gone = std::make_shared<const std::string>("gone\n.json");
  auto onnx = std::make_shared<const std::string>("resnet.onnx");
  f.check("unshown", {some_error(at(2, 4, 2, 4), "at the end of a line", "here"),
                      some_error(at(3, 1, 3, 1), "at the end of the file", "here"),
                      some_error(at(1, 90, 1, 99), "beyond a line", "here"),
                      some_error(at(9, 1, 9, 5), "beyond the file", "nowhere"),
                      some_error(at(1, 2, 7, 1), "ends beyond the file", "much"),
                      some_error(at(2, 3, 1, 1), "ends before it begins", "x"),
                      some_error(at(2, 0, 0, 0), "only the line", "this line"),
                      some_error(Loc{gone, 3, 4, 3, 5, "/a"}, "no source", "label").at(at(1, 1, 1, 4), "but here"),
                      some_error(Loc{onnx, 0, 0, 0, 0, "graph \"main\", node 17 \"conv1\" (Conv), input 1 \"w\""},
                                 "an ONNX path", "has 3 channels")
                          .at(Loc{onnx, 0, 0, 0, 0, "graph \"main\", node 3 \"x\""}, "has 4 channels"),
                      some_error({}, "no place at all").note("a note").help("say this", {}, "that"),
                      warning(Code::AG9001, at(1, 1, 1, 4), "a warning", "look")});
}

TEST_CASE("json_quote gives valid UTF-8 and escapes") {
  CHECK(json_quote("a\"\\\n\t\x01\xff\xe2\x80\xae\xc3\xa9") == "\"a\\\"\\\\\\n\\t\\u0001\xef\xbf\xbd\\u202e\xc3\xa9\"");
  CHECK(printable("\xed\xa0\x80\xc0\x80") == "\\xed\\xa0\\x80\\xc0\\x80");
}

TEST_CASE("any places in any bytes render, with nothing unprintable") {
  std::mt19937 rng(7);
  auto number = [&](std::uint32_t below) {
    return rng() % 40 == 0 ? UINT32_MAX - static_cast<std::uint32_t>(rng() % 2)
                           : static_cast<std::uint32_t>(rng() % below);
  };
  const std::string pieces[] = {
      "a", " ", "\n", "\t", "\r\n", "\xff", "\xe5\xb1\x82", "\xcc\x81", "\x1b", "word", std::string(1, '\0')};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (unsigned n = rng() % 60; n > 0; --n) text += pieces[rng() % std::size(pieces)];
    if (rng() % 4 == 0) text += std::string(rng() % 400, 'x') + text;
    File f("f", text);
    auto loc = [&] { return Loc{rng() % 9 ? f.name : nullptr, number(9), number(60), number(9), number(60), ""}; };
    Diag d = some_error(loc(), text, text);
    for (unsigned n = rng() % 4; n > 0; --n) d.at(loc(), rng() % 2 ? text : "label");
    d.note(text, loc()).help(text, loc(), text).remove("remove", loc());
    for (DiagFormat format : {DiagFormat::text, DiagFormat::short_, DiagFormat::json}) {
      std::string out = render(d, f.sources, format);
      REQUIRE(
          std::none_of(out.begin(), out.end(), [](char c) { return c != '\n' && static_cast<unsigned char>(c) < 32; }));
      if (format == DiagFormat::json) REQUIRE_NOTHROW(nlohmann::json::parse(out));
    }
  }
}
