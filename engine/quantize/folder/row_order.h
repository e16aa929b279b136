// From GGUF's order of the rows of q and k, where RoPE turns neighbours, to Hugging Face's
// (HalfRowOf in engine/weights/hf/hf_source.h).
#pragma once

#include <cstdint>

#include "engine/quantize/methods/quantized_weight.h"

namespace nibble::quantize {

// Codes, scales and zero points go with their rows; the maxima of double quantization too, so that
// a packing which quantizes them does it in the new order. REQUIRES whole heads, and scales of one
// row, of all, or of whole heads.
QuantizedWeight InHalvesOrder(const QuantizedWeight& weight, int32_t head_dim);

}  // namespace nibble::quantize
