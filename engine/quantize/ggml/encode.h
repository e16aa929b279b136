// Encoders of ggml's weight types: a row of f32 to the blocks that DequantizeBlocks
// (engine/weights/ggml_types.h) reads.
//
// Every encoder minimizes sum_k w[k] (x[k] - value of code k)^2 over the block, w being the
// importance of column k (the mean square of the activation that meets it; ggml calls a file of
// them an imatrix), or 1 without one: then the error of y = x W^T is least for the activations
// seen. The search: candidate steps around the one that just covers the block, the best step for
// the codes in closed form (weighted least squares), sub-scales tried beside their nearest; each
// pass keeps the least error found (scale_search.h). Nothing is random: the same row gives the same
// bytes on every machine and thread.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "engine/weights/gguf_file.h"

namespace nibble {

// F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K..Q6_K, IQ4_NL, IQ4_XS and MXFP4.
bool CanEncode(GgmlType type);

// Appends nothing, writes row.size() / block_elements * block_bytes bytes to `out`.
// REQUIRES CanEncode(type), finite values, a row of whole blocks, and an importance that is empty
// or of the row's length, finite and not negative. F16 saturates at 65504, as do all f16 scales.
// Cost a core, measured: F16, BF16, Q8_0 about 2 ns an element, MXFP4, Q4_0 and Q5_0 30 to 50, the
// other types 90 to 130, Q2_K and the IQ4 types 200 to 300.
void EncodeRow(GgmlType type, absl::Span<const float> row, absl::Span<const float> importance,
               uint8_t* out);

}  // namespace nibble
