// Codes that a method chose, as ggml's blocks: how GPTQ's, AWQ's or learned clipping's result goes
// into a GGUF file without being rounded a second time.
//
//   scheme                       type    values
//   int2..int4-sym, -full        Q4_0    the same bits
//   int5-sym, -full              Q5_0    the same bits
//   int2..int4-asym              Q4_1    the offset -s z rounded to f16: within 2^-11 of it
//   int5-asym                    Q5_1    likewise
//   int6..int8-sym, -full        Q8_0    the same bits
//
// In groups of 32 or a multiple, by row or by tensor: a scale is repeated in every block of 32 that
// it covers. Codes of fewer bits than the type's take the type's bits.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/quantize/methods/quantized_weight.h"
#include "engine/quantize/methods/scheme.h"
#include "engine/weights/gguf_file.h"

namespace nibble::quantize {

// Absent for schemes that no ggml type holds.
std::optional<GgmlType> GgmlTypeOf(const Scheme& scheme);

// The scheme with scales of the width that blocks have, f16, so that codes are chosen for them.
Scheme WithBlockScales(Scheme scheme);

// The blocks, in the file's order. Scales that are no f16s are rounded. INVALID_ARGUMENT names row
// and group of an offset -s z beyond f16, which would be stored as infinite: weights below -65504
// have such. REQUIRES GgmlTypeOf its scheme, rows of whole blocks of 32, and columns in group
// order.
absl::StatusOr<std::vector<uint8_t>> ToGgmlBlocks(const QuantizedWeight& weight);

}  // namespace nibble::quantize
