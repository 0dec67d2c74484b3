#include "frontend/load.hpp"

#include <filesystem>

#include <fmt/format.h>

#include "frontend/json/import.hpp"
#include "frontend/onnx/onnx.hpp"

namespace ag {
namespace {

namespace fs = std::filesystem;

enum class Format { json, text, onnx, unknown };

Format sniff(std::string_view s, std::string_view name) {
  if (onnx::looks_like_model(s) || name.ends_with(".onnx")) return Format::onnx;
  std::size_t p = s.find_first_not_of(" \t\r\n");
  if (p == s.npos) return name.ends_with(".ag") ? Format::text : Format::json;
  if (s[p] == '{' || name.ends_with(".json")) return Format::json;
  if (static_cast<unsigned char>(s[p]) >= 0x80 || s[p] == '[' || s[p] == '"')
    return Format::json;  // its errors say more
  if (name.ends_with(".ag") || s[p] == '/' || s[p] == '#' || (s[p] >= 'a' && s[p] <= 'z')) return Format::text;
  return Format::unknown;
}

onnx::ImportOptions onnx_options(std::vector<std::string> folders, const LoadOptions& options) {
  onnx::ImportOptions out;
  out.folders = std::move(folders);
  out.data = options.data;
  out.max_errors = options.max_errors;
  out.values = options.values;
  out.mark_trainable = options.mark_trainable;
  return out;
}

Result<Graph> load_from(std::string text, const std::string& name, std::vector<std::string> folders, Sources& sources,
                        const LoadOptions& options) {
  folders.insert(folders.end(), options.external_dirs.begin(), options.external_dirs.end());
  Format format = sniff(text, name);
  Loc whole;
  whole.file = std::make_shared<std::string>(name);
  if (format == Format::onnx) {
    return onnx::import_model(std::move(text), name, onnx_options(std::move(folders), options));
  }
  if (text.size() > options.json.max_bytes)
    return fail(Code::AG0006, whole,
                fmt::format("`{}` has {} bytes; the limit is {}", name, text.size(), options.json.max_bytes));
  if (format == Format::unknown)
    return fail(
        error(Code::AG0010, whole, fmt::format("`{}` is neither a JSON graph nor an ONNX model nor IR text", name)));
  auto file = sources.add(name, text);
  if (format == Format::text) {
    // Long constants lie in the folder that the caller names, else beside the text.
    auto resources = !options.external_dirs.empty() ? options.external_dirs.front()
                     : folders.empty()              ? std::string()
                                                    : folders.front();
    return parse_graph(text, name, resources);
  }
  auto doc = json::Document::parse(std::move(text), file, options.json);
  if (!doc) return fail(std::move(doc).error());
  if (onnx::is_model_json((*doc)->root()))
    return onnx::import_model_json(**doc, name, onnx_options(std::move(folders), options));
  json::ImportOptions import;
  import.folders = std::move(folders);
  import.data = options.data;
  import.max_errors = options.max_errors;
  import.values = options.values;
  return json::import_graph(**doc, import);
}

}  // namespace

Result<Graph> load_text(std::string text, const std::string& name, const std::string& folder, Sources& sources,
                        const LoadOptions& options) {
  std::vector<std::string> folders;
  if (!folder.empty()) folders.push_back(folder);
  return load_from(std::move(text), name, std::move(folders), sources, options);
}

Result<Graph> load(const std::string& path, Sources& sources, const LoadOptions& options) {
  if (path == "-") {
    AG_TRY(data::Bytes bytes, data::read_stdin(onnx::max_model_bytes));
    return load_from(std::move(bytes), "<stdin>", {}, sources, options);
  }
  AG_TRY(data::BeneathFile file, data::BeneathFile::open_path(path, onnx::max_model_bytes));
  // Data lies beside the graph: in its folder, or, where the name is a symbolic link, in that of the real file.
  std::vector<std::string> folders;
  std::string folder = fs::path(path).parent_path().string();
  folders.push_back(folder.empty() ? "." : folder);
  std::error_code ec;
  fs::path real = fs::canonical(path, ec);
  if (!ec && fs::is_symlink(path, ec)) folders.push_back(real.parent_path().string());
  std::string head(std::min<std::uint64_t>(file.size(), 16), '\0');
  AG_TRY_(file.read(0, std::as_writable_bytes(std::span(head)), {}));
  if (sniff(head, path) == Format::onnx) {
    folders.insert(folders.end(), options.external_dirs.begin(), options.external_dirs.end());
    return onnx::import_file(path, onnx_options(std::move(folders), options));
  }
  AG_TRY(data::Bytes bytes, file.read_all({}));
  return load_from(std::move(bytes), path, std::move(folders), sources, options);
}

}  // namespace ag
