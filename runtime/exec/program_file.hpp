// A program as bytes: everything that running it takes but the values of its constants and the statements of its
// kernels, which machine code stands for.
#pragma once
#include <functional>

#include "ir/base/bytes.hpp"
#include "ir/loop/footprint.hpp"
#include "ir/loop/program.hpp"

namespace ag::runtime {

/// `place` writes a place in a source, in whatever form its counterpart reads.
void write_program(ByteWriter& out, const loop::Program& program, const std::function<void(const Loc&)>& place);
/// Bytes are not trusted: the reader fails rather than give a program whose ids point nowhere. What else may be wrong
/// with it, Executable::create says.
loop::Program read_program(ByteReader& in, const std::function<Loc()>& place);

/// A footprint that was read may refer to what is not there; Executable::create looks.
void write_footprint(ByteWriter& out, const loop::Footprint& footprint);
loop::Footprint read_footprint(ByteReader& in);

}  // namespace ag::runtime
