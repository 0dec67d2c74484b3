// Files of arrays: what is written is read back, what is damaged is refused, what lies outside is not opened.
#include <catch2/catch.hpp>

#include <sys/stat.h>
#include <unistd.h>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "frontend/data/value.hpp"
#include "frontend/json/import.hpp"
#include "frontend/load.hpp"

using namespace ag;
using namespace ag::data;
namespace fs = std::filesystem;

namespace {

/// An own folder that goes away.
struct Folder {
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "ag_data_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() {
    std::error_code ec;
    fs::remove_all(path, ec);
  }
  std::string put(const std::string& name, std::string_view bytes) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << bytes;
    return (path / name).string();
  }
};

Array counting(DType t, std::vector<std::int64_t> shape) {
  Array a(t, std::move(shape));
  for (std::int64_t i = 0; i < a.elems(); ++i) a.set_int(i, t == DType::boolean ? i % 2 : i + 1);
  return a;
}

std::vector<std::int64_t> shapes_of(int i) {
  return std::vector<std::vector<std::int64_t>>{{}, {3}, {2, 3}, {0, 4}, {1, 1, 5}}[static_cast<std::size_t>(i)];
}

std::string code_of(const auto& result) { return result ? "ok" : code_name(result.error().front().code); }

std::string npy_with_header(const std::string& dict, const std::string& body) {
  std::string header = dict + "\n";
  std::string out = std::string("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  return out + header + body;
}

std::string safetensors(const std::string& header, const std::string& body) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[static_cast<std::size_t>(i)] = static_cast<char>(header.size() >> (8 * i));
  return out + header + body;
}

/// Rows of a table under tests/json: fields between bars, blanks around them dropped, `#` starts a remark.
std::vector<std::vector<std::string>> table(const std::string& name) {
  std::ifstream in(fs::path(AG_SOURCE_DIR) / "tests" / "json" / name);
  REQUIRE(in.good());
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    auto& row = rows.emplace_back();
    for (std::size_t at = 0; at != std::string::npos;) {
      std::size_t bar = line.find('|', at);
      std::string field = line.substr(at, bar == std::string::npos ? bar : bar - at);
      std::size_t first = field.find_first_not_of(' '), last = field.find_last_not_of(' ');
      row.push_back(first == std::string::npos ? "" : field.substr(first, last - first + 1));
      at = bar == std::string::npos ? bar : bar + 1;
    }
  }
  return rows;
}

/// \\xHH and \\n.
std::string unescape(const std::string& s) {
  std::string out;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '\\')
      out += s[i];
    else if (s[++i] == 'n')
      out += '\n';
    else
      out += static_cast<char>(std::stoi(s.substr(i + 1, 2), nullptr, 16)), i += 2;
  }
  return out;
}

}  // namespace

TEST_CASE("npy and npz come back as they were, for every dtype") {
  NamedArrays all;
  for (int t = 0; t < dtype_count; ++t) {
    for (int s = 0; s < 5; ++s) {
      Array a = counting(static_cast<DType>(t), shapes_of(s));
      std::string bytes = format_npy(a);
      CHECK((bytes.size() - a.bytes_size()) % 64 == 0);
      auto back = parse_npy(bytes, "a.npy", {});
      REQUIRE(back);
      CHECK(back->same_bits(a));
      all.emplace_back(std::string(dtype_name(a.dtype())) + std::to_string(s), std::move(a));
    }
  }
  auto archive = format_npz(all);
  REQUIRE(archive);
  CHECK(*format_npz(all) == *archive);
  auto back = parse_npz(*archive, "a.npz", nullptr, {});
  REQUIRE(back);
  REQUIRE(back->size() == all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    CHECK((*back)[i].first == all[i].first);
    CHECK((*back)[i].second.same_bits(all[i].second));
  }
  std::string key = "f323";
  auto one = parse_npz(*archive, "a.npz", &key, {});
  REQUIRE(one);
  CHECK(one->size() == 1);
  key = "f33";
  CHECK(code_of(parse_npz(*archive, "a.npz", &key, {})) == "AG0017");
  auto none = format_npz({});
  REQUIRE(none);
  CHECK(parse_npz(*none, "a.npz", nullptr, {})->empty());
}

TEST_CASE("npy: byte order, column order, versions") {
  std::string big =
      npy_with_header("{'descr': '>i4', 'fortran_order': False, 'shape': (2,), }", std::string("\0\0\0\1\0\0\1\0", 8));
  auto a = parse_npy(big, "a", {});
  REQUIRE(a);
  CHECK(format_values(*a) == "[1, 256]");
  std::string columns = npy_with_header("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }", "\1\2\3\4\5\6");
  auto b = parse_npy(columns, "b", {});
  REQUIRE(b);
  CHECK(format_values(*b) == "[[1, 3, 5], [2, 4, 6]]");
}

TEST_CASE("npy: damaged headers") {
  auto with = [](const std::string& dict) {
    return code_of(parse_npy(npy_with_header(dict, std::string(8, '\1')), "a", {}));
  };
  CHECK(with("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }") == "ok");
  for (const char* dict :
       {"", "{", "{}", "[]", "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1.0,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (9223372036854775807, 8), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1,), } x",
        "{'descr': '<i8', 'fortran_order': maybe, 'shape': (1,), }",
        "{'descr': '<i8', 'descr': '<i8', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<i8', 'shape': (1,), }", "{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1,), 'evil': 1}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1), }"}) {
    CAPTURE(dict);
    CHECK(with(dict) == "AG0016");
  }
}

TEST_CASE("files cut at any byte are refused") {
  std::string npy = format_npy(counting(DType::f32, {2, 3}));
  for (std::size_t n = 0; n < npy.size(); ++n) CHECK(code_of(parse_npy(npy.substr(0, n), "a", {})) == "AG0016");
  CHECK(code_of(parse_npy(npy + "x", "a", {})) == "AG0016");
  std::string npz = *format_npz({{"a", counting(DType::f32, {2, 3})}, {"b", counting(DType::i8, {4})}});
  for (std::size_t n = 0; n < npz.size(); ++n) {
    CAPTURE(n);
    CHECK(code_of(parse_npz(npz.substr(0, n), "a", nullptr, {})) == "AG0016");
  }
  std::string st = safetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", std::string(8, '\0'));
  REQUIRE(parse_safetensors(st, "a", nullptr, {}));
  for (std::size_t n = 0; n < st.size(); ++n)
    CHECK(code_of(parse_safetensors(st.substr(0, n), "a", nullptr, {})) == "AG0016");
}

TEST_CASE("single damaged bytes never read out of bounds and never change a size silently") {
  std::string npz = *format_npz({{"a", counting(DType::f32, {2, 3})}});
  for (std::size_t i = 0; i < npz.size(); ++i) {
    for (unsigned char flip : {0x01, 0x80, 0xff}) {
      std::string bad = npz;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      auto r = parse_npz(bad, "a", nullptr, {});
      if (r && r->size() == 1) CHECK((*r)[0].second.bytes_size() <= 24);
    }
  }
}

TEST_CASE("safetensors") {
  std::string body(16, '\0');
  body[0] = 1;
  auto good = parse_safetensors(safetensors(
                                    R"({"__metadata__":{"x":"y"},"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},
              "b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}})",
                                    body),
                                "s", nullptr, {});
  REQUIRE(good);
  REQUIRE(good->size() == 2);
  CHECK(format_values((*good)[0].second) == "[1, 0]");
  CHECK((*good)[1].second.dtype() == DType::bf16);
  for (const char* header : {R"({"a":{"dtype":"I32","shape":[2],"data_offsets":[0,12]}})",
                             R"({"a":{"dtype":"I32","shape":[2],"data_offsets":[8,0]}})",
                             R"({"a":{"dtype":"I32","shape":[4],"data_offsets":[8,24]}})",
                             R"({"a":{"dtype":"I32","shape":[-2],"data_offsets":[0,16]}})",
                             R"({"a":{"dtype":"I32","shape":[4611686018427387904,4],"data_offsets":[0,16]}})",
                             R"({"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}})",
                             R"({"a":{"dtype":"I32","shape":[3],"data_offsets":[0,12]},
           "b":{"dtype":"I32","shape":[2],"data_offsets":[8,16]}})",
                             R"({"a":{"dtype":"F4","shape":[4],"data_offsets":[0,16]}})",
                             R"({"a":{"dtype":"I32","shape":[4]}})", R"([1])", R"({"a":1})",
                             R"({"a":{"dtype":"I32","shape":[4],"data_offsets":[0,16]},
           "a":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}})"}) {
    CAPTURE(header);
    CHECK(code_of(parse_safetensors(safetensors(header, body), "s", nullptr, {})) == "AG0016");
  }
}

TEST_CASE("a graph's files stay in its folder") {
  Folder outer;
  fs::create_directory(outer.path / "model");
  Folder elsewhere;
  std::string npy = format_npy(counting(DType::f32, {2}));
  outer.put("model/w.npy", npy);
  outer.put("model/sub/w.npy", npy);
  outer.put("secret.npy", npy);
  std::string foreign = elsewhere.put("f.npy", npy);
  std::string folder = (outer.path / "model").string();
  fs::create_symlink("w.npy", outer.path / "model/inside.npy");
  fs::create_symlink("../secret.npy", outer.path / "model/up.npy");
  fs::create_symlink(foreign, outer.path / "model/away.npy");
  fs::create_directory_symlink(elsewhere.path, outer.path / "model/away");
  fs::create_hard_link(outer.path / "secret.npy", outer.path / "model/hard.npy");
  REQUIRE(::mkfifo((outer.path / "model/pipe").c_str(), 0600) == 0);
  auto read = [&](std::string_view path) { return code_of(read_beneath({folder}, path, {}, {})); };
  CHECK(read("w.npy") == "ok");
  CHECK(read("sub/w.npy") == "ok");
  CHECK(read("inside.npy") == "ok");
  for (std::string path :
       {std::string("../secret.npy"), (outer.path / "model/w.npy").string(), std::string("sub/../../secret.npy"),
        std::string("sub/../w.npy"), std::string("./w.npy"), std::string("sub/./w.npy"), std::string("C:\\w.npy"),
        std::string("\\\\srv\\w.npy"), std::string(""), std::string("w.npy\0x", 7), std::string(5000, 'a'),
        std::string("file:w.npy"), std::string("sub//w.npy"), std::string("sub/"), std::string("/proc/self/fd/0"),
        std::string("up.npy"), std::string("away.npy"), std::string("away/f.npy"), std::string("hard.npy")}) {
    CAPTURE(path);
    CHECK(read(path) == "AG0015");
  }
  CHECK(read("pipe") == "AG0001");
  CHECK(read("sub") == "AG0001");
  CHECK(read("absent.npy") == "AG0001");
  CHECK(code_of(read_beneath({}, "w.npy", {}, {})) == "AG0015");
  CHECK(code_of(read_beneath({folder}, "hard.npy", {.allow_hard_links = true}, {})) == "ok");
  CHECK(code_of(read_beneath({elsewhere.path.string(), folder}, "w.npy", {}, {})) == "ok");
}

TEST_CASE("only regular files of a sound size are read") {
  Folder f;
  std::string path = f.put("a", "12345");
  CHECK(code_of(read_file(path, 5)) == "ok");
  CHECK(code_of(read_file(path, 4)) == "AG0006");
  CHECK(code_of(read_file(f.path.string(), 100)) == "AG0001");
  CHECK(code_of(read_file("/dev/zero", 100)) == "AG0001");
  REQUIRE(::mkfifo((f.path / "pipe").c_str(), 0600) == 0);
  CHECK(code_of(read_file((f.path / "pipe").string(), 100)) == "AG0001");
  CHECK(code_of(read_file((f.path / "none").string(), 100)) == "AG0001");
}

TEST_CASE("writing replaces a file whole or not at all") {
  Folder f;
  std::string path = f.put("out.npz", "old");
  REQUIRE(write_file(path, "new content"));
  CHECK(std::string(read_file(path, 100)->data(), 11) == "new content");
  CHECK(code_of(write_file((f.path / "no/such/x").string(), "a")) == "AG0020");
  CHECK(code_of(write_file(f.path.string(), "a")) == "AG0020");
  CHECK(std::distance(fs::directory_iterator(f.path), fs::directory_iterator()) == 1);
}

TEST_CASE("values as text: tests/json/values.txt") {
  DimEnv dims = {{"K", 2}};
  int rows = 0;
  for (const auto& row : table("values.txt")) {
    REQUIRE(row.size() == 3);
    ++rows;
    CAPTURE(row[0], row[1]);
    std::string text = row[1];
    if (std::size_t at = text.find("DIGITS"); at != std::string::npos)
      text.replace(at, 6, AG_SOURCE_DIR "/examples/digits.npz");
    auto type = Type::parse(row[0]);
    REQUIRE(type);
    auto a = parse_value(text, *type, "x", {.dims = &dims});
    CHECK((a ? format_values(*a) : code_name(a.error().front().code)) == row[2]);
  }
  CHECK(rows > 25);
  CHECK(parse_value("randn", Type{DType::f32, {Dim(1000)}}, "x")->elems() == 1000);
  Array u = *parse_value("rand", Type{DType::f32, {Dim(1000)}}, "x");
  for (std::int64_t i = 0; i < 1000; ++i) CHECK((u.get_double(i) > 0 && u.get_double(i) < 1));
}

TEST_CASE("files that are no graphs: tests/json/files.txt") {
  Folder f;
  REQUIRE(::mkfifo((f.path / "PIPE").c_str(), 0600) == 0);
  int rows = 0;
  for (const auto& row : table("files.txt")) {
    CAPTURE(row[0], row[1]);
    ++rows;
    Sources sources;
    if (row[0] == "load") {
      REQUIRE(row.size() == 4);
      CAPTURE(row[2]);
      auto g = load(f.put(row[1], unescape(row[2])), sources);
      CHECK((g ? "graph" : code_of(g)) == row[3]);
      auto same = load_text(unescape(row[2]), row[1], "", sources);
      CHECK((same ? "graph" : code_of(same)) == row[3]);
    } else {
      REQUIRE(row.size() == 3);
      std::string path = row[1] == "PIPE" ? (f.path / "PIPE").string() : row[1];
      CHECK(row[2] == (row[0] == "read" ? code_of(load(path, sources)) : code_of(write_file(path, "a"))));
    }
  }
  CHECK(rows > 15);
}

TEST_CASE("values from files") {
  Folder f;
  Array a = counting(DType::f32, {3}), c = counting(DType::i64, {2});
  std::string npy = f.put("a.npy", format_npy(a)), npz = f.put("all.npz", *format_npz({{"x", a}, {"c", c}}));
  std::string st = f.put("w.safetensors", safetensors(R"({"k":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})",
                                                      std::string(12, '\0')));
  Type t{DType::f32, {Dim::symbol("N")}};
  auto read = [&](const std::string& text, std::string_view name = "x") { return parse_value(text, t, name); };
  CHECK(read("@" + npy)->same_bits(a));
  CHECK(read("@" + npz + ":x")->same_bits(a));
  CHECK(read("@" + npz)->same_bits(a));  // the array of the input's name
  CHECK(read("@" + st + ":k")->elems() == 3);
  CHECK(code_of(read("@" + npz, "y")) == "AG0017");
  CHECK(code_of(read("@" + npz + ":z")) == "AG0017");
  CHECK(code_of(read("@" + npz + ":c")) == "AG0018");
  CHECK(code_of(read("@" + npy + ":k")) == "AG0017");
  CHECK(code_of(read("@/no/such.npy")) == "AG0001");
  CHECK(code_of(read("@")) == "AG0019");
}

TEST_CASE("an initializer reads a file beside the graph") {
  Folder f;
  Array a = counting(DType::f32, {2, 2});
  f.put("w.npz", *format_npz({{"w", a}, {"v", a}}));
  auto read = [&](const std::string& init) {
    auto doc =
        json::Document::parse("{\"ag\":1,\"initializers\":[" + init + "]}", std::make_shared<std::string>("g.json"));
    json::ImportOptions options;
    options.folders = {f.path.string()};
    return json::import_graph(**doc, options);
  };
  auto g = read(R"({"name":"w","file":"w.npz","key":"w","trainable":true})");
  REQUIRE(g);
  CHECK((*g->def(g->find("w")).attrs.get<LiteralPtr>("value"))->materialize().same_bits(a));
  CHECK(g->type(g->find("w")).str() == "f32[2,2]");
  auto text = json::export_graph(*g);
  REQUIRE(text);
  CHECK(text->find(R"({ "name": "w", "type": "f32[2,2]", "file": "w.npz", "key": "w", "trainable": true })") !=
        std::string::npos);
  CHECK(code_of(read(R"({"name":"w","type":"f32[4]","file":"w.npz","key":"w"})")) == "AG0018");
  CHECK(code_of(read(R"({"name":"w","file":"w.npz","key":"u"})")) == "AG0017");
  CHECK(code_of(read(R"({"name":"w","file":"w.npz"})")) == "AG0017");
}
