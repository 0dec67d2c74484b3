// ag: a compiler for tensor programs that differentiates them. Everything a program needs.
#pragma once
#include "ag/autograd.hpp"
#include "ag/console.hpp"
#include "ag/error.hpp"
#include "ag/graph.hpp"
#include "ag/nn.hpp"
#include "ag/tensor.hpp"
#include "ag/training.hpp"
