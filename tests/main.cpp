#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#include "ir/base/diag.hpp"

CATCH_TRANSLATE_EXCEPTION(ag::InternalError& e) {
  return "internal error: " + e.message + " (" + e.file + ":" + std::to_string(e.line) + ")";
}
