// Errors are values with a place. A Diag has a code, a message, spans in the user's files, notes and
// help; rendering to text (rustc's layout) or JSON lines happens in render(). Nothing here prints.
#pragma once
#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ag {

/// Every diagnostic code, from codes.def. The number's thousands digit is the family (SPEC 3).
enum class Code : std::uint16_t {
#define AG_CODE(number, title, explanation) AG##number = 1##number - 10000,
#include "ir/base/codes.def"
#undef AG_CODE
};
using enum Code;  // `fail(AG2003, ...)`

struct CodeInfo {
  Code code;
  std::string_view title;        ///< one line, as in `ag-compile explain --list`
  std::string_view explanation;  ///< the page printed by `ag-compile explain CODE`
};
const std::vector<CodeInfo>& all_codes();
const CodeInfo* find_code(std::string_view name);  ///< "AG2003" -> info, nullptr if unknown
std::string code_name(Code code);                  ///< "AG2003"

/// A place in a user's program. Lines and columns count from 1, columns in bytes; the end is
/// exclusive. line 0 means that only the file (or, with an empty file, nothing) is known.
struct Loc {
  std::shared_ptr<const std::string> file;
  std::uint32_t line = 0, col = 0, end_line = 0, end_col = 0;
  std::string pointer;  ///< JSON pointer ("/nodes/0/in") or ONNX node path; may be empty

  bool known() const { return file != nullptr; }
  std::string str() const;  ///< "model.json:12:5", "" if unknown
  bool operator==(const Loc& o) const;
};
Loc make_loc(std::string file, std::uint32_t line, std::uint32_t col);

enum class Level : std::uint8_t { error, warning, note, help };

struct Span {
  Loc loc;
  std::string label;
  bool primary = true;
};

/// A note or a help line below a diagnostic; `replacement` is new text for its first span if it is a fix, and
/// `removal` says that an empty one is meant.
struct SubDiag {
  Level level = Level::note;
  std::string message;
  std::vector<Span> spans;
  std::string replacement;
  bool removal = false;
};

struct Diag {
  Level level = Level::error;
  Code code{};
  std::string message;
  std::vector<Span> spans;  ///< the primary span first
  std::vector<SubDiag> children;

  Diag& at(Loc loc, std::string label = {}) &;   ///< adds a secondary span
  Diag&& at(Loc loc, std::string label = {}) &&;
  Diag& note(std::string message, Loc loc = {}) &;
  Diag&& note(std::string message, Loc loc = {}) &&;
  Diag& help(std::string message, Loc loc = {}, std::string replacement = {}) &;
  Diag&& help(std::string message, Loc loc = {}, std::string replacement = {}) &&;
  Diag& remove(std::string message, Loc loc) &;  ///< help: the fix is to delete what stands there
  Diag&& remove(std::string message, Loc loc) &&;
};
using Diags = std::vector<Diag>;

Diag error(Code code, Loc loc, std::string message, std::string label = {});
Diag warning(Code code, Loc loc, std::string message, std::string label = {});

template <class T>
using Result = std::expected<T, Diags>;
using Status = Result<void>;

/// So that `return fail(AG2003, loc, "...")` works in any function that returns a Result.
inline std::unexpected<Diags> fail(Diag d) { return std::unexpected<Diags>(Diags{std::move(d)}); }
inline std::unexpected<Diags> fail(Diags d) { return std::unexpected<Diags>(std::move(d)); }
inline std::unexpected<Diags> fail(Code code, Loc loc, std::string message, std::string label = {}) {
  return fail(error(code, std::move(loc), std::move(message), std::move(label)));
}

/// The text of the files that diagnostics point into.
class Sources {
 public:
  /// Registers a file's text; returns the shared name that Locs hold.
  std::shared_ptr<const std::string> add(std::string name, std::string text);
  const std::string* text(const std::string& name) const;  ///< nullptr if unknown

 private:
  std::map<std::string, std::string> files_;
};

enum class DiagFormat : std::uint8_t { text, short_, json };
/// Text: rustc's layout with source lines, carets and labels. JSON: one object a line, rustc's field
/// names plus `pointer`; columns count bytes. Short: `file:line:col: error[AG2003]: message`. Control
/// characters in user text are escaped. Each diagnostic ends in a newline; texts are separated by an empty line.
std::string render(const Diag& diag, const Sources& sources, DiagFormat format = DiagFormat::text);
std::string render(const Diags& diags, const Sources& sources, DiagFormat format = DiagFormat::text);
bool has_errors(const Diags& diags);

/// Internal invariant of ag. Throws InternalError, which the public surfaces turn into AG9001.
struct InternalError {
  std::string message, file;
  int line;
};
[[noreturn]] void internal_error(std::string message, const char* file, int line);
#define AG_CHECK(cond, ...) \
  do { \
    if (!(cond)) [[unlikely]] \
      ::ag::internal_error("check failed: " #cond " " __VA_ARGS__, __FILE__, __LINE__); \
  } while (0)

#define AG_CONCAT_(a, b) a##b
#define AG_CONCAT(a, b) AG_CONCAT_(a, b)
/// AG_TRY(auto x, f());  binds the value or returns the error.
#define AG_TRY(decl, ...) \
  auto AG_CONCAT(ag_try_, __LINE__) = (__VA_ARGS__); \
  if (!AG_CONCAT(ag_try_, __LINE__)) return ::ag::fail(std::move(AG_CONCAT(ag_try_, __LINE__)).error()); \
  decl = std::move(*AG_CONCAT(ag_try_, __LINE__))
/// AG_TRY_(f());  for a Status.
#define AG_TRY_(...) \
  do { \
    if (auto ag_status = (__VA_ARGS__); !ag_status) return ::ag::fail(std::move(ag_status).error()); \
  } while (0)

}  // namespace ag
