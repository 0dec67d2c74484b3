// Places, spellings and refusals of JSON texts.
#include <catch2/catch.hpp>

#include "frontend/json/document.hpp"

using namespace ag;
using json::Document;
using json::Kind;

namespace {

Result<std::shared_ptr<const Document>> parse(std::string text, json::Limits limits = {}) {
  return Document::parse(std::move(text), std::make_shared<std::string>("t.json"), limits);
}

std::string range(const Loc& l) {
  return std::to_string(l.line) + ":" + std::to_string(l.col) + "-" + std::to_string(l.end_line) + ":" +
         std::to_string(l.end_col);
}

/// "AG0002 1:3 message" of the first error.
std::string refusal(std::string text, json::Limits limits = {}) {
  auto doc = parse(std::move(text), limits);
  if (doc) return "accepted";
  const Diag& d = doc.error().front();
  const Loc& l = d.spans.front().loc;
  return code_name(d.code) + " " + std::to_string(l.line) + ":" + std::to_string(l.col) + " " + d.message;
}

}  // namespace

TEST_CASE("every token has its exact range") {
  auto doc = parse(
      "{ \"a\": [1, -2.50e3 ,\ttrue,null],\n  \"b\\n\\u00e9\": { \"c\": \"x\\ty\" },\n\"d\":\"\xc3\xa9\", \"e\": [] , "
      "\"f\":{}}\n");
  REQUIRE(doc);
  json::View root = (*doc)->root();
  CHECK(range(root.loc()) == "1:1-3:28");
  json::View a = root.find("a");
  CHECK(range(a.loc()) == "1:8-1:32");
  CHECK(range(a.key_loc()) == "1:3-1:6");
  CHECK(range(a[0].loc()) == "1:9-1:10");
  CHECK(range(a[1].loc()) == "1:12-1:19");
  CHECK(a[1].spelling() == "-2.50e3");
  CHECK(a[1].as_double() == -2500);
  CHECK(range(a[2].loc()) == "1:22-1:26");
  CHECK(range(a[3].loc()) == "1:27-1:31");
  CHECK(!a[4]);
  CHECK(a.size() == 4);
  json::View b = root[1];
  CHECK(b.key() == "b\n\xc3\xa9");
  CHECK(range(b.key_loc()) == "2:3-2:14");
  CHECK(b.find("c").str() == "x\ty");
  CHECK(range(b.find("c").loc()) == "2:23-2:29");
  CHECK(b.find("c").pointer() == "/b\n\xc3\xa9/c");
  CHECK(a[3].pointer() == "/a/3");
  CHECK(root.find("d").str() == "\xc3\xa9");
  CHECK(root.find("e").size() == 0);
  CHECK(root.find("f").is(Kind::object));
  CHECK(root.size() == 5);
  CHECK(json::compact(root) ==
        "{ \"a\": [1, -2.50e3, true, null], \"b\\n\xc3\xa9\": { \"c\": \"x\\ty\" }, \"d\": \"\xc3\xa9\", \"e\": [], "
        "\"f\": {} }");
}

TEST_CASE("numbers keep their spelling") {
  auto doc = parse(
      "[2, 2.0, 9223372036854775807, 9223372036854775808, -9223372036854775808, 18446744073709551616, -0, 1e-400, "
      "1E2]");
  REQUIRE(doc);
  json::View v = (*doc)->root();
  CHECK(v[0].is(Kind::integer));
  CHECK(v[1].is(Kind::number));
  CHECK(v[2].as_int() == INT64_MAX);
  CHECK(!v[3].as_int());
  CHECK(v[3].as_uint() == std::uint64_t{1} << 63);
  CHECK(v[4].as_int() == INT64_MIN);
  CHECK(!v[5].as_uint());
  CHECK(v[5].is(Kind::integer));
  CHECK(v[5].as_double() == 18446744073709551616.0);
  CHECK(v[6].as_int() == 0);
  CHECK(v[7].as_double() == 0);
  CHECK(v[8].is(Kind::number));
}

TEST_CASE("texts that are not JSON are refused with a place and a reason") {
  struct Case {
    std::string text, expected;
  };
  const Case cases[] = {
      {"", "AG0002 1:1 the text is empty"},
      {" \n ", "AG0002 1:1 the text is empty"},
      {"[1,]", "AG0003 1:3 trailing comma in array"},
      {"{\"a\": 1,\n}", "AG0003 1:8 trailing comma in object"},
      {"[1 2]", "AG0002 1:3 missing comma between the items of an array"},
      {"{\"a\": 1\n \"b\": 2}", "AG0002 1:8 missing comma between the items of an object"},
      {"[1,,2]", "AG0002 1:4 two commas in array"},
      {"[,1]", "AG0002 1:2 a value is missing before this comma"},
      {"{\"a\" 1}", "AG0002 1:6 `1` where `:` is expected"},
      {"{\"a\" = 1}", "AG0002 1:6 `=` where `:` is expected"},
      {"{a: 1}", "AG0002 1:2 key `a` is not in quotes"},
      {"{\"a\": 1, b: 2}", "AG0002 1:10 key `b` is not in quotes"},
      {"{'a': 1}", "AG0002 1:2 strings stand in double quotes"},
      {"['a']", "AG0002 1:2 strings stand in double quotes"},
      {"[1] x", "AG0002 1:5 `x` after the end of the document"},
      {"{} {}", "AG0002 1:4 `{` after the end of the document"},
      {"[1, NaN]", "AG0002 1:5 `NaN` is not JSON"},
      {"[-Infinity]", "AG0002 1:2 `-Infinity` is not JSON"},
      {"[True]", "AG0002 1:2 `True` is not JSON"},
      {"[1e400]", "AG0008 1:2 number `1e400` is out of range"},
      {"[-1e400]", "AG0008 1:2 number `-1e400` is out of range"},
      {"[01]", "AG0002 1:2 malformed number `01`"},
      {"[+1]", "AG0002 1:2 malformed number `+1`"},
      {"[.5]", "AG0002 1:2 malformed number `.5`"},
      {"[5.]", "AG0002 1:2 malformed number `5.`"},
      {"[0x1f]", "AG0002 1:2 malformed number `0x1f`"},
      {"[1}", "AG0002 1:3 `}` closes an array"},
      {"{\"a\": 1]", "AG0002 1:8 `]` closes an object"},
      {"{\"a\": }", "AG0002 1:7 `}` where a value is expected"},
      {"[1, 2", "AG0002 1:6 the text ends inside an array"},
      {"{\"a\": [1], ", "AG0002 1:12 the text ends inside an object"},
      {"{\"a\"", "AG0002 1:5 the text ends inside an object"},
      {"[\"abc", "AG0002 1:6 the text ends inside a string"},
      {"[\"ab\nc\"]", "AG0002 1:5 a string is not closed on its line"},
      {"[\"a\\qb\"]", "AG0002 1:4 unknown escape `\\q` in a string"},
      {"[\"a\tb\"]", "AG0002 1:4 control character 0x09 in a string"},
      {"[\"\\ud800\"]", "AG0002 1:3 half of a surrogate pair"},
      {"[\"\\udc00\"]", "AG0002 1:3 half of a surrogate pair"},
      {"[\"\\u12g4\"]", "AG0002 1:3 `\\u` needs four hexadecimal digits"},
      {"[1, // x\n2]", "AG0002 1:5 JSON has no comments"},
      {"[1 /* x */, 2]", "AG0002 1:4 JSON has no comments"},
      {"[1, abc]", "AG0002 1:5 `abc` is not a JSON value"},
      {"\xef\xbb\xbf[]", "AG0004 1:1 the text starts with a byte order mark (0xef 0xbb 0xbf)"},
      {"[\"a\xff\"]", "AG0004 1:4 byte 0xff is not valid UTF-8"},
      {"[\"\xc0\x80\"]", "AG0004 1:3 byte 0xc0 is not valid UTF-8"},
      {"[\"\xed\xa0\x80\"]", "AG0004 1:3 byte 0xed is not valid UTF-8"},
      {std::string("[1\0]", 4), "AG0004 1:3 byte 0x00 is not allowed"},
      {"{\"a\": 1,\n \"b\": 2, \"a\": 3}", "AG0007 2:10 key \"a\" is given twice"},
      {"{\"a\": 1, \"\\u0061\": 3}", "AG0007 1:10 key \"a\" is given twice"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.text);
    CHECK(refusal(c.text) == c.expected);
  }
}

TEST_CASE("limits hold at their edge") {
  auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(refusal(nested(63)) == "accepted");
  CHECK(refusal(nested(64)) == "accepted");
  CHECK(refusal(nested(65)) == "AG0005 1:65 arrays and objects are nested more than 64 deep");
  CHECK(refusal(std::string(1000000, '[')).starts_with("AG0005 1:65 "));
  CHECK(refusal("[12]", {.max_bytes = 4}) == "accepted");
  CHECK(refusal("[123]", {.max_bytes = 4}) == "AG0006 0:0 the text has 5 bytes; the limit is 4");
  auto deep = parse(nested(2000), {.max_depth = 2000});
  REQUIRE(deep);
  CHECK(json::compact((*deep)->root()).size() == 4000);
}

TEST_CASE("a text cut at any byte is refused or complete, never misread") {
  const std::string text = "{\"a\": [1, -2.5e3, true, null, \"x\\u00e9\\ud83d\\ude00\"], \"b\": {\"c\": \"\xc3\xa9\"}}";
  for (std::size_t n = 0; n < text.size(); ++n) {
    CAPTURE(text.substr(0, n));
    CHECK(refusal(text.substr(0, n)) != "accepted");
  }
  CHECK(refusal(text) == "accepted");
}
