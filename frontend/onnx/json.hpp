// ONNX-JSON, protobuf's JSON form of a model: between JSON and the bytes of a binary model.
#pragma once
#include <map>
#include <string>
#include <string_view>

#include "frontend/json/document.hpp"

namespace ag::onnx {

/// Places of the messages of a JSON model by their path ("graph.node[3]").
using Places = std::map<std::string, Loc, std::less<>>;

/// The bytes of a model that is written as JSON, with camelCase or snake_case keys, enums by name or number, 64-bit
/// integers as numbers or strings, bytes in base64. Errors: AG0013 for a key that ONNX does not have, AG0014, AG0008.
Result<std::string> model_from_json(const json::Document& doc, Places* places = nullptr);
/// A binary model of ours as JSON: camelCase, 64-bit integers as strings, indented by two spaces.
Result<std::string> model_to_json(std::string_view bytes);

}  // namespace ag::onnx
