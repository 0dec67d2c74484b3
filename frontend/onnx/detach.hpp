// Models without their weights: large initializers are read from the file straight into their arrays.
#pragma once
#include <optional>
#include <string>

#include "frontend/data/file.hpp"

namespace ag::onnx {

/// The `location` of external data that is the model's own file. No path: those have no NUL.
inline const std::string own_file{"\0model", 6};

/// The model's bytes with large raw data of the graph's initializers as external data in `own_file`; nothing if the
/// bytes are no messages. Only their framing is looked at.
std::optional<std::string> detached(const data::BeneathFile& file);

}  // namespace ag::onnx
