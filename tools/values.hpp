// Inputs from the command line and files; results to the terminal and files.
#pragma once
#include "tools/differences.hpp"
#include "tools/options.hpp"

namespace ag::tools {

/// AG0404 with a suggestion; `what` is "input" or "output".
Diag unknown_port(const char* what, const std::string& name, const std::vector<runtime::Port>& ports, const Loc& loc);

/// One array per port, from --input and --inputs. Symbols are solved from the values given; generators then need them.
Result<std::vector<Array>> read_inputs(Session& s, const std::vector<runtime::Port>& ports);

/// The value that --input or --inputs gives an input, where it is spelled out there (no generator) and fits the type.
std::optional<Array> given_value(Session& s, std::size_t index, const std::string& name, const Type& type);

/// `y  f32[]  28`, columns aligned; long arrays as norm, min, max.
void print_outputs(const Session& s, const std::vector<runtime::Port>& ports, const std::vector<Array>& values);
Status write_outputs(const Session& s, const std::vector<runtime::Port>& ports, const std::vector<Array>& values);

/// The dtype's own tolerance, unless --rtol or --atol say otherwise.
Tolerance tolerance_for(const Options& o, DType t);

}  // namespace ag::tools
