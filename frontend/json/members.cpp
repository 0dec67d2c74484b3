// Reading members of objects: every wrong one is reported with its place.
#include <algorithm>

#include <fmt/format.h>

#include "frontend/json/importer.hpp"
#include "ir/base/suggest.hpp"

namespace ag::json {

bool is_extra_key(std::string_view key) {
  return key == "doc" || key == "meta" || key == "$schema" || key.starts_with("x-");
}

void Importer::report(Diag d) { errors_.push_back(std::move(d)); }
void Importer::report(Diags d) {
  for (Diag& x : d) errors_.push_back(std::move(x));
}

/// Refuses members that the format does not know.
bool Importer::keys(View object, std::string_view what, std::initializer_list<std::string_view> known) {
  bool ok = true;
  for (View v : object) {
    std::string_view key = v.key();
    if (is_extra_key(key) || std::ranges::find(known, key) != known.end()) continue;
    ok = false;
    Diag d = error(Code::AG0013, v.key_loc(),
                   fmt::format("a{} {} has no member `{}`",
                               std::string_view("aeiou").find(what[0]) != std::string_view::npos ? "n" : "", what, key),
                   "unknown key");
    std::vector<std::string_view> candidates(known);
    if (auto near = suggest(key, candidates))
      d.help(fmt::format("a member with a similar name exists: `{}`", *near), v.key_loc(), quote(*near));
    else
      d.note(fmt::format("its members are {}; `doc`, `meta` and `x-...` are free", fmt::join(known, ", ")));
    report(std::move(d));
  }
  return ok;
}

bool Importer::expect(View v, Kind kind, std::string_view what) {
  if (v.is(kind)) return true;
  report(error(Code::AG0014, v.loc(),
               fmt::format("{} is {}, and this is {}", what, kind_name(kind), kind_name(v.kind())),
               fmt::format("expected {}", kind_name(kind))));
  return false;
}

std::optional<std::string> Importer::text(View v, std::string_view what) {
  if (!expect(v, Kind::string, what)) return std::nullopt;
  return std::string(v.str());
}

std::optional<std::int64_t> Importer::integer(View v, std::string_view what) {
  if (!expect(v, Kind::integer, what)) return std::nullopt;
  auto value = v.as_int();
  if (!value) report(error(Code::AG0008, v.loc(), fmt::format("{} is out of range", what), "outside 64-bit integers"));
  return value;
}

/// The member, or a complaint at the object's opening brace.
View Importer::required(View object, std::string_view key, std::string_view what) {
  if (View v = object.find(key)) return v;
  Diag d = error(Code::AG0012, object.loc(),
                 fmt::format("a{} {} needs the member `{}`",
                             std::string_view("aeiou").find(what[0]) != std::string_view::npos ? "n" : "", what, key),
                 fmt::format("`{}` is missing", key));
  report(std::move(d));
  return {};
}

std::vector<std::pair<std::string, std::string>> Importer::extras(View object) const {
  std::vector<std::pair<std::string, std::string>> out;
  for (View v : object)
    if (is_extra_key(v.key())) out.emplace_back(v.key(), compact(v));
  return out;
}

}  // namespace ag::json
