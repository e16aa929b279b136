// AWQ in AutoAWQ's "gemm" packing. Of a matrix [N, K] in 4 bits:
//   qweight i32 [K, N / 8], qzeros i32 [K / group, N / 8], scales f16 [K / group, N]
// Nibble i of word c belongs to row n = 8 c + {0, 2, 4, 6, 1, 3, 5, 7}[i].
// W[n, k] = scales[k / group, n] * (q - z).
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/hf/linear_layout.h"

namespace nibble {
namespace {

constexpr int kNibbleOf[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of row n % 8

uint8_t RowOf(uint32_t word, int32_t n) {
  return static_cast<uint8_t>(word >> (4 * kNibbleOf[n % 8]) & 15);
}

class AwqLayout final : public LinearLayout {
 public:
  static absl::StatusOr<std::unique_ptr<LinearLayout>> Open(const ModuleTensors& tensors) {
    auto layout = std::make_unique<AwqLayout>();
    NIBBLE_RETURN_IF_ERROR(layout->Find(tensors));
    return layout;
  }

  absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const override {
    // Whole words: eight rows at a time.
    const int32_t first_word = first / 8, num_words = (first + count + 7) / 8 - first_word;
    AffineCodes codes;
    codes.rows = count;
    codes.cols = cols_;
    codes.group = group_;
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> packed,
                            qweight_->Window(0, cols_, first_word, num_words));
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> packed_zeros,
                            qzeros_->Window(0, groups_, first_word, num_words));
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> scales,
                            scales_->FloatWindow(0, groups_, first, count));
    const std::vector<uint32_t> words = ToWords(packed), zeros = ToWords(packed_zeros);
    codes.codes.resize(static_cast<size_t>(count) * cols_);
    codes.scales.resize(static_cast<size_t>(count) * groups_);
    codes.zeros.resize(codes.scales.size());
    for (int32_t n = 0; n < count; ++n) {
      const int32_t row = first + n, word = row / 8 - first_word;
      for (int32_t k = 0; k < cols_; ++k) {
        codes.codes[static_cast<size_t>(n) * cols_ + k] =
            RowOf(words[static_cast<size_t>(k) * num_words + word], row);
      }
      for (int32_t g = 0; g < groups_; ++g) {
        const size_t at = static_cast<size_t>(n) * groups_ + g;
        codes.scales[at] = scales[static_cast<size_t>(g) * count + n];
        codes.zeros[at] = RowOf(zeros[static_cast<size_t>(g) * num_words + word], row);
      }
    }
    return MakeAffine(codes, affine_);
  }

 private:
  absl::Status Find(const ModuleTensors& tensors) {
    NIBBLE_ASSIGN_OR_RETURN(qweight_, tensors.Get("qweight"));
    NIBBLE_ASSIGN_OR_RETURN(scales_, tensors.Get("scales"));
    if (qweight_->type() != SafetensorsType::kI32 || qweight_->shape().size() != 2 ||
        qweight_->num_elements() == 0 || qweight_->shape()[0] % 2 != 0 ||
        qweight_->shape()[0] > kMaxMatrixSide || qweight_->shape()[1] > kMaxMatrixSide / 8) {
      return qweight_->Problem(
          absl::StatusCode::kInvalidArgument,
          absl::StrCat("is ", qweight_->Describe(), ", needed I32 [in, out / 8], in even"));
    }
    cols_ = static_cast<int32_t>(qweight_->shape()[0]);
    rows_ = static_cast<int32_t>(qweight_->shape()[1] * 8);
    const absl::Span<const int64_t> shape = scales_->shape();
    if (shape.size() != 2 || shape[1] != rows_ || shape[0] < 1 || cols_ % shape[0] != 0) {
      return scales_->Problem(
          absl::StatusCode::kInvalidArgument,
          absl::StrCat("is ", scales_->Describe(), ", needed [", cols_, " / group, ", rows_, "]"));
    }
    groups_ = static_cast<int32_t>(shape[0]);
    group_ = cols_ / groups_;
    if (group_ % 16 != 0 && group_ != cols_) {
      return scales_->Problem(
          absl::StatusCode::kUnimplemented,
          absl::StrCat("has groups of ", group_, " columns, needed a multiple of 16"));
    }
    NIBBLE_ASSIGN_OR_RETURN(qzeros_, tensors.Get("qzeros", {groups_, rows_ / 8}));
    if (qzeros_->type() != SafetensorsType::kI32) {
      return qzeros_->Problem(absl::StatusCode::kUnimplemented,
                              absl::StrCat("is ", qzeros_->Describe(), ", needed I32"));
    }
    const bool f16 = scales_->type() == SafetensorsType::kF16;
    affine_ = ChooseAffineForm(4, f16 || scales_->type() == SafetensorsType::kBF16, false);
    type_ = absl::StrCat("AWQ int4 g", group_);
    file_bytes_ = tensors.TotalBytes();
    form_ = FormOfAffine(affine_, 4, group_, false, f16);
    return absl::OkStatus();
  }

  const StoredTensor* qweight_ = nullptr;
  const StoredTensor* qzeros_ = nullptr;
  const StoredTensor* scales_ = nullptr;
  int32_t groups_ = 0;
  int32_t group_ = 0;
  AffineForm affine_ = AffineForm::kAffine;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenAwq(const ModuleTensors& tensors) {
  return AwqLayout::Open(tensors);
}

}  // namespace nibble
