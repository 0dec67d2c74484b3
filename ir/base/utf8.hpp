// User text made safe and measurable for a terminal.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace ag {

/// Text as it is shown, and the display column (from 0) at which each of its bytes begins. `columns` has one
/// entry more than the input has bytes: the width of the whole.
struct Shown {
  std::string text;
  std::vector<int> columns;
};

/// Tabs become four spaces; control and bidirectional-override characters and bytes that are not UTF-8 are
/// spelled out (`\x1b`, `\u{202e}`); East Asian wide characters take two columns, combining ones none.
Shown show(std::string_view text);

/// The same without columns, and with tab and newline spelled `\t` and `\n`: for names and messages in a line.
std::string printable(std::string_view text);

/// A JSON string literal; bytes that are not UTF-8 become U+FFFD.
std::string json_quote(std::string_view text);

/// The last position <= `pos` at which a UTF-8 character begins.
std::size_t utf8_floor(std::string_view text, std::size_t pos);

}  // namespace ag
