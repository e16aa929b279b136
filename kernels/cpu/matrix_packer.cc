#include "kernels/cpu/matrix_packer.h"

#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace nibble::cpu {

static_assert(MatrixPacker::kRowMultiple % kBlockRows == 0, "a piece ends where a row block does");

bool CpuMatrixPacker::Expect(const quant::Matrix& piece, const PackFacts& facts) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!layout_.has_value()) layout_ = facts;
  met_ = met_ & facts;
  if ((met_ & *layout_) != *layout_) return false;
  if (whole_ == nullptr && piece.rows != rows_) {
    whole_ = std::make_unique<CpuMatrix>(ChooseShape(piece, rows_, *layout_), memory_);
  }
  return true;
}

absl::Status CpuMatrixPacker::Add(int32_t first_row, const quant::Matrix& piece) {
  if (absl::Status status = quant::Validate(piece); !status.ok()) return status;
  NIBBLE_CHECK(first_row >= 0 && first_row % kRowMultiple == 0 && piece.rows <= rows_ - first_row);
  NIBBLE_CHECK(piece.rows % kRowMultiple == 0 || first_row + piece.rows == rows_);
  if (!Expect(piece, FactsOf(piece, activations_))) return absl::OkStatus();
  const bool is_whole = piece.rows == rows_;
  absl::StatusOr<std::unique_ptr<CpuMatrix>> packed =
      PackWithFacts(piece, *layout_, is_whole ? memory_ : nullptr);
  if (!packed.ok()) return packed.status();
  if (is_whole) {
    whole_ = *std::move(packed);
  } else {
    Place(first_row, **packed);
  }
  packed_rows_.fetch_add(piece.rows);
  return absl::OkStatus();
}

void CpuMatrixPacker::Place(int32_t first_row, CpuMatrix& piece) {
  CpuMatrix::Shape same = piece.shape();
  same.rows = rows_;
  NIBBLE_CHECK(same == whole_->shape());
  CpuMatrix::Shape before = piece.shape();
  before.rows = first_row;
  const auto from = piece.sections();
  const auto to = whole_->sections();
  const auto at = CpuMatrix::SectionBytes(before);
  for (int i = 0; i < CpuMatrix::kNumSections; ++i) {
    if (!from[i].empty()) std::memcpy(to[i].data() + at[i], from[i].data(), from[i].size());
  }
}

std::unique_ptr<PackedMatrix> CpuMatrixPacker::Finish() {
  NIBBLE_CHECK(layout_.has_value());
  if (const PackFacts all = met_ & *layout_; all != *layout_) {
    layout_ = all;
    whole_.reset();
    packed_rows_ = 0;
    return nullptr;
  }
  NIBBLE_CHECK(packed_rows_ == rows_);
  return std::move(whole_);
}

}  // namespace nibble::cpu
