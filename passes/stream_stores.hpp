// Which stores go around the caches.
#pragma once
#include "passes/pass.hpp"

namespace ag::passes {

extern const Pass stream_stores;  ///< Program -> Program, after all passes that copy statements

}  // namespace ag::passes
