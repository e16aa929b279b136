// GPTQ, v1 and v2 (AutoGPTQ, GPTQModel). Of a matrix [N, K] in b bits:
//   qweight i32 [K * b / 32, N]           a stream of b-bit values down each column
//   qzeros  i32 [groups, N * b / 32]      a stream along each row; v1 stores z - 1
//   scales  f16 [groups, N]
//   g_idx   i32 [K]                       the group of each column k; absent: k / group
// W[n, k] = scales[g, n] * (q - z). Where g_idx does not follow the columns (act-order), no
// canonical format holds the scales, and the values themselves are kept.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/hf/linear_layout.h"

namespace nibble {
namespace {

class GptqLayout final : public LinearLayout {
 public:
  static absl::StatusOr<std::unique_ptr<LinearLayout>> Open(const ModuleTensors& tensors,
                                                            const QuantConfig& config) {
    auto layout = std::make_unique<GptqLayout>();
    NIBBLE_RETURN_IF_ERROR(layout->Find(tensors, config));
    NIBBLE_RETURN_IF_ERROR(layout->ReadGroups());
    layout->Describe(tensors);
    return layout;
  }

  absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const override {
    AffineCodes codes;
    codes.bits = bits_;
    codes.rows = count;
    codes.cols = cols_;
    codes.group = group_;
    codes.group_of = group_of_;
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> packed,
                            qweight_->Window(0, qweight_->shape()[0], first, count));
    UnpackCodes(ToWords(packed), codes);
    NIBBLE_RETURN_IF_ERROR(ReadScales(first, codes));
    return MakeAffine(codes, affine_);
  }

 private:
  absl::Status Find(const ModuleTensors& tensors, const QuantConfig& config) {
    NIBBLE_ASSIGN_OR_RETURN(qweight_, tensors.Get("qweight"));
    NIBBLE_ASSIGN_OR_RETURN(scales_, tensors.Get("scales"));
    if (qweight_->type() != SafetensorsType::kI32 || qweight_->shape().size() != 2) {
      return qweight_->Problem(
          absl::StatusCode::kUnimplemented,
          absl::StrCat("is ", qweight_->Describe(), ", needed a matrix of I32"));
    }
    const int64_t words = qweight_->shape()[0];
    bits_ = config.bits;
    g_idx_ = tensors.Find("g_idx");
    // A module may have bits of its own ("dynamic"): the columns and the words tell.
    if (g_idx_ != nullptr && g_idx_->num_elements() > 0) {
      bits_ = static_cast<int>(std::clamp<int64_t>(words, 0, int64_t{1} << 40) * 32 /
                               g_idx_->num_elements());
    }
    if (bits_ != 2 && bits_ != 3 && bits_ != 4 && bits_ != 8) {
      return qweight_->Problem(absl::StatusCode::kUnimplemented,
                               absl::StrCat("is ", qweight_->Describe(), ", ", bits_,
                                            " bits a column of g_idx; 2, 3, 4 and 8 are read"));
    }
    stored_zeros_less_one_ = config.stored_zeros_less_one;
    return SetShape(tensors, words);
  }

  absl::Status SetShape(const ModuleTensors& tensors, int64_t words) {
    const int64_t cols = words / bits_ * 32, rows = qweight_->shape()[1];
    if (words == 0 || words % bits_ != 0 || rows == 0 || rows * bits_ % 32 != 0 ||
        cols > kMaxMatrixSide || rows > kMaxMatrixSide) {
      return qweight_->Problem(
          absl::StatusCode::kInvalidArgument,
          absl::StrCat("is ", qweight_->Describe(), ", which is no packing of ", bits_, " bits"));
    }
    rows_ = static_cast<int32_t>(rows);
    cols_ = static_cast<int32_t>(cols);
    if (scales_->shape().size() != 2 || scales_->shape()[0] < 1 || scales_->shape()[1] != rows ||
        scales_->shape()[0] > cols) {
      return scales_->Problem(
          absl::StatusCode::kInvalidArgument,
          absl::StrCat("is ", scales_->Describe(), ", needed [groups, ", rows, "]"));
    }
    groups_ = static_cast<int32_t>(scales_->shape()[0]);
    NIBBLE_ASSIGN_OR_RETURN(qzeros_, tensors.Get("qzeros", {groups_, rows * bits_ / 32}));
    if (qzeros_->type() != SafetensorsType::kI32) {
      return qzeros_->Problem(absl::StatusCode::kUnimplemented,
                              absl::StrCat("is ", qzeros_->Describe(), ", needed I32"));
    }
    if (g_idx_ == nullptr) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(g_idx_, tensors.Get("g_idx", {cols}));
    if (g_idx_->type() == SafetensorsType::kI32) return absl::OkStatus();
    return g_idx_->Problem(absl::StatusCode::kUnimplemented,
                           absl::StrCat("is ", g_idx_->Describe(), ", needed I32"));
  }

  // Columns a group, and where columns do not follow each other, the group of each.
  absl::Status ReadGroups() {
    group_ = (cols_ + groups_ - 1) / groups_;
    bool regular = cols_ % groups_ == 0;
    if (g_idx_ != nullptr) {
      NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                              g_idx_->Bytes(0, g_idx_->info().size_bytes));
      group_of_.resize(static_cast<size_t>(cols_));
      std::memcpy(group_of_.data(), bytes.data(), bytes.size());
      for (int32_t k = 0; k < cols_; ++k) {
        if (group_of_[k] < 0 || group_of_[k] >= groups_) {
          return g_idx_->Problem(absl::StatusCode::kDataLoss,
                                 absl::StrCat("holds ", group_of_[k], " for column ", k,
                                              ", needed 0 to ", groups_ - 1));
        }
        regular = regular && group_of_[k] == k / group_;
      }
    }
    if (regular && (group_ % 16 == 0 || group_ == cols_)) {
      group_of_.clear();
      return absl::OkStatus();
    }
    if (group_of_.empty()) {
      for (int32_t k = 0; k < cols_; ++k) group_of_.push_back(k / group_);
    }
    return absl::OkStatus();
  }

  void Describe(const ModuleTensors& tensors) {
    const bool f16 = scales_->type() == SafetensorsType::kF16;
    const bool narrow = f16 || scales_->type() == SafetensorsType::kBF16;
    affine_ = group_of_.empty() ? ChooseAffineForm(bits_, narrow, /*one_zero=*/false)
                                : AffineForm::kValues;
    type_ = absl::StrCat("GPTQ int", bits_, " g", group_, group_of_.empty() ? "" : " act-order");
    file_bytes_ = tensors.TotalBytes();
    form_ = FormOfAffine(affine_, bits_, group_, /*one_zero=*/false, f16);
  }

  void UnpackCodes(const std::vector<uint32_t>& words, AffineCodes& codes) const {
    codes.codes.resize(static_cast<size_t>(codes.rows) * cols_);
    for (int32_t n = 0; n < codes.rows; ++n) {
      uint8_t* out = codes.codes.data() + static_cast<int64_t>(n) * cols_;
      for (int32_t k = 0; k < cols_; ++k) {
        out[k] = static_cast<uint8_t>(UnpackBits(words.data() + n, codes.rows, k, bits_));
      }
    }
  }

  absl::Status ReadScales(int32_t first, AffineCodes& codes) const {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> scales,
                            scales_->FloatWindow(0, groups_, first, codes.rows));
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                            qzeros_->Bytes(0, qzeros_->info().size_bytes));
    const std::vector<uint32_t> words = ToWords(bytes);
    const int64_t words_a_row = qzeros_->shape()[1];
    const uint32_t mask = (1u << bits_) - 1;
    codes.scales.resize(scales.size());
    codes.zeros.resize(scales.size());
    for (int32_t g = 0; g < groups_; ++g) {
      for (int32_t n = 0; n < codes.rows; ++n) {
        const size_t at = static_cast<size_t>(n) * groups_ + g;
        const uint32_t stored = UnpackBits(words.data() + g * words_a_row, 1, first + n, bits_);
        codes.scales[at] = scales[static_cast<size_t>(g) * codes.rows + n];
        codes.zeros[at] =
            static_cast<int32_t>(stored_zeros_less_one_ ? (stored + 1) & mask : stored);
      }
    }
    return absl::OkStatus();
  }

  const StoredTensor* qweight_ = nullptr;
  const StoredTensor* qzeros_ = nullptr;
  const StoredTensor* scales_ = nullptr;
  const StoredTensor* g_idx_ = nullptr;
  int bits_ = 0;
  int32_t groups_ = 0;
  int32_t group_ = 0;
  bool stored_zeros_less_one_ = false;
  std::vector<int32_t> group_of_;  // empty: column / group_
  AffineForm affine_ = AffineForm::kAffine;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenGptq(const ModuleTensors& tensors,
                                                       const QuantConfig& config) {
  return GptqLayout::Open(tensors, config);
}

}  // namespace nibble
