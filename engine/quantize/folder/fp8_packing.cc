// Plain 8-bit floats: AutoFP8's one scale a matrix and DeepSeek's scales of 128 x 128 blocks, whose
// "inverse" is a multiplier as well; the layouts are described in engine/weights/hf/float8.cc.
#include <nlohmann/json.hpp>

#include "engine/quantize/folder/matrix_packing.h"
#include "engine/quantize/folder/packing_parts.h"

namespace nibble::quantize {
namespace {

class Fp8Packing final : public MatrixPacking {
 public:
  explicit Fp8Packing(const Scheme& scheme)
      : scheme_(scheme),
        e4m3_(scheme.grid == GridKind::kE4m3),
        block_(scheme.granularity == Granularity::kBlock) {}

  absl::Status CheckShape(int32_t, int32_t) const override { return absl::OkStatus(); }

  std::vector<PackedTensor> Plan(int32_t rows, int32_t cols) const override {
    const auto blocks = [](int32_t n) -> int64_t {
      return (n + kFp8BlockSize - 1) / kFp8BlockSize;
    };
    const auto type = e4m3_ ? SafetensorsType::kF8E4m3 : SafetensorsType::kF8E5m2;
    std::vector<PackedTensor> plan = {{"weight", type, {rows, cols}}};
    if (block_) {
      plan.push_back({"weight_scale_inv", SafetensorsType::kF32, {blocks(rows), blocks(cols)}});
    } else {
      plan.push_back({"weight_scale", SafetensorsType::kF32, {}});
    }
    return plan;
  }

  absl::StatusOr<std::vector<std::vector<uint8_t>>> Pack(
      const QuantizedWeight& weight) const override {
    std::vector<uint8_t> codes(weight.codes.begin(), weight.codes.end());
    std::vector<float> scales;
    for (const GroupParams& params : weight.params) scales.push_back(params.scale);
    return std::vector<std::vector<uint8_t>>{std::move(codes), ToBytes<float>(scales)};
  }

  nlohmann::ordered_json Config(const std::vector<std::string>& plain) const override {
    nlohmann::ordered_json config = {{"quant_method", "fp8"},
                                     {"fmt", e4m3_ ? "e4m3" : "e5m2"},
                                     {"activation_scheme", "dynamic"}};
    if (block_) config["weight_block_size"] = {kFp8BlockSize, kFp8BlockSize};
    config[block_ ? "modules_to_not_convert" : "ignored_layers"] = plain;
    return config;
  }

 private:
  const Scheme scheme_;
  const bool e4m3_;
  const bool block_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeFp8Packing(const Method& method) {
  const Scheme& scheme = method.scheme;
  const bool held =
      (scheme.grid == GridKind::kE4m3 || scheme.grid == GridKind::kE5m2) &&
      (scheme.granularity == Granularity::kBlock || scheme.granularity == Granularity::kTensor);
  if (!held) return NotHeld(method, "fp8", "e4m3 and e5m2 by tensor or block");
  return std::make_unique<Fp8Packing>(scheme);
}

}  // namespace nibble::quantize
