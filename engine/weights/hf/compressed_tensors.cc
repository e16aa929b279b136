// compressed-tensors (llm-compressor): pack-quantized and int-quantized. Of a matrix [N, K]:
//   pack-quantized  weight_packed i32 [N, ceil(K * b / 32)], a stream of b-bit values along each
//                   row, each q + 2^(b-1); weight_shape [N, K]
//   int-quantized   weight i8 [N, K]
//   both            weight_scale [N, groups], or one a row, or one
//                   weight_zero_point, absent: 0. Packed i32 [N * b / 32, groups], a stream down
//                   each column of z + 2^(b-1); or i8 of the scales' shape
//                   weight_g_idx i32 [K]: the group of each column (act-order)
// W[n, k] = scale * (q - z). (float-quantized is in float8.cc.)
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/hf/linear_layout.h"

namespace nibble {
namespace {

// The scales, zeros and column groups that both layouts have.
class Groups {
 public:
  // `num_groups` and `group` follow from the scales' shape.
  absl::Status Find(const ModuleTensors& tensors, int bits, int32_t rows, int32_t cols) {
    bits_ = bits;
    rows_ = rows;
    cols_ = cols;
    NIBBLE_ASSIGN_OR_RETURN(scale_, tensors.Get("weight_scale"));
    const absl::Span<const int64_t> shape = scale_->shape();
    one_ = scale_->num_elements() == 1;
    const bool by_row = shape.size() == 1 && shape[0] == rows;
    const bool by_group =
        shape.size() == 2 && shape[0] == rows && shape[1] >= 1 && cols % shape[1] == 0;
    if (!one_ && !by_row && !by_group) {
      return scale_->Problem(
          absl::StatusCode::kUnimplemented,
          absl::StrCat("is ", scale_->Describe(), " for a matrix [", rows, ", ", cols,
                       "], needed one scale, one a row, or [", rows, ", groups] of equal groups"));
    }
    num_groups_ = by_group && !one_ ? static_cast<int32_t>(shape[1]) : 1;
    group_ = cols / num_groups_;
    if (group_ % 16 != 0 && group_ != cols) {
      return scale_->Problem(
          absl::StatusCode::kUnimplemented,
          absl::StrCat("has groups of ", group_, " columns, needed a multiple of 16"));
    }
    zero_ = tensors.Find("weight_zero_point");
    if (zero_ != nullptr) NIBBLE_RETURN_IF_ERROR(CheckZeros());
    return ReadOrder(tensors.Find("weight_g_idx"));
  }

  AffineForm form() const {
    if (!group_of_.empty()) return AffineForm::kValues;
    return ChooseAffineForm(bits_, narrow(), symmetric());
  }
  CanonicalForm canonical() const {
    return FormOfAffine(form(), bits_, group_, symmetric(),
                        scale_->type() == SafetensorsType::kF16);
  }
  std::string Describe() const {
    const std::string per = one_               ? "tensor"
                            : num_groups_ == 1 ? std::string("row")
                                               : absl::StrCat("g", group_);
    return absl::StrCat("int", bits_, " ", per, symmetric() ? "" : " zero-point",
                        group_of_.empty() ? "" : " act-order");
  }

  // Fills what is not the codes, of rows first .. first + count - 1.
  absl::Status Fill(int32_t first, int32_t count, AffineCodes& codes) const {
    codes.bits = bits_;
    codes.rows = count;
    codes.cols = cols_;
    codes.group = group_;
    codes.group_of = group_of_;
    const auto size = static_cast<size_t>(count) * num_groups_;
    NIBBLE_ASSIGN_OR_RETURN(codes.scales, scale_->Floats(one_ ? 0 : int64_t{first} * num_groups_,
                                                         one_ ? 1 : static_cast<int64_t>(size)));
    if (one_) codes.scales.resize(size, codes.scales[0]);
    const int32_t bias = 1 << (bits_ - 1);
    if (symmetric()) {
      codes.zeros = {bias};
      return absl::OkStatus();
    }
    return zeros_packed_ ? FillPackedZeros(first, codes) : FillByteZeros(first, codes);
  }

 private:
  bool symmetric() const { return zero_ == nullptr; }
  bool narrow() const {
    return scale_->type() == SafetensorsType::kF16 || scale_->type() == SafetensorsType::kBF16;
  }

  absl::Status CheckZeros() {
    const std::vector<int64_t> shape(zero_->shape().begin(), zero_->shape().end());
    const std::vector<int64_t> scales(scale_->shape().begin(), scale_->shape().end());
    const int64_t words = (int64_t{rows_} * bits_ + 31) / 32;
    zeros_packed_ = zero_->type() == SafetensorsType::kI32;
    const bool fits = zeros_packed_ ? !one_ && shape == std::vector<int64_t>{words, num_groups_}
                                    : zero_->type() == SafetensorsType::kI8 && shape == scales;
    if (fits) return absl::OkStatus();
    return zero_->Problem(
        absl::StatusCode::kUnimplemented,
        absl::StrCat("is ", zero_->Describe(), ", needed I8 of the shape of weight_scale, or I32 [",
                     words, ", ", num_groups_, "]"));
  }

  absl::Status ReadOrder(const StoredTensor* g_idx) {
    if (g_idx == nullptr || g_idx->num_elements() == 0) return absl::OkStatus();
    if (g_idx->type() != SafetensorsType::kI32 || g_idx->num_elements() != cols_) {
      return g_idx->Problem(absl::StatusCode::kInvalidArgument,
                            absl::StrCat("is ", g_idx->Describe(), ", needed I32 [", cols_, "]"));
    }
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                            g_idx->Bytes(0, g_idx->info().size_bytes));
    group_of_.resize(static_cast<size_t>(cols_));
    std::memcpy(group_of_.data(), bytes.data(), bytes.size());
    bool regular = true, absent = true;  // -1 everywhere: not used
    for (int32_t k = 0; k < cols_; ++k) {
      regular = regular && group_of_[k] == k / group_;
      absent = absent && group_of_[k] == -1;
    }
    if (regular || absent) {
      group_of_.clear();
      return absl::OkStatus();
    }
    for (int32_t k = 0; k < cols_; ++k) {
      if (group_of_[k] >= 0 && group_of_[k] < num_groups_) continue;
      return g_idx->Problem(absl::StatusCode::kDataLoss,
                            absl::StrCat("holds ", group_of_[k], " for column ", k,
                                         ", needed 0 to ", num_groups_ - 1));
    }
    return absl::OkStatus();
  }

  absl::Status FillPackedZeros(int32_t first, AffineCodes& codes) const {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                            zero_->Bytes(0, zero_->info().size_bytes));
    const std::vector<uint32_t> words = ToWords(bytes);
    codes.zeros.resize(codes.scales.size());
    for (size_t at = 0; at < codes.zeros.size(); ++at) {
      const auto n = static_cast<int32_t>(at / num_groups_);
      codes.zeros[at] = static_cast<int32_t>(
          UnpackBits(words.data() + at % num_groups_, num_groups_, first + n, bits_));
    }
    return absl::OkStatus();
  }

  absl::Status FillByteZeros(int32_t first, AffineCodes& codes) const {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                            zero_->Bytes(one_ ? 0 : int64_t{first} * num_groups_,
                                         one_ ? 1 : static_cast<int64_t>(codes.scales.size())));
    const int32_t half = 1 << (bits_ - 1);
    for (size_t at = 0; at < bytes.size(); ++at) {
      const int32_t zero = static_cast<int8_t>(bytes[at]);
      if (zero < -half || zero >= half) {  // q - z would not fit a byte
        const auto groups = static_cast<size_t>(num_groups_);
        return zero_->Problem(
            absl::StatusCode::kDataLoss,
            absl::StrCat("holds ", zero, " for row ", static_cast<size_t>(first) + at / groups,
                         ", group ", at % groups, ", needed ", -half, " to ", half - 1));
      }
      codes.zeros.push_back(zero + half);
    }
    if (one_) codes.zeros.resize(codes.scales.size(), codes.zeros[0]);
    return absl::OkStatus();
  }

  const StoredTensor* scale_ = nullptr;
  const StoredTensor* zero_ = nullptr;
  int bits_ = 0;
  int32_t rows_ = 0, cols_ = 0, num_groups_ = 1, group_ = 0;
  bool one_ = false;  // one scale for the tensor
  bool zeros_packed_ = false;
  std::vector<int32_t> group_of_;
};

class PackedIntLayout final : public LinearLayout {
 public:
  absl::Status Find(const ModuleTensors& tensors) {
    NIBBLE_ASSIGN_OR_RETURN(packed_, tensors.Get("weight_packed"));
    if (packed_->type() != SafetensorsType::kI32 || packed_->shape().size() != 2) {
      return packed_->Problem(
          absl::StatusCode::kUnimplemented,
          absl::StrCat("is ", packed_->Describe(), ", needed a matrix of I32 (pack-quantized)"));
    }
    NIBBLE_RETURN_IF_ERROR(ReadShape(tensors));
    const int64_t words = packed_->shape()[1];
    bits_ = words * 32 % cols_ == 0 ? static_cast<int>(words * 32 / cols_) : 0;
    if (packed_->shape()[0] != rows_ || (bits_ != 2 && bits_ != 4 && bits_ != 8)) {
      return packed_->Problem(
          absl::StatusCode::kUnimplemented,
          absl::StrCat("is ", packed_->Describe(), " for a matrix [", rows_, ", ", cols_,
                       "], needed rows of 2, 4 or 8 bits a column"));
    }
    NIBBLE_RETURN_IF_ERROR(groups_.Find(tensors, bits_, rows_, cols_));
    type_ = absl::StrCat("packed ", groups_.Describe());
    file_bytes_ = tensors.TotalBytes();
    form_ = groups_.canonical();
    return absl::OkStatus();
  }

  absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const override {
    AffineCodes codes;
    NIBBLE_RETURN_IF_ERROR(groups_.Fill(first, count, codes));
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                            packed_->Window(first, count, 0, packed_->shape()[1]));
    const std::vector<uint32_t> words = ToWords(bytes);
    codes.codes.resize(static_cast<size_t>(count) * cols_);
    for (int32_t n = 0; n < count; ++n) {
      const uint32_t* row = words.data() + static_cast<int64_t>(n) * packed_->shape()[1];
      uint8_t* out = codes.codes.data() + static_cast<int64_t>(n) * cols_;
      for (int32_t k = 0; k < cols_; ++k) {
        out[k] = static_cast<uint8_t>(UnpackBits(row, 1, k, bits_));
      }
    }
    return MakeAffine(codes, groups_.form());
  }

 private:
  absl::Status ReadShape(const ModuleTensors& tensors) {
    NIBBLE_ASSIGN_OR_RETURN(const StoredTensor* shape, tensors.Get("weight_shape", {2}));
    const bool wide = shape->type() == SafetensorsType::kI64;
    if (!wide && shape->type() != SafetensorsType::kI32) {
      return shape->Problem(absl::StatusCode::kUnimplemented,
                            absl::StrCat("is ", shape->Describe(), ", needed I64"));
    }
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                            shape->Bytes(0, shape->info().size_bytes));
    int64_t sides[2] = {};
    for (int i = 0; i < 2; ++i)
      std::memcpy(&sides[i], bytes.data() + i * (wide ? 8 : 4), wide ? 8 : 4);
    if (sides[0] < 1 || sides[1] < 1 || sides[0] > kMaxMatrixSide || sides[1] > kMaxMatrixSide) {
      return shape->Problem(
          absl::StatusCode::kDataLoss,
          absl::StrCat("holds ", sides[0], " and ", sides[1], ", needed 1 to ", kMaxMatrixSide));
    }
    rows_ = static_cast<int32_t>(sides[0]);
    cols_ = static_cast<int32_t>(sides[1]);
    return absl::OkStatus();
  }

  const StoredTensor* packed_ = nullptr;
  int bits_ = 0;
  Groups groups_;
};

class ScaledInt8Layout final : public LinearLayout {
 public:
  absl::Status Find(const ModuleTensors& tensors) {
    NIBBLE_ASSIGN_OR_RETURN(weight_, tensors.Get("weight"));
    rows_ = static_cast<int32_t>(weight_->shape()[0]);
    cols_ = static_cast<int32_t>(weight_->shape()[1]);
    NIBBLE_RETURN_IF_ERROR(groups_.Find(tensors, 8, rows_, cols_));
    type_ = groups_.Describe();
    file_bytes_ = tensors.TotalBytes();
    form_ = groups_.canonical();
    return absl::OkStatus();
  }

  absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const override {
    AffineCodes codes;
    NIBBLE_RETURN_IF_ERROR(groups_.Fill(first, count, codes));
    NIBBLE_ASSIGN_OR_RETURN(codes.codes, weight_->Window(first, count, 0, cols_));
    for (uint8_t& code : codes.codes) code = static_cast<uint8_t>(code + 128);
    return MakeAffine(codes, groups_.form());
  }

 private:
  const StoredTensor* weight_ = nullptr;
  Groups groups_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenPackedInt(const ModuleTensors& tensors) {
  auto layout = std::make_unique<PackedIntLayout>();
  NIBBLE_RETURN_IF_ERROR(layout->Find(tensors));
  return layout;
}

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenScaledInt8(const ModuleTensors& tensors) {
  auto layout = std::make_unique<ScaledInt8Layout>();
  NIBBLE_RETURN_IF_ERROR(layout->Find(tensors));
  return layout;
}

}  // namespace nibble
