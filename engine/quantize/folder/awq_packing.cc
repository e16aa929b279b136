// AWQ in AutoAWQ's "gemm" packing; the layout is described in engine/weights/hf/awq.cc.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/folder/matrix_packing.h"
#include "engine/quantize/folder/packing_parts.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

constexpr int kNibbleOf[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of row n % 8

// [cols, rows / 8] words of a [rows, cols] matrix.
std::vector<uint32_t> PackRows(absl::Span<const uint8_t> values, int32_t rows, int32_t cols) {
  const size_t words = static_cast<size_t>(rows) / 8;
  std::vector<uint32_t> out(words * cols);
  for (int32_t n = 0; n < rows; ++n) {
    for (int32_t k = 0; k < cols; ++k) {
      out[k * words + n / 8] |= static_cast<uint32_t>(values[static_cast<size_t>(n) * cols + k])
                                << (4 * kNibbleOf[n % 8]);
    }
  }
  return out;
}

class AwqPacking final : public MatrixPacking {
 public:
  explicit AwqPacking(const Scheme& scheme) : scheme_(scheme) {}

  absl::Status CheckShape(int32_t rows, int32_t cols) const override {
    if (rows % 8 == 0 && cols % 2 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "is [", rows, ", ", cols, "], the layout awq packs rows in eights, and even columns"));
  }

  std::vector<PackedTensor> Plan(int32_t rows, int32_t cols) const override {
    const int64_t groups = cols / TileOf(scheme_, rows, cols).cols;
    return {{"qweight", SafetensorsType::kI32, {cols, rows / 8}},
            {"qzeros", SafetensorsType::kI32, {groups, rows / 8}},
            {"scales", SafetensorsType::kF16, {groups, rows}}};
  }

  absl::StatusOr<std::vector<std::vector<uint8_t>>> Pack(
      const QuantizedWeight& weight) const override {
    NIBBLE_CHECK(CheckShape(weight.rows, weight.cols).ok());
    const UnsignedCodes codes = ToUnsigned(weight);
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint16_t> scales, ScalesInF16(codes, "awq"));
    return std::vector<std::vector<uint8_t>>{
        ToBytes<uint32_t>(PackRows(codes.codes, weight.rows, weight.cols)),
        ToBytes<uint32_t>(PackRows(codes.zeros, weight.rows, codes.groups)),
        ToBytes<uint16_t>(Transposed<uint16_t>(scales, weight.rows, codes.groups))};
  }

  nlohmann::ordered_json Config(const std::vector<std::string>& plain) const override {
    nlohmann::ordered_json config = {{"quant_method", "awq"},
                                     {"bits", 4},
                                     {"group_size", GroupSize(scheme_)},
                                     {"zero_point", true},
                                     {"version", "gemm"}};
    config["modules_to_not_convert"] = plain;
    return config;
  }

 private:
  const Scheme scheme_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeAwqPacking(const Method& method) {
  if (!IsIntegerGrid(method.scheme) || !ByGroupOrRow(method.scheme) || method.scheme.bits != 4 ||
      method.order == ColumnOrder::kByActivationGIndex) {
    return NotHeld(method, "awq", "integers of 4 bits by group or row, columns in their order");
  }
  return std::make_unique<AwqPacking>(method.scheme);
}

}  // namespace nibble::quantize
