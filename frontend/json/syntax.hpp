// What is wrong with a text that is not JSON, in words a person can act on.
#pragma once
#include <cstddef>

#include "ir/base/diag.hpp"

namespace ag::json {

class Document;

/// How far a parser came.
struct SyntaxState {
  enum class Container { none, array, object };
  enum class After { nothing, open, key, value };
  std::size_t last = 0;             ///< end of the last token that was accepted
  std::size_t taken = 0;            ///< bytes the lexer had read
  Container container = Container::none;
  std::size_t container_begin = 0;  ///< its bracket
  After after = After::nothing;     ///< what the last accepted token was
};

/// AG0002, AG0003 or AG0008 at the first byte that cannot be accepted.
Diag explain_syntax(const Document& doc, const SyntaxState& state);

/// Refuses a byte order mark, NUL and invalid UTF-8 (AG0004), and a text without any token (AG0002).
Status check_bytes(const Document& doc);

}  // namespace ag::json
