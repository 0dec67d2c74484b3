// The public headers as the library itself sees them: their names stay in ag::api, beside those of the IR.
#pragma once
#define AG_API_NAMESPACE namespace api
#include "ag/autograd.hpp"
#include "ag/error.hpp"
#include "ag/graph.hpp"
#include "ag/nn.hpp"

namespace ag::api::detail {
void set_console(void (*write)(const std::string& line));
}
