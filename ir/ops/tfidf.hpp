// ONNX's TfIdfVectorizer on integer tokens: a part of the family `dynamic`.
#pragma once
#include "ir/op.hpp"

namespace ag {
OpInfo tfidf_op();
}  // namespace ag
