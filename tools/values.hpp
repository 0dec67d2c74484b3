// Inputs from the command line and files; results to the terminal and files; comparison of results.
#pragma once
#include "tools/options.hpp"

namespace ag::tools {

/// One array per port, from --input and --inputs. Symbols are solved from the values given; generators then need them.
Result<std::vector<Array>> read_inputs(Session& s, const std::vector<runtime::Port>& ports);

/// `y  f32[]  28`, columns aligned; long arrays as norm, min, max.
void print_outputs(const Session& s, const std::vector<runtime::Port>& ports, const std::vector<Array>& values);
Status write_outputs(const Session& s, const std::vector<runtime::Port>& ports, const std::vector<Array>& values);

struct Tolerance {
  double relative, absolute;
};
/// By dtype; --rtol and --atol override. The absolute one scales with the largest reference element.
Tolerance tolerance_for(const Options& o, DType t);
/// Empty if all elements agree, else a report: how many differ, by how much, the first five with their indices.
std::string compare_arrays(const Array& got, const Array& want, Tolerance t);

}  // namespace ag::tools
