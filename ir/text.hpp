// Internal to the graph's text form: the spelling of strings, numbers, elements and places, and a cursor that reads
// them. Grammar: ir/print.cpp.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "ir/graph.hpp"

namespace ag::text {

std::string quote(std::string_view s);                  ///< in double quotes; \" \\ \n \xNN
bool is_word(std::string_view s);                       ///< [A-Za-z_][A-Za-z0-9_.]*
std::string word_or_quoted(std::string_view s);
std::string base64(std::span<const std::byte> bytes);
std::optional<std::vector<std::byte>> from_base64(std::string_view s);
/// Element i: shortest number; NaNs other than the canonical quiet one as `nan:0x7fc00001`.
std::string element(const Array& a, std::int64_t i);
bool read_element(std::string_view s, Array& a, std::int64_t i);
std::string number(double v);                           ///< an f64 that is never mistaken for an integer: "2.0"
std::string place(const Loc& loc);  ///< "@model.json:12:5#/nodes/3" (its end is left out), "" if nothing is known

/// Reads text front to back; blanks and `//` comments between tokens are skipped.
class Cursor {
 public:
  Cursor(std::string_view text, std::string file)
      : text_(text), file_(std::make_shared<const std::string>(std::move(file))) {
    skip();
  }

  bool at_end() const { return pos_ >= text_.size(); }
  bool new_line() const { return new_line_; }  ///< the next token is the first of its line
  char peek() const { return at_end() ? '\0' : text_[pos_]; }
  std::string_view peek_word() const;  ///< "" if there is none
  bool accept(char c);
  bool accept_word(std::string_view w);
  bool accept_call(std::string_view w);  ///< the word with a `(` right behind it
  Status expect(char c);
  Status expect_word(std::string_view w);
  Result<std::string> word(std::string_view what);
  Result<std::string> string();
  Result<std::string> word_or_string(std::string_view what);
  Result<std::int64_t> integer(std::int64_t lo, std::int64_t hi);
  Result<std::uint64_t> unsigned_integer();
  Result<std::string_view> scalar();  ///< the spelling of a number, bool, nan or inf
  Result<std::string_view> string_bytes();  ///< between the quotes, as it stands: base64
  Result<std::uint32_t> value_number();  ///< 7 of %7
  Result<Type> type();
  Result<Dims> shape();  ///< of a type: no negative size, rank at most 64
  Result<Dims> dims();  ///< [N, 4]
  Result<Loc> place();  ///< at '@'
  Loc here() const;
  std::unexpected<Diags> error(Code code, std::string message) const { return fail(code, here(), std::move(message)); }
  std::unexpected<Diags> expected(std::string_view what) const;

 private:
  std::string_view text_;
  std::shared_ptr<const std::string> file_;
  std::size_t pos_ = 0;
  bool new_line_ = true;
  mutable std::size_t counted_ = 0, line_start_ = 0;  ///< lines are counted when a place is asked for
  mutable std::uint32_t line_ = 1;
  std::shared_ptr<const std::string> last_file_;  ///< shared by the places of one file

  void skip();
  void advance(std::size_t n) { pos_ += n, skip(); }
  std::string_view run(std::string_view extra) const;  ///< letters, digits and `extra` from here on
  Result<std::string> raw_string();  ///< without the blanks behind it
  Result<std::uint32_t> place_number();
  Result<std::string> place_part(std::string_view extra);
  std::optional<std::size_t> closing_bracket() const;  ///< position of the ']' that closes the '[' here
};

}  // namespace ag::text
