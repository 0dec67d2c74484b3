// Every sample of every op, and its gradient, decomposed and lowered to loops: the loop interpreter computes what the
// reference evaluation says.
#include "tests/ops/lowered.hpp"

TEST_CASE("lowered ops agree with their reference values") { ag::test::check_ops(); }
TEST_CASE("lowered gradients agree with their reference values") { ag::test::check_gradients(); }
