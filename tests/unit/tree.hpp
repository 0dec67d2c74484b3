// The source tree as the house rules see it.
#pragma once
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

struct SourceFile {
  std::string path;  ///< from the repository's root
  std::string text;

  std::string folder() const { return path.substr(0, path.rfind('/') == path.npos ? 0 : path.rfind('/')); }
  bool is(std::string_view extension) const { return path.ends_with(extension); }
  bool is_code() const { return is(".cpp") || is(".hpp"); }
};

/// All files of ours, sorted by path: nothing built, nothing hidden.
inline std::vector<SourceFile> source_tree() {
  namespace fs = std::filesystem;
  std::vector<SourceFile> out;
  for (auto it = fs::recursive_directory_iterator(AG_SOURCE_DIR); it != fs::recursive_directory_iterator(); ++it) {
    std::string name = it->path().filename().string();
    if (it->is_directory() && (name == "build" || name == "shared" || name.starts_with('.') || name == "__pycache__")) {
      it.disable_recursion_pending();
      continue;
    }
    if (!it->is_regular_file()) continue;
    std::ifstream in(it->path(), std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    out.push_back({fs::relative(it->path(), AG_SOURCE_DIR).string(), text.str()});
  }
  std::sort(out.begin(), out.end(), [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return out;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

inline std::string joined(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& l : lines) out += l + "\n";
  return out;
}
