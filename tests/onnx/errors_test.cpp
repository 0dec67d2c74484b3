// Malformed models, byte for byte, and what is said of each: tests/onnx/errors.txt, which AG_BLESS=1 rewrites.
#include <catch2/catch.hpp>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "frontend/load.hpp"
#include "frontend/onnx/onnx.hpp"
#include "ir/builder.hpp"
#include "tests/onnx/wire.hpp"

using namespace ag;
using namespace wire;
namespace fs = std::filesystem;

namespace {

struct Case {
  std::string name, bytes;
};

std::string relu(std::string_view more = {}) { return str(1, node("Relu", {"x"}, {"y"}, more)); }
std::string with_initializer(const std::string& t) {
  return model(graph_of(str(1, node("Add", {"x", "w"}, {"y"})), str(5, t)));
}
std::string floats(int n) { return std::string(static_cast<std::size_t>(4 * n), '\0'); }

std::string nested_if(int depth) {
  std::string g = str(1, node("Identity", {"x"}, {"v" + std::to_string(depth)})) +
                  str(12, value("v" + std::to_string(depth), 1, {2}));
  for (int i = depth; i-- > 0;) {
    std::string out = "v" + std::to_string(i), other = "w" + std::to_string(i);
    std::string otherwise = str(1, node("Identity", {"x"}, {other})) + str(12, value(other, 1, {2}));
    g = str(1,
            node("If", {"c"}, {out}, graph_attribute("then_branch", g) + graph_attribute("else_branch", otherwise))) +
        str(12, value(out, 1, {2}));
  }
  return model(g + str(2, "g") + str(11, value("x", 1, {2})) + str(11, value("c", 9, {})));
}

std::string chain_of_functions(int n) {
  std::string functions;
  for (int i = 0; i < n; ++i) {
    bool last = i + 1 == n;
    std::string body = last ? node("Relu", {"x"}, {"y"}) : call("f" + std::to_string(i + 1), "x", "y");
    functions += str(25, function("f" + std::to_string(i), {body}));
  }
  return model(graph_of(str(1, call("f0", "x", "y"))), 21, functions);
}

/// Each function calls the next one twice: 2^n nodes.
std::string doubling_functions(int n) {
  std::string functions;
  for (int i = 0; i < n; ++i) {
    std::string next = "f" + std::to_string(i + 1);
    std::vector<std::string> body = {node("Relu", {"x"}, {"y"})};
    if (i + 1 < n) body = {call(next, "x", "h"), call(next, "h", "y")};
    functions += str(25, function("f" + std::to_string(i), body));
  }
  return model(graph_of(str(1, call("f0", "x", "y"))), 21, functions);
}

std::vector<Case> cases() {
  std::vector<Case> out = {
      {"truncated", model(graph_of(relu())).substr(0, 30)},
      {"no graph", num(1, 8) + str(2, "exporter")},
      {"group end", num(1, 8) + "\x3c"},
      {"varint of eleven bytes", num(1, 8) + "\x28" + std::string(11, '\xff')},
      {"length beyond the end", num(1, 8) + "\x3a\xff\xff\xff\xff\x07"},
      {"dims below zero", with_initializer(tensor("w", {-2}, 1, floats(2)))},
      {"dims whose product overflows", with_initializer(tensor("w", {1ll << 40, 1ll << 40}, 1, floats(2)))},
      {"dims larger than the data", with_initializer(tensor("w", {1ll << 30}, 1, floats(2)))},
      {"dims smaller than the data", with_initializer(tensor("w", {1}, 1, floats(2)))},
      {"65 axes", with_initializer(tensor("w", std::vector<std::int64_t>(65, 1), 1, floats(1)))},
      {"data without dims to hold it", with_initializer(tensor("w", {0}, 1, floats(2)))},
      {"two kinds of data", with_initializer(tensor("w", {1}, 1, floats(1)) + str(4, floats(1)))},
      {"data in the wrong field", with_initializer(tensor("w", {1}, 1, "") + num(7, 1))},
      {"a byte of 300", with_initializer(tensor("w", {1}, 2, "") + num(5, 300))},
      {"a bool of 2", with_initializer(tensor("w", {1}, 9, "\x02"))},
      {"odd number of nibbles", with_initializer(tensor("w", {3}, 22, "\x01"))},
      {"a segment", with_initializer(tensor("w", {2}, 1, floats(2)) + str(3, num(1, 0)))},
      {"strings", with_initializer(tensor("w", {1}, 8, "") + str(6, "a"))},
      {"element type 99", with_initializer(tensor("w", {1}, 99, floats(1)))},
      {"external data above the folder", with_initializer(external("w", {2}, {{"location", "../w.bin"}}))},
      {"external data at an absolute path", with_initializer(external("w", {2}, {{"location", "/etc/passwd"}}))},
      {"external data behind a link", with_initializer(external("w", {2}, {{"location", "link"}}))},
      {"external data in a missing file", with_initializer(external("w", {2}, {{"location", "none.bin"}}))},
      {"external data without a file", with_initializer(external("w", {2}, {}))},
      {"external data of another length",
       with_initializer(external("w", {2}, {{"location", "w.bin"}, {"length", "4"}}))},
      {"external data beyond the end", with_initializer(external("w", {2}, {{"location", "w.bin"}, {"offset", "12"}}))},
      {"external data at a negative offset",
       with_initializer(external("w", {2}, {{"location", "w.bin"}, {"offset", "-8"}}))},
      {"external data with an unknown key",
       with_initializer(external("w", {2}, {{"location", "w.bin"}, {"basepath", "/"}}))},
      {"an address", with_initializer(external("w", {2}, {{"location", "*/_ORT_MEM_ADDR_/*"}, {"offset", "4096"}}))},
      {"both external and raw", with_initializer(external("w", {2}, {{"location", "w.bin"}}) + str(9, floats(2)))},
      {"unknown operators, all at once",
       model(graph_of(str(1, node("Rellu", {"x"}, {"a"})) + str(1, node("MatMull", {"a", "a"}, {"b"})) +
                      str(1, node("Rellu", {"b"}, {"c"})) + str(1, node("Foo", {"c"}, {"y"}, str(7, "acme")))))},
      {"opset 99", model(graph_of(relu()), 99)},
      {"two opsets of one domain", model(graph_of(relu()), 21, str(8, num(2, 20)))},
      {"unknown attribute", model(graph_of(relu(str(5, str(1, "slope") + num(3, 1) + num(20, 2)))))},
      {"attribute of the wrong kind",
       model(graph_of(str(1, node("Softmax", {"x"}, {"y"}, str(5, str(1, "axis") + str(4, "0") + num(20, 3))))))},
      {"undefined value", model(graph_of(str(1, node("Relu", {"xx"}, {"y"}))))},
      {"name defined twice", model(graph_of(str(1, node("Relu", {"x"}, {"x"})) + relu()))},
      {"an empty name", model(graph_of(relu(), str(5, tensor("", {1}, 1, floats(1)))))},
      {"a name that is no text", model(graph_of(relu(), str(5, tensor("\xff\xfe", {1}, 1, floats(1)))))},
      {"too many results", model(graph_of(str(1, node("Relu", {"x"}, {"y", "z"}))))},
      {"a sequence",
       model(relu() + str(11, str(1, "x") + str(2, str(4, str(1, str(1, num(1, 1)))))) + str(12, value("y", 1, {2})))},
      {"an input without rank",
       model(relu() + str(11, str(1, "x") + str(2, str(1, num(1, 1)))) + str(12, value("y", 1, {2})))},
      {"an input of negative size", model(relu() + str(11, value("x", 1, {-5})) + str(12, value("y", 1, {2})))},
      {"a function that calls itself",
       model(graph_of(str(1, call("f", "x", "y"))), 21, str(25, function("f", {call("f", "x", "y")})))},
      {"functions in a circle",
       model(graph_of(str(1, call("f", "x", "y"))), 21,
             str(25, function("f", {call("g", "x", "y")})) + str(25, function("g", {call("h", "x", "y")})) +
                 str(25, function("h", {call("f", "x", "y")})))},
      {"a circle through a branch",
       model(graph_of(str(1, call("f", "x", "y"))), 21,
             str(25, function("f", {node("If", {"x"}, {"y"},
                                         graph_attribute("then_branch",
                                                         str(1, call("f", "x", "t")) + str(12, value("t", 1, {2}))) +
                                             graph_attribute("else_branch", str(12, value("x", 1, {2}))))})))},
      {"functions 200 deep", chain_of_functions(200)},
      {"a function defined twice", model(graph_of(relu()), 21,
                                         str(25, function("f", {node("Relu", {"x"}, {"y"})})) +
                                             str(25, function("f", {node("Relu", {"x"}, {"y"})})))},
      {"a function with too many arguments", model(graph_of(str(1, node("f", {"x", "x"}, {"y"}, str(7, "local")))), 21,
                                                   str(25, function("f", {node("Relu", {"x"}, {"y"})})))},
      {"2^30 nodes in 30 functions", doubling_functions(30)},
      {"branches 33 deep", nested_if(33)},
      {"If without branches", model(graph_of(str(1, node("If", {"x"}, {"y"}))))},
  };
  return out;
}

/// A folder for the test's files, gone afterwards.
struct Folder {
  fs::path path = fs::temp_directory_path() / ("ag_onnx_" + std::to_string(::getpid()));
  Folder() {
    fs::create_directories(path / "model");
    std::ofstream(path / "secret", std::ios::binary) << std::string(16, 's');
    std::ofstream(path / "model" / "w.bin", std::ios::binary) << std::string(16, '\0');
    fs::create_symlink("../secret", path / "model" / "link");
  }
  ~Folder() { fs::remove_all(path); }
};

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

}  // namespace

TEST_CASE("malformed models are refused with code, place and cause") {
  Folder folder;
  std::string actual;
  for (const Case& c : cases()) {
    INFO(c.name);
    Sources sources;
    onnx::ImportOptions options;
    options.folders = {(folder.path / "model").string()};
    options.max_nodes = 10'000;
    Result<Graph> g = onnx::import_model(c.bytes, "m.onnx", options);
    CHECK(!g);
    actual += "## " + c.name + "\n";
    actual += g ? std::string("accepted\n") : render(g.error(), sources, DiagFormat::short_);
  }
  // ONNX-JSON and writing.
  for (std::string_view text :
       {R"({"irVersion": 10, "graph": {"node": [{"opType": "Relu", "inputs": ["x"]}]}})",
        R"({"irVersion": 10, "graph": {"node": [{"opType": "Rellu", "input": ["x"], "output": ["y"], "name": "r"}]}})",
        R"({"irVersion": "ten", "graph": {}})", R"({"irVersion": 8, "graph": {"node": {}}})"}) {
    Sources sources;
    auto g = load_text(std::string(text), "m.json", "", sources);
    CHECK(!g);
    actual += "## " + std::string(text) + "\n";
    if (!g) actual += render(g.error(), sources, DiagFormat::short_);
  }
  Graph bits;
  GraphBuilder b(bits);
  ValueId y = b.add_op("popcount", {b.input("x", *Type::parse("i32[2]"))});
  bits.outputs.push_back({"y", y, {}});
  auto written = onnx::export_model(bits);
  REQUIRE(!written);
  actual += "## an op that ONNX lacks\n" + render(written.error(), {}, DiagFormat::short_);

  std::string path = std::string(AG_SOURCE_DIR) + "/tests/onnx/errors.txt";
  if (std::getenv("AG_BLESS")) std::ofstream(path, std::ios::binary) << actual;
  INFO(actual);
  CHECK((actual == read_text(path)));
}

TEST_CASE("external data is read from where the tensor says") {
  Folder folder;
  std::ofstream(folder.path / "model" / "data.bin", std::ios::binary)
      << std::string(4, 'x') + std::string("\0\0\x80\x3f\0\0\0\x40", 8);
  onnx::ImportOptions options;
  options.folders = {(folder.path / "model").string()};
  auto g = onnx::import_model(
      with_initializer(external("w", {2}, {{"location", "data.bin"}, {"offset", "4"}, {"length", "8"}})), "m.onnx",
      options);
  REQUIRE(g);
  const Node& w = g->def(g->find("w"));
  Array a = (*w.attrs.get<LiteralPtr>("value"))->materialize();
  CHECK(a.get_double(0) == 1.0);
  CHECK(a.get_double(1) == 2.0);
  options.folders.clear();
  CHECK(!onnx::import_model(with_initializer(external("w", {2}, {{"location", "data.bin"}})), "m.onnx", options));
}
