// The packing half of matrix_loader.h.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/model/matrix_loader.h"

namespace nibble {

// Reads, converts and packs every request in pieces of rows, on the backend's host threads. Pieces
// are cut by shape alone and claimed in order.
absl::Status PackMatrices(Backend& backend, const WeightSource& weights,
                          absl::Span<const MatrixRequest> requests, LoadProgress& progress);

}  // namespace nibble
