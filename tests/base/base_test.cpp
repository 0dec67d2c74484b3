#include <catch2/catch.hpp>
#include <set>

#include "ir/base/diag.hpp"
#include "ir/base/dtype.hpp"

using namespace ag;

TEST_CASE("dtype names round trip") {
  for (int i = 0; i < dtype_count; ++i) {
    auto t = static_cast<DType>(i);
    CHECK(parse_dtype(dtype_name(t)) == t);
  }
  CHECK_FALSE(parse_dtype("float"));
}

TEST_CASE("diagnostic codes are unique, titled and found by name") {
  std::set<unsigned> seen;
  for (const CodeInfo& info : all_codes()) {
    INFO(code_name(info.code));
    CHECK(seen.insert(static_cast<unsigned>(info.code)).second);
    CHECK(find_code(code_name(info.code)) == &info);
    CHECK_FALSE(info.title.empty());
    CHECK(info.explanation.size() > info.title.size());
  }
  CHECK(find_code("AG0000") == nullptr);
  CHECK(find_code("nonsense") == nullptr);
}
