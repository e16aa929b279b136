// Codes that a method chose, as ggml's blocks: how GPTQ's, AWQ's or learned clipping's result goes
// into a GGUF file without being rounded a second time.
//
//   scheme                     type    values
//   int4-sym-g32, -full-g32    Q4_0    the same bits
//   int4-asym-g32              Q4_1    the offset -s z rounded to f16: within 2^-11 of it
//   int8-sym-g32               Q8_0    the scale rounded to f16: within 2^-11 of them
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/quantize/methods/quantized_weight.h"
#include "engine/quantize/methods/scheme.h"
#include "engine/weights/gguf_file.h"

namespace nibble::quantize {

// Absent for schemes that no ggml type holds.
std::optional<GgmlType> GgmlTypeOf(const Scheme& scheme);

// The blocks, in the file's order. REQUIRES GgmlTypeOf its scheme, and columns in group order.
std::vector<uint8_t> ToGgmlBlocks(const QuantizedWeight& weight);

}  // namespace nibble::quantize
