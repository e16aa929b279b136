// Round-to-nearest (RTN): every weight by itself to the nearest value of its tile's grid. All the
// other methods are measured against it.
#pragma once

#include "engine/quantize/methods/dense.h"
#include "engine/quantize/methods/quantized_weight.h"

namespace nibble::quantize {

// The parameters of every tile, codes left 0. `threads` as ParallelRanges. Cost: one pass, or
// kRangeSteps of them where the range is searched. REQUIRES CheckShape and finite weights.
QuantizedWeight FitTiles(const MatrixF& weight, const Scheme& scheme, int threads);

// The nearest codes under the parameters that `quantized` has.
void RoundInto(const MatrixF& weight, QuantizedWeight& quantized, int threads);

// Both. With double quantization the codes are those of the exact block maxima, as bitsandbytes has
// them; only the values come from the restored ones.
QuantizedWeight RoundToNearest(const MatrixF& weight, const Scheme& scheme, int threads);

}  // namespace nibble::quantize
