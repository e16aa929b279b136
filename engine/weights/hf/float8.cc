// 8-bit floats with a scale for the tensor, for each row, or for blocks of 128 x 128: the "fp8" of
// AutoFP8 and of DeepSeek, and compressed-tensors' float-quantized.
//   weight F8_E4M3 or F8_E5M2 [N, K]
//   weight_scale, or weight_scale_inv (a multiplier as well, whatever its name)
//     one element | [N] or [N, 1] | [ceil(N / 128), ceil(K / 128)]
// W = weight * scale. Scales of activations (input_scale) are not used: activations keep 8 bits
// and more of their own.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/hf/linear_layout.h"
#include "kernels/fp8.h"

namespace nibble {
namespace {

constexpr int32_t kBlock = quant::kFp8Block;

int64_t Blocks(int64_t n) { return (n + kBlock - 1) / kBlock; }

class Fp8Layout final : public LinearLayout {
 public:
  static absl::StatusOr<std::unique_ptr<LinearLayout>> Open(const ModuleTensors& tensors) {
    auto layout = std::make_unique<Fp8Layout>();
    NIBBLE_RETURN_IF_ERROR(layout->Find(tensors));
    return layout;
  }

  absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const override {
    quant::Matrix matrix;
    matrix.format = quant::Format::kFp8;
    matrix.fp8 = kind_;
    matrix.rows = count;
    matrix.cols = cols_;
    matrix.group = form_.group;
    matrix.row_group = per_ == Per::kTensor ? count : per_ == Per::kRow ? 1 : kBlock;
    NIBBLE_ASSIGN_OR_RETURN(matrix.codes, weight_->Window(first, count, 0, cols_));
    const auto is_value = [this](uint8_t code) {
      return kind_ == quant::Fp8::kE4m3 ? !E4m3IsNan(code) : E5m2IsFinite(code);
    };
    if (!std::all_of(matrix.codes.begin(), matrix.codes.end(), is_value)) {
      return weight_->Problem(absl::StatusCode::kDataLoss, "holds a value that is not finite");
    }
    int64_t first_scale = 0, num_scales = 1;
    if (per_ == Per::kRow) first_scale = first, num_scales = count;
    if (per_ == Per::kBlock) {
      first_scale = first / kBlock * Blocks(cols_);
      num_scales = Blocks(count) * Blocks(cols_);
    }
    NIBBLE_ASSIGN_OR_RETURN(matrix.scales, scale_->Floats(first_scale, num_scales));
    return matrix;
  }

 private:
  enum class Per { kTensor, kRow, kBlock };

  absl::Status Find(const ModuleTensors& tensors) {
    NIBBLE_ASSIGN_OR_RETURN(weight_, tensors.Get("weight"));
    const bool inverse = tensors.Find("weight_scale_inv") != nullptr;
    NIBBLE_ASSIGN_OR_RETURN(scale_, tensors.Get(inverse ? "weight_scale_inv" : "weight_scale"));
    if (tensors.Find("weight_zero_point") != nullptr) {
      return tensors.Find("weight_zero_point")
          ->Problem(absl::StatusCode::kUnimplemented, "belongs to an fp8 matrix, needed none");
    }
    rows_ = static_cast<int32_t>(weight_->shape()[0]);
    cols_ = static_cast<int32_t>(weight_->shape()[1]);
    kind_ = weight_->type() == SafetensorsType::kF8E4m3 ? quant::Fp8::kE4m3 : quant::Fp8::kE5m2;
    form_.format = quant::Format::kFp8;
    form_.group = cols_;
    form_.scale_bytes = scale_->type() == SafetensorsType::kF16 ? 2 : 4;
    file_bytes_ = tensors.TotalBytes();
    NIBBLE_RETURN_IF_ERROR(SetScales());
    constexpr absl::string_view kNames[] = {"tensor", "row", "128x128"};
    type_ = absl::StrCat("FP8 ", kind_ == quant::Fp8::kE4m3 ? "e4m3 " : "e5m2 ",
                         kNames[static_cast<int>(per_)]);
    return absl::OkStatus();
  }

  absl::Status SetScales() {
    const std::vector<int64_t> shape(scale_->shape().begin(), scale_->shape().end());
    if (scale_->num_elements() == 1) {
      per_ = Per::kTensor;
    } else if (shape == std::vector<int64_t>{rows_} || shape == std::vector<int64_t>{rows_, 1}) {
      per_ = Per::kRow;
    } else if (shape == std::vector<int64_t>{Blocks(rows_), Blocks(cols_)}) {
      per_ = Per::kBlock;
      row_multiple_ = kBlock;
      form_.group = kBlock;
    } else {
      return scale_->Problem(
          absl::StatusCode::kUnimplemented,
          absl::StrCat("is ", scale_->Describe(), " for an fp8 matrix [", rows_, ", ", cols_,
                       "], needed one scale, one a row, or one for 128 x 128"));
    }
    return absl::OkStatus();
  }

  const StoredTensor* weight_ = nullptr;
  const StoredTensor* scale_ = nullptr;
  quant::Fp8 kind_ = quant::Fp8::kE4m3;
  Per per_ = Per::kTensor;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenScaledFp8(const ModuleTensors& tensors) {
  return Fp8Layout::Open(tensors);
}

}  // namespace nibble
