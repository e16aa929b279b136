// Packing in pieces of rows. A piece is packed by itself, under the facts (packed_matrix.h) the
// whole is taken to have, and its row blocks are copied to their place; the layout is chosen by the
// first piece to come, and chosen again, for all pieces together, when another one's values
// contradict it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "kernels/backend.h"
#include "kernels/cpu/packed_matrix.h"

namespace nibble::cpu {

class CpuMatrixPacker final : public MatrixPacker {
 public:
  // The result meets `activations`, and is cut from `memory`, or memory of its own where that is
  // null.
  CpuMatrixPacker(int32_t rows, CpuActivations activations, WeightMemory* memory)
      : rows_(rows), activations_(activations), memory_(memory) {}

  // Takes memory for the piece's packed form, no larger than its canonical one, while it runs.
  absl::Status Add(int32_t first_row, const quant::Matrix& piece) override;
  std::unique_ptr<PackedMatrix> Finish() override;

 private:
  // False when the pass is lost already: `facts` contradict the layout.
  bool Expect(const quant::Matrix& piece, const PackFacts& facts);
  void Place(int32_t first_row, CpuMatrix& piece);

  const int32_t rows_;
  const CpuActivations activations_;
  WeightMemory* const memory_;
  std::mutex mutex_;
  std::optional<PackFacts> layout_;   // guarded; what this pass packs under
  PackFacts met_;                     // guarded; what all pieces so far allow
  std::unique_ptr<CpuMatrix> whole_;  // made under the lock, then written by ranges of rows
  std::atomic<int32_t> packed_rows_{0};
};

}  // namespace nibble::cpu
