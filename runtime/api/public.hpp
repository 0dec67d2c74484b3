// The public headers as the library itself sees them: their names stay in ag::api, beside those of the IR.
#pragma once
#define AG_API_NAMESPACE namespace api
#include "ag/ag.hpp"
