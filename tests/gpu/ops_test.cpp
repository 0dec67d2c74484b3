// Every sample of every op, and its gradient, mapped to a GPU and run by the loop interpreter.
#include "tests/ops/lowered.hpp"

namespace {
const ag::test::Lowering gpu{"cuda:sm_80", {"decompose", "lower", "gpu_map", "expand_math"}, true};
}

TEST_CASE("mapped ops agree with their reference values") { ag::test::check_ops(gpu); }
TEST_CASE("mapped gradients agree with their reference values") { ag::test::check_gradients(gpu); }
