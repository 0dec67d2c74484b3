// Values written as text, as on the command line: `1,2,3`, `[[1,2],[3,4]]`, `@x.npy`, `@all.npz:key`, `randn`.
#pragma once
#include <string>
#include <string_view>

#include "frontend/data/arrays.hpp"
#include "frontend/json/document.hpp"
#include "ir/array.hpp"
#include "ir/type.hpp"

namespace ag::data {

struct ValueOptions {
  const DimEnv* dims = nullptr;   ///< sizes of symbols, where known: generators need them all
  std::uint64_t key = 0;          ///< of randn and rand
  Limits limits = {};
};

/// An array of the given type from text. A flat list may stand for any shape without open sizes; an array file's
/// dtype must be the type's. `name` is what the value is for, in messages. AG0018, AG0019, and those of files.
Result<Array> parse_value(std::string_view text, const Type& type, std::string_view name,
                          const ValueOptions& options = {});

/// AG0018 unless dtype, rank and constant sizes of `array` are those of `type`.
Status check_array(const Array& array, const Type& type, std::string_view name, const Loc& loc = {});

/// The elements of a JSON value (number, bool, string for a non-finite float, nested arrays), each checked to be one
/// of dtype `t`. Where `shape` is given, the data may be nested like it, or flat; else it is taken from the nesting.
/// AG2003, AG2004 with the place of the element.
Result<Array> array_from_json(json::View v, DType t, const std::vector<std::int64_t>* shape, const Limits& limits = {});

}  // namespace ag::data
