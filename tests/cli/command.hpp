// Runs shell lines in which `ag-compile` is the one that was built, from the root of the sources.
#pragma once
#include <string>
#include <vector>

struct Ran {
  int code = -1;  ///< exit code; 128 + the signal's number if it was killed
  std::string out, err;
};

/// Standard input is empty.
Ran sh(const std::string& line);

/// A fresh folder, removed with its content.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  /// Path of a file in it.
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& text) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string read_file(const std::string& path);
bool contains(const std::string& text, const std::string& part);

/// The example graphs with what `run` and `gradcheck` need to be told for each.
struct Example {
  std::string file, inputs;
};
const std::vector<Example>& examples();
