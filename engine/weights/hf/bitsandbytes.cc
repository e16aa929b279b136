// bitsandbytes. Of a matrix [N, K]:
//   NF4, FP4   weight: N * K / 2 bytes of any type, all rows as one stream, the even element of a
//              byte in its high nibble
//              weight.quant_map F32 [16]; weight.absmax F32 [blocks], or U8 where nested, with
//              weight.nested_absmax F32 [blocks / nested blocksize], .nested_quant_map F32 [256]
//              weight.quant_state.bitsandbytes__nf4 (or __fp4): JSON of what is left to know
//              absmax = nested_map[u8] * nested_absmax + offset; W = map[nibble] * absmax
//   LLM.int8() weight I8 [N, K]; SCB F32 [N]; W = q * (SCB / 127). Its outlier columns are those of
//              activations, decided while it runs; here all activations are quantized in groups
//              of 32 columns, or not at all.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/hf/json.h"
#include "engine/weights/hf/linear_layout.h"

namespace nibble {
namespace {

constexpr int64_t kMaxQuantState = 1 << 16;  // bytes; real ones have about 200

class Bnb4Layout final : public LinearLayout {
 public:
  absl::Status Find(const ModuleTensors& tensors) {
    NIBBLE_ASSIGN_OR_RETURN(weight_, tensors.Get("weight"));
    NIBBLE_RETURN_IF_ERROR(ReadState(tensors));
    const int64_t elements = int64_t{rows_} * cols_;
    if (cols_ % 2 != 0 || weight_->info().size_bytes != elements / 2) {
      return weight_->Problem(
          absl::StatusCode::kInvalidArgument,
          absl::StrCat("has ", weight_->info().size_bytes, " bytes, its quant_state needs ", rows_,
                       " x ", cols_, " / 2, and even columns"));
    }
    // A block of the stream may reach into the next row: runs that stay in one block and one row.
    group_ = static_cast<int32_t>(std::gcd<int64_t, int64_t>(cols_, block_));
    if (group_ % 16 != 0 && group_ != cols_) {
      return weight_->Problem(absl::StatusCode::kUnimplemented,
                              absl::StrCat("has rows of ", cols_, " columns in blocks of ", block_,
                                           ": no run of a multiple of 16 columns has one scale"));
    }
    NIBBLE_RETURN_IF_ERROR(FindScales(tensors, (elements + block_ - 1) / block_));
    file_bytes_ = tensors.TotalBytes();
    form_ = {.format = quant::Format::kLut4, .group = group_, .scale_bytes = 4};
    return absl::OkStatus();
  }

  absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const override {
    quant::Matrix matrix;
    matrix.format = quant::Format::kLut4;
    matrix.rows = count;
    matrix.cols = cols_;
    matrix.group = group_;
    std::copy(table_.begin(), table_.end(), std::begin(matrix.table));
    const int64_t begin = int64_t{first} * cols_, elements = int64_t{count} * cols_;
    NIBBLE_ASSIGN_OR_RETURN(matrix.codes, weight_->Bytes(begin / 2, elements / 2));
    for (uint8_t& byte : matrix.codes) byte = static_cast<uint8_t>(byte >> 4 | byte << 4);
    const int64_t first_block = begin / block_;
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> scales,
                            Scales(first_block, (begin + elements - 1) / block_ - first_block + 1));
    matrix.scales.resize(static_cast<size_t>(elements / group_));
    for (size_t g = 0; g < matrix.scales.size(); ++g) {
      const int64_t element = begin + static_cast<int64_t>(g) * group_;
      matrix.scales[g] = scales[static_cast<size_t>(element / block_ - first_block)];
    }
    return matrix;
  }

 private:
  absl::Status ReadState(const ModuleTensors& tensors) {
    const StoredTensor* nf4 = tensors.Find("weight.quant_state.bitsandbytes__nf4");
    const StoredTensor* state =
        nf4 != nullptr ? nf4 : tensors.Find("weight.quant_state.bitsandbytes__fp4");
    if (state == nullptr) {
      return weight_->Problem(absl::StatusCode::kUnimplemented,
                              "has an absmax and no quant_state of bitsandbytes__nf4 or __fp4");
    }
    if (state->info().size_bytes > kMaxQuantState) {
      return state->Problem(absl::StatusCode::kResourceExhausted,
                            absl::StrCat("has ", state->info().size_bytes, " bytes, at most ",
                                         kMaxQuantState, " are read"));
    }
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> text,
                            state->Bytes(0, state->info().size_bytes));
    NIBBLE_ASSIGN_OR_RETURN(
        const JsonObject json,
        JsonObject::Parse({reinterpret_cast<const char*>(text.data()), text.size()},
                          absl::StrCat("tensor '", state->info().name, "'"), {}));
    NIBBLE_ASSIGN_OR_RETURN(block_, json.Int("blocksize", 16, 1 << 16));
    NIBBLE_ASSIGN_OR_RETURN(nested_block_, json.Int("nested_blocksize", 1, 1 << 16, 256));
    NIBBLE_ASSIGN_OR_RETURN(const double offset, json.Number("nested_offset", 0.0));
    if (!(std::abs(offset) <= kLargestStored)) {
      return state->Problem(absl::StatusCode::kDataLoss,
                            absl::StrCat("has nested_offset ", offset, ", needed at most 2^110"));
    }
    nested_offset_ = static_cast<float>(offset);
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, json.Ints("shape"));
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1 || shape[0] > kMaxMatrixSide ||
        shape[1] > kMaxMatrixSide) {
      return json.Unfit("shape", "needed the matrix's two sides");
    }
    rows_ = static_cast<int32_t>(shape[0]);
    cols_ = static_cast<int32_t>(shape[1]);
    type_ = absl::StrCat(nf4 != nullptr ? "NF4 b" : "FP4 b", block_);
    return absl::OkStatus();
  }

  absl::Status FindScales(const ModuleTensors& tensors, int64_t blocks) {
    NIBBLE_ASSIGN_OR_RETURN(const StoredTensor* map, tensors.Get("weight.quant_map", {16}));
    NIBBLE_ASSIGN_OR_RETURN(table_, map->Floats(0, 16));
    for (const float entry : table_) largest_entry_ = std::max(largest_entry_, std::abs(entry));
    NIBBLE_ASSIGN_OR_RETURN(absmax_, tensors.Get("weight.absmax", {blocks}));
    if (tensors.Find("weight.nested_absmax") == nullptr) {
      if (absmax_->type() == SafetensorsType::kF32) return absl::OkStatus();
      return absmax_->Problem(absl::StatusCode::kUnimplemented,
                              absl::StrCat("is ", absmax_->Describe(), ", needed F32"));
    }
    if (absmax_->type() != SafetensorsType::kU8) {
      return absmax_->Problem(absl::StatusCode::kUnimplemented,
                              absl::StrCat("is ", absmax_->Describe(), " and nested, needed U8"));
    }
    NIBBLE_ASSIGN_OR_RETURN(
        nested_absmax_,
        tensors.Get("weight.nested_absmax", {(blocks + nested_block_ - 1) / nested_block_}));
    NIBBLE_ASSIGN_OR_RETURN(const StoredTensor* nested_map,
                            tensors.Get("weight.nested_quant_map", {256}));
    NIBBLE_ASSIGN_OR_RETURN(nested_table_, nested_map->Floats(0, 256));
    type_ += " double";
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<float>> Scales(int64_t first, int64_t count) const {
    NIBBLE_ASSIGN_OR_RETURN(std::vector<float> scales, ComputeScales(first, count));
    for (size_t i = 0; i < scales.size(); ++i) {
      if (std::abs(scales[i]) * largest_entry_ <= kLargestStored) continue;  // not so for a NaN
      return absmax_->Problem(
          absl::StatusCode::kDataLoss,
          absl::StrCat("gives block ", first + static_cast<int64_t>(i), " the scale ", scales[i],
                       ", times the largest of quant_map, ", largest_entry_,
                       ", needed at most 2^110"));
    }
    return scales;
  }

  absl::StatusOr<std::vector<float>> ComputeScales(int64_t first, int64_t count) const {
    if (nested_absmax_ == nullptr) return absmax_->Floats(first, count);
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> codes, absmax_->Bytes(first, count));
    const int64_t outer = first / nested_block_;
    NIBBLE_ASSIGN_OR_RETURN(
        const std::vector<float> absmax,
        nested_absmax_->Floats(outer, (first + count - 1) / nested_block_ - outer + 1));
    std::vector<float> scales(codes.size());
    for (size_t i = 0; i < scales.size(); ++i) {
      const int64_t at = (first + static_cast<int64_t>(i)) / nested_block_ - outer;
      scales[i] = nested_table_[codes[i]] * absmax[static_cast<size_t>(at)] + nested_offset_;
    }
    return scales;
  }

  const StoredTensor* weight_ = nullptr;
  const StoredTensor* absmax_ = nullptr;
  const StoredTensor* nested_absmax_ = nullptr;  // null: not nested
  int64_t block_ = 0, nested_block_ = 0;
  int32_t group_ = 0;
  float nested_offset_ = 0;
  float largest_entry_ = 1;  // of table_, by size; at least 1, so that scales have the limit too
  std::vector<float> table_, nested_table_;
};

class BnbInt8Layout final : public LinearLayout {
 public:
  absl::Status Find(const ModuleTensors& tensors) {
    NIBBLE_ASSIGN_OR_RETURN(weight_, tensors.Get("weight"));
    if (weight_->type() != SafetensorsType::kI8 || weight_->shape().size() != 2 ||
        weight_->num_elements() == 0 || weight_->shape()[0] > kMaxMatrixSide ||
        weight_->shape()[1] > kMaxMatrixSide) {
      return weight_->Problem(absl::StatusCode::kInvalidArgument,
                              absl::StrCat("is ", weight_->Describe(), ", needed a matrix of I8"));
    }
    rows_ = static_cast<int32_t>(weight_->shape()[0]);
    cols_ = static_cast<int32_t>(weight_->shape()[1]);
    NIBBLE_ASSIGN_OR_RETURN(scb_, tensors.Get("SCB", {rows_}));
    if (const StoredTensor* order = tensors.Find("weight_format"); order != nullptr) {
      const int64_t width = TypeBits(order->type()) / 8;
      NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> value,
                              order->Bytes(0, std::min<int64_t>(order->info().size_bytes, width)));
      if (std::count(value.begin(), value.end(), 0) != static_cast<int64_t>(value.size())) {
        return order->Problem(absl::StatusCode::kUnimplemented,
                              "names an order of tiles (col32 or col_ampere), needed 0, by row");
      }
    }
    type_ = "LLM.int8";
    file_bytes_ = tensors.TotalBytes();
    form_ = {.format = quant::Format::kInt8, .group = cols_, .scale_bytes = 4};
    return absl::OkStatus();
  }

  absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const override {
    quant::Matrix matrix;
    matrix.format = quant::Format::kInt8;
    matrix.rows = count;
    matrix.cols = cols_;
    matrix.group = cols_;
    NIBBLE_ASSIGN_OR_RETURN(matrix.codes, weight_->Window(first, count, 0, cols_));
    NIBBLE_ASSIGN_OR_RETURN(matrix.scales, scb_->Floats(first, count));
    for (float& scale : matrix.scales) scale /= 127.0f;
    return matrix;
  }

 private:
  const StoredTensor* weight_ = nullptr;
  const StoredTensor* scb_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenBnb4(const ModuleTensors& tensors) {
  auto layout = std::make_unique<Bnb4Layout>();
  NIBBLE_RETURN_IF_ERROR(layout->Find(tensors));
  return layout;
}

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenBnbInt8(const ModuleTensors& tensors) {
  auto layout = std::make_unique<BnbInt8Layout>();
  NIBBLE_RETURN_IF_ERROR(layout->Find(tensors));
  return layout;
}

}  // namespace nibble
