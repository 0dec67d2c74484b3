#include "tests/cli/command.hpp"

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string name = (fs::temp_directory_path() / "ag-cli-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ec;
  fs::remove_all(path_, ec);
}

std::string TempFolder::write(const std::string& name, const std::string& text) const {
  std::string path = *this / name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

Ran sh(const std::string& line) {
  TempFolder folder;
  std::string script =
      folder.write("script", "cd '" AG_SOURCE_DIR "' || exit 99\nPATH='" + std::string(AG_COMMAND_DIR) +
                                 "':$PATH\nunset AG_FLAGS\n" + line + "\n");
  std::string command = "/bin/sh '" + script + "' > '" + folder / "out" + "' 2> '" + folder / "err" + "' < /dev/null";
  int status = std::system(command.c_str());
  Ran r;
  r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  r.out = read_file(folder / "out");
  r.err = read_file(folder / "err");
  return r;
}

const std::vector<Example>& examples() {
  static const std::vector<Example> all = [] {
    std::vector<Example> list;
    for (const auto& entry : fs::directory_iterator(AG_SOURCE_DIR "/examples")) {
      if (entry.path().extension() != ".json") continue;
      std::string file = "examples/" + entry.path().filename().string(), text = read_file(entry.path().string());
      std::string inputs;
      if (contains(text, "x_train"))
        inputs = " --inputs examples/digits.npz";
      else if (contains(text, "\"f32[B,2]\""))
        inputs = " --input 'x=[[1,2],[3,-4],[5,0.5]]'";
      else if (contains(text, "\"name\": \"a\", "))
        inputs = " --input a=1,2,0.5,3";
      else if (contains(text, "\"inputs\""))
        inputs = " --input x=1,2,-0.5,3";
      if (contains(text, "\"name\": \"neg\"")) inputs += " --input neg=true";
      list.push_back({file, inputs});
    }
    return list;
  }();
  return all;
}
