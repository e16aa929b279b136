#include "kernels/cuda/matrix_packer.h"

#include <utility>

namespace nibble::cuda {

absl::Status CudaMatrixPacker::Add(int32_t first_row, const quant::Matrix& piece) {
  if (const absl::Status status = quant::Validate(piece); !status.ok()) return status;
  std::vector<MatrixPiece> pieces;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    pieces_.push_back({first_row, piece});
    rows_met_ += piece.rows;
    if (rows_met_ < rows_) return absl::OkStatus();
    pieces = std::move(pieces_);
    pieces_.clear();
    rows_met_ = 0;
  }
  absl::StatusOr<quant::Matrix> whole = JoinPieces(rows_, std::move(pieces));
  if (!whole.ok()) return whole.status();
  absl::StatusOr<std::unique_ptr<PackedMatrix>> packed = pack_(*whole);
  if (packed.ok()) packed_ = *std::move(packed);
  return packed.status();
}

}  // namespace nibble::cuda
