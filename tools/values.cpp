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

Diag unknown_input(const std::string& name, const std::vector<runtime::Port>& ports) {
  std::vector<std::string> names;
  for (const runtime::Port& p : ports) names.push_back(p.name);
  std::string text = "the graph has no input `" + name + "`";
  if (auto near = suggest(name, names)) text += "; did you mean `" + *near + "`?";
  return error(Code::AG0404, {}, text).help(fmt::format("inputs: {}", fmt::join(names, ", ")));
}

Status read_archives(Session& s, const std::vector<runtime::Port>& ports, Given& given) {
  for (const std::string& path : s.options.inputs_files) {
    AG_TRY(data::Bytes bytes, data::read_file(path, data::Limits{}.max_file_bytes));
    std::string_view text(bytes.data(), bytes.size());
    data::NamedArrays arrays;
    auto npz = data::parse_npz(text, path, nullptr, {});
    if (!npz) {
      auto st = data::parse_safetensors(text, path, nullptr, {});
      if (!st) return fail(npz.error());
      arrays = std::move(*st);
    } else {
      arrays = std::move(*npz);
    }
    auto known = [&](const std::string& key) { return std::any_of(ports.begin(), ports.end(), [&](auto& p) { return p.name == key; }); };
    bool by_name = std::any_of(arrays.begin(), arrays.end(), [&](auto& a) { return known(a.first); });
    std::string ignored;
    for (auto& [key, array] : arrays) {
      std::string name = key;
      if (!by_name && key.starts_with("in")) {
        std::size_t i = static_cast<std::size_t>(std::strtoul(key.c_str() + 2, nullptr, 10));
        if (i < ports.size() && key == "in" + std::to_string(i)) name = ports[i].name;
      }
      if (known(name)) given[name] = std::move(array);
      else ignored += (ignored.empty() ? "`" : ", `") + key + "`";
    }
    if (!ignored.empty() && !s.options.quiet) fmt::print(stderr, "note: {}: no input is named {}: ignored\n", path, ignored);
  }
  return {};
}

/// Symbols that the shapes of the arrays given so far determine.
void solve(const Type& type, const Array& array, DimEnv& env) {
  for (std::size_t d = 0; d < type.shape.size() && d < array.shape().size(); ++d)
    if (auto symbol = type.shape[d].as_symbol()) env.emplace(*symbol, array.shape()[d]);
}

bool is_generator(const std::string& value) { return !value.empty() && std::isalpha(static_cast<unsigned char>(value[0])) && value != "true" && value != "false" && value != "nan" && value != "inf"; }

}  // namespace

Result<std::vector<Array>> read_inputs(Session& s, const std::vector<runtime::Port>& ports) {
  Given given;
  DimEnv env;
  AG_TRY_(read_archives(s, ports, given));
  std::vector<std::pair<const runtime::Port*, std::string>> generators;
  for (const std::string& text : s.options.input) {
    std::size_t eq = text.find('=');
    if (eq == std::string::npos) return fail(Code::AG0402, {}, "`--input " + text + "`: NAME=VALUE is wanted");
    std::string name = text.substr(0, eq), value = text.substr(eq + 1);
    auto port = std::find_if(ports.begin(), ports.end(), [&](auto& p) { return p.name == name; });
    if (port == ports.end()) return fail(unknown_input(name, ports));
    if (is_generator(value)) {
      generators.emplace_back(&*port, value);
      continue;
    }
    AG_TRY(Array array, data::parse_value(value, port->type, name, {.dims = &env, .key = s.options.seed}));
    given[name] = std::move(array);
  }
  for (const runtime::Port& p : ports)
    if (auto it = given.find(p.name); it != given.end()) {
      AG_TRY_(data::check_array(it->second, p.type, p.name));
      solve(p.type, it->second, env);
    }
  for (std::size_t i = 0; i < generators.size(); ++i) {
    const auto& [port, value] = generators[i];
    AG_TRY(Array array, data::parse_value(value, port->type, port->name, {.dims = &env, .key = s.options.seed + i}));
    given[port->name] = std::move(array);
  }
  std::vector<Array> out;
  std::vector<std::string> missing;
  for (const runtime::Port& p : ports) {
    auto it = given.find(p.name);
    if (it == given.end()) missing.push_back("`" + p.name + "` (" + p.type.str() + ")");
    else out.push_back(it->second);
  }
  if (!missing.empty())
    return fail(error(Code::AG0405, {}, fmt::format("no value for input{} {}", missing.size() == 1 ? "" : "s", fmt::join(missing, ", ")))
                    .help("give --input NAME=VALUE, or --inputs FILE.npz with arrays of these names"));
  return out;
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
    fmt::print("{:<{}}  {:<{}}  {}\n", ports[i].name, name_width, types[i], type_width, format_values(values[i], s.options.print_max));
}

Status write_outputs(const Session& s, const std::vector<runtime::Port>& ports, const std::vector<Array>& values) {
  if (s.options.outputs_file.empty()) return {};
  data::NamedArrays arrays;
  for (std::size_t i = 0; i < ports.size(); ++i) arrays.emplace_back(ports[i].name, values[i]);
  AG_TRY(std::string bytes, data::format_npz(arrays));
  return data::write_file(s.options.outputs_file, bytes);
}

Tolerance tolerance_for(const Options& o, DType t) {
  Tolerance tol{0, 0};
  if (t == DType::f64) tol = {1e-10, 1e-10};
  if (t == DType::f32) tol = {2e-5, 2e-5};
  if (t == DType::f16) tol = {4e-3, 4e-3};
  if (t == DType::bf16) tol = {3e-2, 3e-2};
  if (o.rtol >= 0) tol.relative = o.rtol;
  if (o.atol >= 0) tol.absolute = o.atol;
  return tol;
}

std::string compare_arrays(const Array& got, const Array& want, Tolerance t) {
  if (got.shape() != want.shape()) return "the shapes differ";
  double scale = 0;
  for (std::int64_t i = 0; i < want.elems(); ++i)
    if (double w = std::abs(want.get_double(i)); std::isfinite(w)) scale = std::max(scale, w);
  std::int64_t bad = 0;
  double worst_abs = 0, worst_rel = 0;
  std::string first;
  for (std::int64_t i = 0; i < want.elems(); ++i) {
    double g = got.get_double(i), w = want.get_double(i);
    if (g == w || (std::isnan(g) && std::isnan(w))) continue;
    double diff = std::abs(g - w);
    if (diff <= t.relative * std::abs(w) + t.absolute * scale) continue;
    worst_abs = std::max(worst_abs, diff);
    worst_rel = std::max(worst_rel, diff / std::abs(w));
    if (++bad > 5) continue;
    std::string index;
    std::int64_t rest = i;
    for (std::size_t d = want.shape().size(); d-- > 0; rest /= want.shape()[d]) index = std::to_string(rest % want.shape()[d]) + (index.empty() ? "" : ", ") + index;
    first += fmt::format("\n    [{}]  got {}  expected {}", index, g, w);
  }
  if (!bad) return {};
  return fmt::format("{} of {} elements differ: at most {:.3g} absolute, {:.3g} relative{}", bad, want.elems(), worst_abs, worst_rel, first);
}

}  // namespace ag::tools
