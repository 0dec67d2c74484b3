// Kernels that cannot be mapped are refused with the reason; the expectation file has the words.
#include <catch2/catch.hpp>

#include "codegen/backend.hpp"
#include "passes/pass.hpp"
#include "tests/diag/golden.hpp"

using namespace ag;

namespace {

struct Refused {
  std::string name, text;  ///< a program's text
};

/// A program of one kernel over f32[N].
std::string program(const std::string& body) {
  return R"(program "p" {
  p0 "x": input 0 f32[N]
  p1 "y": output 0 f32[N]
  inputs(p0)
  outputs(p1)
  dim N = input 0 axis 0
  source "model.json" 4 5 4 9 "/nodes/0"
  kernel @k0(b0: f32[N] read, b1: f32[N] write) dims(N) flops(N) bytes(8*N) origins(0) {
)" + body +
         R"(  }
  body {
    call 0(p0, p1) dims(N) origins(0) "exp+add"
  }
}
)";
}

const std::string row_loops = R"(    for.parallel(reduce) %4 = %0 to %2 step %1 reassociate {
      %5: f32 = load b0[%4]
      store b2[%4], %5
      yield
    }
    for.parallel(reduce) %6 = %0 to %2 step %1 reassociate {
      %7: f32 = load b2[%6]
      store b1[%6], %7
      yield
    }
)";
const std::string sizes = "    %0: i64 = constant 0\n    %1: i64 = constant 1\n    %2: i64 = dim N\n";

std::vector<Refused> refused() {
  return {
      {"symbolic row", program("    alloc b2: f32[N] scratch\n" + sizes + row_loops)},
      {"long row", program("    alloc b2: f32[8193] scratch\n" + sizes + row_loops)},
      {"scratch of one thread", program("    alloc b2: f32[8] scratch\n" + sizes +
                                        "    %3: f32 = load b0[%0]\n    store b2[%0], %3\n    store b1[%0], %3\n")},
      {"triangle", program(sizes + R"(    for.parallel(batch) %3 = %0 to %2 step %1 {
      for.parallel(col) %4 = %0 to %3 step %1 {
        %5: f32 = load b0[%4]
        store b1[%4], %5
        yield
      }
      yield
    }
)")},
      {"serial write between reductions", program(sizes + R"(    %3: f32 = constant -0.0
    %4: f32 = for.serial(reduce) %5 = %0 to %2 step %1 carry(%6 = %3) reassociate {
      %7: f32 = load b0[%5]
      %8: f32 = add %6, %7
      yield %8
    }
    for.serial %9 = %0 to %2 step %1 {
      store b1[%9], %4
      yield
    }
)")},
      {"scheduled for a CPU", program(sizes + R"(    %4: i64 = constant 8
    for.vector %3 = %0 to %2 step %4 width 8 {
      yield
    }
)")},
  };
}

}  // namespace

TEST_CASE("what cannot be mapped is refused with the reason") {
  passes::PassContext context;
  context.target = codegen::describe_target("cuda:sm_80").value();
  std::string all;
  for (const Refused& r : refused()) {
    INFO(r.name);
    auto p = loop::parse_program(r.text, "p.loops");
    if (!p) FAIL(render(p.error(), Sources{}));
    auto mapped = passes::gpu_map.on_program(std::move(*p), context);
    CHECK_FALSE(mapped);
    all += "-- " + r.name + "\n" + (mapped ? "mapped\n" : render(mapped.error(), Sources{}, DiagFormat::text));
  }
  const std::string path = std::string(AG_SOURCE_DIR) + "/tests/gpu/refused.txt";
  if (std::getenv("AG_BLESS")) std::ofstream(path, std::ios::binary) << all;
  INFO("AG_BLESS=1 rewrites the expectation file\n" << all);
  CHECK((all == read_text(path)));
}
