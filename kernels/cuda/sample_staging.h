// The rows of SampleParams (kernels/ops.h) as the sampling kernel reads them: settings side by
// side, and behind them one buffer with the lists of all rows. What the kernel wrote, as the op's
// results.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cuda/sample.h"
#include "kernels/ops.h"

namespace nibble::cuda {

// settings[i] = rows[i], its lists appended to `lists`. Ranges count entries of their own list's
// type from the beginning of `lists`, which SampleCall's seen, bias and ids therefore all point to.
void StageRows(absl::Span<const SampleRow> rows, SampleSettings* settings,
               std::vector<uint8_t>& lists);
// What the lists of `row` add to that buffer at most.
int64_t ListBytes(const SampleRow& row);

int32_t MostLogprobs(absl::Span<const SampleRow> rows);

// `likely` is of this row.
SampledToken TokenOf(const DrawnToken& drawn, const LikelyToken* likely, int32_t num_logprobs);

}  // namespace nibble::cuda
