#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#include <cstdlib>

#include "ir/base/diag.hpp"

// Tests compile anew and leave the user's cache alone, in the commands they start too.
static const int no_cache = setenv("AG_CACHE_DIR", "", 1);

CATCH_TRANSLATE_EXCEPTION(ag::InternalError& e) {
  return "internal error: " + e.message + " (" + e.file + ":" + std::to_string(e.line) + ")";
}
