// Packing in pieces of rows for the CUDA backend: pieces wait on the host until the last one came,
// are joined, packed and uploaded. On the host a matrix is there twice meanwhile, on the device
// once.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/pack_matrix.h"

namespace nibble::cuda {

class CudaMatrixPacker final : public MatrixPacker {
 public:
  using Pack =
      std::function<absl::StatusOr<std::unique_ptr<PackedMatrix>>(const quant::Matrix& matrix)>;
  CudaMatrixPacker(int32_t rows, Pack pack) : rows_(rows), pack_(std::move(pack)) {}

  // Who brings the last rows packs them all, and gets what can go wrong with it.
  absl::Status Add(int32_t first_row, const quant::Matrix& piece) override;
  // Never null after all rows: every layout is chosen by the whole.
  std::unique_ptr<PackedMatrix> Finish() override { return std::move(packed_); }

 private:
  const int32_t rows_;
  const Pack pack_;
  std::mutex mutex_;
  std::vector<MatrixPiece> pieces_;  // guarded
  int32_t rows_met_ = 0;             // guarded
  std::unique_ptr<PackedMatrix> packed_;
};

}  // namespace nibble::cuda
