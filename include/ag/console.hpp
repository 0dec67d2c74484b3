// What is printed on the standard error stream: warnings, and what AG_FLAGS asks for. This is code of the program that
// includes it, not of the library, which prints nothing; set_warning_handler() and set_recompile_handler() replace it.
#pragma once
#include <iostream>
#include <string>

#include "ag/config.hpp"

namespace ag {
AG_API_NAMESPACE {
  namespace detail {

  void set_console(void (*write)(const std::string& line));
  inline const bool console_is_set = (set_console([](const std::string& line) { std::cerr << line << '\n'; }), true);

  }  // namespace detail
}  // AG_API_NAMESPACE
}  // namespace ag
