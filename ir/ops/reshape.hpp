// The op reshape, a file of its own.
#pragma once
#include "ir/op.hpp"

namespace ag::ops {

OpInfo reshape_op();

}  // namespace ag::ops
