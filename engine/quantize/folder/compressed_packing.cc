// compressed-tensors (llm-compressor): pack-quantized, int-quantized and float-quantized. The
// layouts are described in engine/weights/hf/compressed_tensors.cc and float8.cc.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/folder/matrix_packing.h"
#include "engine/quantize/folder/packing_parts.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

using Json = nlohmann::ordered_json;

enum class Form { kPacked, kInt8, kFloat8 };

absl::string_view FormName(Form form) {
  return form == Form::kPacked ? "pack-quantized"
         : form == Form::kInt8 ? "int-quantized"
                               : "float-quantized";
}

class CompressedPacking final : public MatrixPacking {
 public:
  CompressedPacking(const Method& method, Form form)
      : method_(method),
        scheme_(method.scheme),
        form_(form),
        zeros_(scheme_.grid == GridKind::kAsymmetric) {}

  absl::Status CheckShape(int32_t rows, int32_t cols) const override {
    if (form_ != Form::kPacked || cols * int64_t{scheme_.bits} % 32 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("is [", rows, ", ", cols, "], the layout compressed-tensors packs rows of ",
                     scheme_.bits, "-bit codes in whole words of 32 bits"));
  }

  std::vector<PackedTensor> Plan(int32_t rows, int32_t cols) const override {
    const Tile tile = TileOf(scheme_, rows, cols);
    const int64_t down = (rows + tile.rows - 1) / tile.rows;
    const int64_t across = (cols + tile.cols - 1) / tile.cols;
    std::vector<int64_t> scales = {down, across};
    if (scheme_.granularity == Granularity::kTensor) scales = {1};
    if (form_ != Form::kPacked) {
      const auto type = form_ == Form::kInt8 ? SafetensorsType::kI8 : SafetensorsType::kF8E4m3;
      std::vector<PackedTensor> plan = {{"weight", type, {rows, cols}},
                                        {"weight_scale", SafetensorsType::kF32, scales}};
      if (zeros_) plan.push_back({"weight_zero_point", SafetensorsType::kI8, scales});
      return plan;
    }
    const int64_t bits = scheme_.bits;
    std::vector<PackedTensor> plan = {
        {"weight_packed", SafetensorsType::kI32, {rows, cols * bits / 32}},
        {"weight_scale", SafetensorsType::kF16, scales},
        {"weight_shape", SafetensorsType::kI64, {2}}};
    if (zeros_) {
      plan.push_back(
          {"weight_zero_point", SafetensorsType::kI32, {(rows * bits + 31) / 32, across}});
    }
    return plan;
  }

  absl::StatusOr<std::vector<std::vector<uint8_t>>> Pack(
      const QuantizedWeight& weight) const override {
    NIBBLE_CHECK(CheckShape(weight.rows, weight.cols).ok());
    if (form_ == Form::kPacked) return PackWords(weight);
    std::vector<uint8_t> codes(weight.codes.size()), zeros;
    const int32_t shift = zeros_ ? 128 : 0;  // codes without a sign become ones with
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<uint8_t>(weight.codes[i] - shift);
    }
    std::vector<float> scales;
    for (const GroupParams& params : weight.params) {
      scales.push_back(params.scale);
      if (zeros_) zeros.push_back(static_cast<uint8_t>(params.zero - shift));
    }
    std::vector<std::vector<uint8_t>> parts = {std::move(codes), ToBytes<float>(scales)};
    if (zeros_) parts.push_back(std::move(zeros));
    return parts;
  }

  Json Config(const std::vector<std::string>& plain) const override {
    const bool block = scheme_.granularity == Granularity::kBlock;
    const char* strategy = block                                          ? "block"
                           : scheme_.granularity == Granularity::kTensor  ? "tensor"
                           : scheme_.granularity == Granularity::kChannel ? "channel"
                                                                          : "group";
    Json weights = {{"num_bits", scheme_.bits}, {"type", form_ == Form::kFloat8 ? "float" : "int"},
                    {"symmetric", !zeros_},     {"strategy", strategy},
                    {"group_size", nullptr},    {"block_structure", nullptr},
                    {"dynamic", false},         {"actorder", nullptr}};
    if (scheme_.granularity == Granularity::kGroup) weights["group_size"] = scheme_.group;
    if (block) weights["block_structure"] = {kFp8BlockSize, kFp8BlockSize};
    if (method_.order == ColumnOrder::kByActivation) weights["actorder"] = "weight";
    Json inputs = nullptr;
    if (method_.activations == Activations::kInt8) {
      inputs = {{"num_bits", 8},
                {"type", "int"},
                {"symmetric", true},
                {"strategy", "token"},
                {"dynamic", true}};
    }
    return {{"quant_method", "compressed-tensors"},
            {"format", std::string(FormName(form_))},
            {"quantization_status", "compressed"},
            {"config_groups",
             {{"group_0",
               {{"targets", {"Linear"}},
                {"weights", weights},
                {"input_activations", inputs},
                {"output_activations", nullptr},
                {"format", std::string(FormName(form_))}}}}},
            {"ignore", plain}};
  }

 private:
  absl::StatusOr<std::vector<std::vector<uint8_t>>> PackWords(const QuantizedWeight& weight) const {
    const int bits = scheme_.bits;
    const int32_t rows = weight.rows, cols = weight.cols;
    const UnsignedCodes codes = ToUnsigned(weight);
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint16_t> scales,
                            ScalesInF16(codes, "compressed-tensors"));
    const size_t words = static_cast<size_t>(cols) * bits / 32;
    std::vector<uint32_t> packed(words * rows);
    for (int32_t n = 0; n < rows; ++n) {
      const uint8_t* code = codes.codes.data() + static_cast<size_t>(n) * cols;
      for (int32_t k = 0; k < cols; ++k) PackBits(code[k], packed.data() + n * words, 1, k, bits);
    }
    const int64_t shape[2] = {rows, cols};
    std::vector<std::vector<uint8_t>> parts = {ToBytes<uint32_t>(packed), ToBytes<uint16_t>(scales),
                                               ToBytes<int64_t>(shape)};
    if (zeros_) parts.push_back(PackZeros(codes, rows));
    return parts;
  }

  std::vector<uint8_t> PackZeros(const UnsignedCodes& codes, int32_t rows) const {
    const int bits = scheme_.bits;
    std::vector<uint32_t> words((static_cast<size_t>(rows) * bits + 31) / 32 * codes.groups);
    for (int32_t n = 0; n < rows; ++n) {
      for (int32_t g = 0; g < codes.groups; ++g) {
        PackBits(codes.zeros[static_cast<size_t>(n) * codes.groups + g], words.data() + g,
                 codes.groups, n, bits);
      }
    }
    return ToBytes<uint32_t>(words);
  }

  const Method method_;
  const Scheme scheme_;
  const Form form_;
  const bool zeros_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeCompressedPacking(const Method& method) {
  constexpr absl::string_view kHolds =
      "integers of 2, 4 or 8 bits by group or row, of 8 bits by tensor, and e4m3";
  const Scheme& scheme = method.scheme;
  // Its library read a g_idx once, and does not any more.
  if (method.order == ColumnOrder::kByActivationGIndex) {
    return NotHeld(method, "compressed-tensors", "columns in the order of their groups");
  }
  if (scheme.grid == GridKind::kE4m3) {
    return std::make_unique<CompressedPacking>(method, Form::kFloat8);
  }
  if (!IsIntegerGrid(scheme)) return NotHeld(method, "compressed-tensors", kHolds);
  const bool tensor = scheme.granularity == Granularity::kTensor;
  if (scheme.bits == 8 && (tensor || method.activations == Activations::kInt8)) {
    return std::make_unique<CompressedPacking>(method, Form::kInt8);
  }
  if (tensor || (scheme.bits != 2 && scheme.bits != 4 && scheme.bits != 8)) {
    return NotHeld(method, "compressed-tensors", kHolds);
  }
  return std::make_unique<CompressedPacking>(method, Form::kPacked);
}

}  // namespace nibble::quantize
