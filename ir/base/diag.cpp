#include "ir/base/diag.hpp"

#include <charconv>

namespace ag {

const std::vector<CodeInfo>& all_codes() {
  static const std::vector<CodeInfo> codes = {
#define AG_CODE(number, title, explanation) {Code::AG##number, title, explanation},
#include "ir/base/codes.def"
#undef AG_CODE
  };
  return codes;
}

const CodeInfo* find_code(std::string_view name) {
  for (const CodeInfo& info : all_codes())
    if (code_name(info.code) == name) return &info;
  return nullptr;
}

std::string code_name(Code code) {
  std::string digits = std::to_string(static_cast<unsigned>(code));
  return "AG" + std::string(digits.size() < 4 ? 4 - digits.size() : 0, '0') + digits;
}

std::string Loc::str() const {
  if (!file) return {};
  if (line == 0) return pointer.empty() ? *file : *file + ": " + pointer;
  std::string out = *file + ":" + std::to_string(line);
  return col ? out + ":" + std::to_string(col) : out;
}

bool Loc::operator==(const Loc& o) const {
  bool same_file = file == o.file || (file && o.file && *file == *o.file);
  return same_file && line == o.line && col == o.col && end_line == o.end_line && end_col == o.end_col &&
         pointer == o.pointer;
}

Loc make_loc(std::string file, std::uint32_t line, std::uint32_t col) {
  return {std::make_shared<const std::string>(std::move(file)), line, col, line, col ? col + 1 : 0, {}};
}

Diag& Diag::at(Loc loc, std::string label) & {
  spans.push_back({std::move(loc), std::move(label), false});
  return *this;
}

Diag& Diag::note(std::string text, Loc loc) & {
  SubDiag sub{Level::note, std::move(text), {}, {}, false};
  if (loc.known()) sub.spans.push_back({std::move(loc), {}, true});
  children.push_back(std::move(sub));
  return *this;
}

Diag& Diag::help(std::string text, Loc loc, std::string replacement) & {
  SubDiag sub{Level::help, std::move(text), {}, std::move(replacement), false};
  if (loc.known()) sub.spans.push_back({std::move(loc), {}, true});
  children.push_back(std::move(sub));
  return *this;
}

Diag& Diag::remove(std::string text, Loc loc) & {
  help(std::move(text), std::move(loc));
  children.back().removal = true;
  return *this;
}

Diag&& Diag::at(Loc loc, std::string label) && { return std::move(at(std::move(loc), std::move(label))); }
Diag&& Diag::note(std::string text, Loc loc) && { return std::move(note(std::move(text), std::move(loc))); }
Diag&& Diag::help(std::string text, Loc loc, std::string replacement) && {
  return std::move(help(std::move(text), std::move(loc), std::move(replacement)));
}
Diag&& Diag::remove(std::string text, Loc loc) && { return std::move(remove(std::move(text), std::move(loc))); }

namespace {
Diag make_diag(Level level, Code code, Loc loc, std::string message, std::string label) {
  Diag d{level, code, std::move(message), {}, {}};
  if (loc.known() || !label.empty()) d.spans.push_back({std::move(loc), std::move(label), true});
  return d;
}
}  // namespace

Diag error(Code code, Loc loc, std::string message, std::string label) {
  return make_diag(Level::error, code, std::move(loc), std::move(message), std::move(label));
}
Diag warning(Code code, Loc loc, std::string message, std::string label) {
  return make_diag(Level::warning, code, std::move(loc), std::move(message), std::move(label));
}

bool has_errors(const Diags& diags) {
  for (const Diag& d : diags)
    if (d.level == Level::error) return true;
  return false;
}

std::shared_ptr<const std::string> Sources::add(std::string name, std::string text) {
  auto shared = std::make_shared<const std::string>(name);
  files_.insert_or_assign(std::move(name), std::move(text));
  return shared;
}

const std::string* Sources::text(const std::string& name) const {
  auto it = files_.find(name);
  return it == files_.end() ? nullptr : &it->second;
}

void internal_error(std::string message, const char* file, int line) {
  throw InternalError{std::move(message), file, line};
}

}  // namespace ag
