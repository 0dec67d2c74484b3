// Files whose large initializers are read straight into their arrays give the graphs that their bytes give.
#include "frontend/onnx/detach.hpp"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "frontend/onnx/onnx.hpp"
#include "ir/builder.hpp"

using namespace ag;

namespace {

struct File {
  std::string path;
  explicit File(const std::string& bytes) {
    path = (std::filesystem::temp_directory_path() / "ag-model-XXXXXX").string();
    const int fd = mkstemp(path.data());
    REQUIRE(fd >= 0);
    ::close(fd);
    REQUIRE(data::write_file(path, bytes));
  }
  ~File() { std::filesystem::remove(path); }
};

std::string model() {
  Graph g;
  GraphBuilder b(g);
  ValueId y = b.input("x", Type{DType::f32, {Dim(7), Dim(200)}});
  for (std::int64_t columns : {200, 200, 3}) {  // two large ones and a small one
    Array w(DType::f32, {200, columns});
    for (std::int64_t i = 0; i < w.elems(); ++i) w.set_double(i, static_cast<double>(i % 251) + 0.5);
    y = b.dot_general(y, b.constant(make_literal(w)), {1}, {0});
  }
  g.outputs.push_back({"y", y, {}});
  auto bytes = onnx::export_model(g);
  REQUIRE(bytes);
  return *bytes;
}

}  // namespace

TEST_CASE("large initializers stay in the file until they are read", "[detach]") {
  const std::string bytes = model();
  const File file(bytes);
  auto open = data::BeneathFile::open_path(file.path, std::size_t{1} << 30);
  REQUIRE(open);
  auto rest = onnx::detached(*open);
  REQUIRE(rest);
  CHECK(rest->size() < 20000);
  auto whole = onnx::import_model(bytes, file.path), parts = onnx::import_file(file.path);
  REQUIRE(whole);
  REQUIRE(parts);
  CHECK(print(*whole) == print(*parts));
}

TEST_CASE("damaged models are refused alike from files and from memory", "[detach]") {
  const std::string bytes = model();
  std::size_t refused = 0;
  for (std::size_t i = 0; i < 300; ++i) {
    std::string bad = bytes;
    if (i % 3 == 0)
      bad.resize(i * 97 % bytes.size());
    else
      bad[i % 3 == 1 ? i : bytes.size() - i] ^= static_cast<char>(1 << i % 8);
    const File file(bad);
    auto whole = onnx::import_model(bad, file.path), parts = onnx::import_file(file.path);
    REQUIRE(whole.has_value() == parts.has_value());
    if (whole)
      CHECK(print(*whole) == print(*parts));
    else
      CHECK(whole.error().front().message == parts.error().front().message);
    refused += !whole;
  }
  CHECK(refused > 50);
}
