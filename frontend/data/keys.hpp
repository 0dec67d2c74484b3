// The answer to a name that a file of arrays does not have.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "ir/base/diag.hpp"

namespace ag::data {
Diag no_such_array(std::string_view file, const std::string& key, const std::vector<std::string>& names,
                   const Loc& loc);
}
