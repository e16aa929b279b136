// GPTQ, v1 and v2; the layout is described in engine/weights/hf/gptq.cc. g_idx is written always:
// without it some readers take the columns' groups from the configuration alone.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/folder/matrix_packing.h"
#include "engine/quantize/folder/packing_parts.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

class GptqPacking final : public MatrixPacking {
 public:
  GptqPacking(const Method& method, bool v2)
      : method_(method), scheme_(method.scheme), bits_(scheme_.bits), v2_(v2) {}

  absl::Status CheckShape(int32_t rows, int32_t cols) const override {
    if (cols % 32 == 0 && rows * int64_t{bits_} % 32 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("is [", rows, ", ", cols, "], the layout ", Name(), " packs whole words of ",
                     "32 bits: columns in 32s, ", bits_, " times the rows too"));
  }

  std::vector<PackedTensor> Plan(int32_t rows, int32_t cols) const override {
    const int64_t groups = cols / TileOf(scheme_, rows, cols).cols;
    return {{"qweight", SafetensorsType::kI32, {cols / 32 * bits_, rows}},
            {"qzeros", SafetensorsType::kI32, {groups, rows * int64_t{bits_} / 32}},
            {"scales", SafetensorsType::kF16, {groups, rows}},
            {"g_idx", SafetensorsType::kI32, {cols}}};
  }

  absl::StatusOr<std::vector<std::vector<uint8_t>>> Pack(
      const QuantizedWeight& weight) const override {
    NIBBLE_CHECK(CheckShape(weight.rows, weight.cols).ok());
    const int32_t rows = weight.rows, cols = weight.cols;
    const UnsignedCodes codes = ToUnsigned(weight);
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint16_t> scales, ScalesInF16(codes, Name()));
    std::vector<uint32_t> qweight(static_cast<size_t>(cols) / 32 * bits_ * rows);
    for (int32_t n = 0; n < rows; ++n) {
      const uint8_t* code = codes.codes.data() + static_cast<size_t>(n) * cols;
      for (int32_t k = 0; k < cols; ++k) PackBits(code[k], qweight.data() + n, rows, k, bits_);
    }
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint32_t> qzeros, PackZeros(codes, rows));
    return std::vector<std::vector<uint8_t>>{
        ToBytes<uint32_t>(qweight), ToBytes<uint32_t>(qzeros),
        ToBytes<uint16_t>(Transposed<uint16_t>(scales, rows, codes.groups)),
        ToBytes<int32_t>(GroupIndex(weight))};
  }

  nlohmann::ordered_json Config(const std::vector<std::string>& plain) const override {
    nlohmann::ordered_json config = {
        {"quant_method", "gptq"},
        {"bits", bits_},
        {"group_size", GroupSize(scheme_)},
        {"desc_act", method_.order == ColumnOrder::kByActivationGIndex},
        {"static_groups", method_.order == ColumnOrder::kByActivation},
        {"sym", scheme_.grid != GridKind::kAsymmetric},
        {"true_sequential", method_.algorithm == Algorithm::kGptq},
        {"lm_head", false},
        {"checkpoint_format", v2_ ? "gptq_v2" : "gptq"},
        {"pack_dtype", "int32"}};
    // GPTQModel's way to leave modules out; the head is, by "lm_head".
    for (const std::string& module : plain) {
      if (module != "lm_head") config["dynamic"]["-:" + module] = nlohmann::json::object();
    }
    return config;
  }

 private:
  absl::string_view Name() const { return LayoutName(v2_ ? HfLayout::kGptqV2 : HfLayout::kGptq); }

  absl::StatusOr<std::vector<uint32_t>> PackZeros(const UnsignedCodes& codes, int32_t rows) const {
    const int64_t words = rows * int64_t{bits_} / 32;
    std::vector<uint32_t> out(static_cast<size_t>(codes.groups * words));
    for (int32_t n = 0; n < rows; ++n) {
      for (int32_t g = 0; g < codes.groups; ++g) {
        const int32_t zero = codes.zeros[static_cast<size_t>(n) * codes.groups + g];
        if (!v2_ && zero == 0) {
          return absl::InvalidArgumentError(absl::StrCat(
              "zero point 0 of row ", n, ", group ", g, ": the layout gptq holds 1 to ",
              (1 << bits_) - 1, ", as it stores them less one; take gptq-v2"));
        }
        PackBits(static_cast<uint32_t>(v2_ ? zero : zero - 1), out.data() + g * words, 1, n, bits_);
      }
    }
    return out;
  }

  const Method method_;
  const Scheme scheme_;
  const int bits_;
  const bool v2_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeGptqPacking(const Method& method, bool v2) {
  const int bits = method.scheme.bits;
  const bool held = bits == 2 || bits == 3 || bits == 4 || bits == 8;
  if (!IsIntegerGrid(method.scheme) || !ByGroupOrRow(method.scheme) || !held) {
    return NotHeld(method, v2 ? "gptq-v2" : "gptq",
                   "integers of 2, 3, 4 or 8 bits by group or row");
  }
  return std::make_unique<GptqPacking>(method, v2);
}

}  // namespace nibble::quantize
