#include "tools/values.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include <fmt/format.h>

#include "frontend/data/value.hpp"
#include "ir/base/suggest.hpp"

namespace ag::tools {
namespace {

using Given = std::map<std::string, Array>;

Result<data::NamedArrays> read_archive(const std::string& path) {
  AG_TRY(data::Bytes bytes, data::read_file(path, data::Limits{}.max_file_bytes));
  std::string_view text(bytes.data(), bytes.size());
  auto npz = data::parse_npz(text, path, nullptr, {});
  if (npz) return npz;
  auto st = data::parse_safetensors(text, path, nullptr, {});
  return st ? std::move(st) : std::move(npz);
}

Status open_archives(Session& s) {
  if (s.archives) return {};
  std::vector<std::pair<std::string, data::NamedArrays>> read;
  for (const std::string& path : s.options.inputs_files) {
    AG_TRY(data::NamedArrays arrays, read_archive(path));
    read.emplace_back(path, std::move(arrays));
  }
  s.archives = std::move(read);
  return {};
}

Status read_archives(Session& s, const std::vector<runtime::Port>& ports, Given& given) {
  AG_TRY_(open_archives(s));
  for (const auto& [path, arrays] : *s.archives) {
    auto known = [&](const std::string& key) {
      return std::any_of(ports.begin(), ports.end(), [&](auto& p) { return p.name == key; });
    };
    bool by_name = std::any_of(arrays.begin(), arrays.end(), [&](auto& a) { return known(a.first); });
    std::string ignored;
    for (const auto& [key, array] : arrays) {
      std::string name = key;
      if (!by_name && key.starts_with("in")) {
        std::size_t i = static_cast<std::size_t>(std::strtoul(key.c_str() + 2, nullptr, 10));
        if (i < ports.size() && key == "in" + std::to_string(i)) name = ports[i].name;
      }
      if (known(name))
        given[name] = array;
      else
        ignored += (ignored.empty() ? "`" : ", `") + key + "`";
    }
    if (!ignored.empty() && !s.options.quiet)
      fmt::print(stderr, "note: {}: no input is named {}: ignored\n", path, ignored);
  }
  return {};
}

/// Symbols that the shapes of the arrays given so far determine.
void solve(const Type& type, const Array& array, DimEnv& env) {
  for (std::size_t d = 0; d < type.shape.size() && d < array.shape().size(); ++d)
    if (auto symbol = type.shape[d].as_symbol()) env.emplace(*symbol, array.shape()[d]);
}

bool is_generator(const std::string& value) {
  return !value.empty() && std::isalpha(static_cast<unsigned char>(value[0])) && value != "true" && value != "false" &&
         value != "nan" && value != "inf";
}

}  // namespace

Diag unknown_port(const char* what, const std::string& name, const std::vector<runtime::Port>& ports, const Loc& loc) {
  std::vector<std::string> names;
  for (const runtime::Port& p : ports) names.push_back(p.name);
  std::string text = fmt::format("the graph has no {} `{}`", what, name);
  if (auto near = suggest(name, names)) text += "; did you mean `" + *near + "`?";
  return error(Code::AG0404, loc, text)
      .help(names.empty() ? fmt::format("it has no {}s", what) : fmt::format("{}s: {}", what, fmt::join(names, ", ")));
}

Result<std::vector<Array>> read_inputs(Session& s, const std::vector<runtime::Port>& ports) {
  Given given;
  DimEnv env;
  AG_TRY_(read_archives(s, ports, given));
  struct Generator {
    const runtime::Port* port;
    std::string value;
    Loc loc;
  };
  std::vector<Generator> generators;
  auto parse = [&](const runtime::Port& port, const std::string& value, const Loc& loc,
                   std::uint64_t key) -> Result<Array> {
    auto array = data::parse_value(value, port.type, port.name, {.dims = &env, .key = key});
    if (!array) return fail(located(std::move(array).error(), loc));
    return array;
  };
  for (const std::string& text : s.options.input) {
    std::size_t eq = text.find('=');
    if (eq == std::string::npos)
      return fail(Code::AG0402, option_loc(s, "--input", text, 0, text.size()), "`--input` takes NAME=VALUE",
                  "no `=` here");
    std::string name = text.substr(0, eq), value = text.substr(eq + 1);
    auto port = std::find_if(ports.begin(), ports.end(), [&](auto& p) { return p.name == name; });
    if (port == ports.end()) return fail(unknown_port("input", name, ports, option_loc(s, "--input", text, 0, eq)));
    Loc loc = option_loc(s, "--input", text, eq + 1, text.size());
    if (is_generator(value)) {
      generators.push_back({&*port, value, loc});
      continue;
    }
    AG_TRY(given[name], parse(*port, value, loc, 0));
  }
  for (const runtime::Port& p : ports)
    if (auto it = given.find(p.name); it != given.end()) {
      AG_TRY_(data::check_array(it->second, p.type, p.name));
      solve(p.type, it->second, env);
    }
  for (std::size_t i = 0; i < generators.size(); ++i) {
    const Generator& g = generators[i];
    AG_TRY(given[g.port->name], parse(*g.port, g.value, g.loc, s.options.seed + i));
  }
  std::vector<Array> out;
  std::vector<std::string> missing;
  for (const runtime::Port& p : ports) {
    auto it = given.find(p.name);
    if (it == given.end())
      missing.push_back("`" + p.name + "` (" + p.type.str() + ")");
    else
      out.push_back(it->second);
  }
  if (!missing.empty())
    return fail(error(Code::AG0405, {},
                      fmt::format("no value for input{} {}", missing.size() == 1 ? "" : "s", fmt::join(missing, ", ")))
                    .help("give --input NAME=VALUE, or --inputs FILE.npz with arrays of these names"));
  return out;
}

std::optional<Array> given_value(Session& s, std::size_t index, const std::string& name, const Type& type) {
  std::string prefix = name + "=";
  for (const std::string& text : s.options.input)
    if (text.starts_with(prefix) && !is_generator(text.substr(prefix.size()))) {
      auto array = data::parse_value(text.substr(prefix.size()), type, name, {});
      return array ? std::optional(std::move(*array)) : std::nullopt;
    }
  Given given;
  std::vector<runtime::Port> ports(index + 1);
  ports[index] = {name, type};
  bool quiet = std::exchange(s.options.quiet, true);  // other keys are spoken of when all inputs are read
  auto read = read_archives(s, ports, given);
  s.options.quiet = quiet;
  auto it = given.find(name);
  if (!read || it == given.end() || !data::check_array(it->second, type, name)) return std::nullopt;
  return it->second;
}

void print_outputs(const Session& s, const std::vector<runtime::Port>& ports, const std::vector<Array>& values) {
  std::size_t name_width = 0, type_width = 0;
  std::vector<std::string> types;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    Dims shape(values[i].shape().begin(), values[i].shape().end());
    types.push_back(Type{values[i].dtype(), shape}.str());
    name_width = std::max(name_width, ports[i].name.size());
    type_width = std::max(type_width, types[i].size());
  }
  for (std::size_t i = 0; i < ports.size(); ++i)
    fmt::print("{:<{}}  {:<{}}  {}\n", ports[i].name, name_width, types[i], type_width,
               format_values(values[i], s.options.print_max));
}

Status write_outputs(const Session& s, const std::vector<runtime::Port>& ports, const std::vector<Array>& values) {
  if (s.options.outputs_file.empty()) return {};
  data::NamedArrays arrays;
  for (std::size_t i = 0; i < ports.size(); ++i) arrays.emplace_back(ports[i].name, values[i]);
  AG_TRY(std::string bytes, data::format_npz(arrays));
  return data::write_file(s.options.outputs_file, bytes);
}

Tolerance tolerance_for(const Options& o, DType t) {
  Tolerance tol = default_tolerance(t);
  if (o.rtol >= 0) tol.relative = o.rtol;
  if (o.atol >= 0) tol.absolute = o.atol;
  return tol;
}

}  // namespace ag::tools
