// bitsandbytes: NF4 and FP4, and LLM.int8(); the layouts are described in
// engine/weights/hf/bitsandbytes.cc.
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/folder/matrix_packing.h"
#include "engine/quantize/folder/packing_parts.h"
#include "engine/quantize/methods/double_quantization.h"
#include "engine/quantize/methods/grid.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

using Json = nlohmann::ordered_json;

// Bytes of quant_state's text, whose numbers are known only with the codes: filled up with spaces,
// which JSON allows behind its end.
constexpr size_t kStateBytes = 256;

Json ConfigOf(bool in_4_bits, const std::vector<std::string>& plain) {
  Json config = {{"quant_method", "bitsandbytes"},    {"load_in_4bit", in_4_bits},
                 {"load_in_8bit", !in_4_bits},        {"_load_in_4bit", in_4_bits},
                 {"_load_in_8bit", !in_4_bits},       {"llm_int8_threshold", 6.0},
                 {"llm_int8_has_fp16_weight", false}, {"llm_int8_enable_fp32_cpu_offload", false}};
  config["llm_int8_skip_modules"] = plain;
  return config;
}

class Bnb4Packing final : public MatrixPacking {
 public:
  explicit Bnb4Packing(const Scheme& scheme)
      : scheme_(scheme), is_nf4_(scheme.grid == GridKind::kNf4) {}

  // Rows of whole blocks is what CheckShape of the scheme asks for already.
  absl::Status CheckShape(int32_t, int32_t) const override { return absl::OkStatus(); }

  std::vector<PackedTensor> Plan(int32_t rows, int32_t cols) const override {
    const int64_t blocks = int64_t{rows} * cols / scheme_.group;
    const bool nested = scheme_.double_quantized;
    std::vector<PackedTensor> plan = {
        {"weight", SafetensorsType::kU8, {int64_t{rows} * cols / 2, 1}},
        {"weight.absmax", nested ? SafetensorsType::kU8 : SafetensorsType::kF32, {blocks}},
        {"weight.quant_map", SafetensorsType::kF32, {16}},
        {is_nf4_ ? "weight.quant_state.bitsandbytes__nf4" : "weight.quant_state.bitsandbytes__fp4",
         SafetensorsType::kU8,
         {static_cast<int64_t>(kStateBytes)}}};
    if (nested) {
      plan.push_back({"weight.nested_absmax",
                      SafetensorsType::kF32,
                      {(blocks + kNestedBlock - 1) / kNestedBlock}});
      plan.push_back({"weight.nested_quant_map",
                      SafetensorsType::kF32,
                      {static_cast<int64_t>(DynamicMap().size())}});
    }
    return plan;
  }

  absl::StatusOr<std::vector<std::vector<uint8_t>>> Pack(
      const QuantizedWeight& weight) const override {
    std::vector<uint8_t> codes(weight.codes.size() / 2);
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<uint8_t>(weight.codes[2 * i] << 4 | weight.codes[2 * i + 1]);
    }
    const absl::Span<const float> table(is_nf4_ ? kNf4Table : kFp4Table, 16);
    Json state = {{"quant_type", is_nf4_ ? "nf4" : "fp4"},
                  {"blocksize", scheme_.group},
                  {"dtype", "float16"},
                  {"shape", {weight.rows, weight.cols}}};
    if (!scheme_.double_quantized) {
      std::vector<float> scales;
      for (const GroupParams& params : weight.params) scales.push_back(params.scale);
      return std::vector<std::vector<uint8_t>>{std::move(codes), ToBytes<float>(scales),
                                               ToBytes(table), StateBytes(state)};
    }
    NIBBLE_CHECK(weight.maxima.size() == weight.params.size());
    const NestedScales nested = QuantizeScales(weight.maxima);
    state["nested_blocksize"] = kNestedBlock;
    state["nested_dtype"] = "float32";
    state["nested_offset"] = nested.mean;
    return std::vector<std::vector<uint8_t>>{std::move(codes),
                                             nested.codes,
                                             ToBytes(table),
                                             StateBytes(state),
                                             ToBytes<float>(nested.nested),
                                             ToBytes<float>(DynamicMap())};
  }

  Json Config(const std::vector<std::string>& plain) const override {
    Json config = ConfigOf(true, plain);
    config["bnb_4bit_quant_type"] = is_nf4_ ? "nf4" : "fp4";
    config["bnb_4bit_use_double_quant"] = scheme_.double_quantized;
    config["bnb_4bit_compute_dtype"] = "float16";
    config["bnb_4bit_quant_storage"] = "uint8";
    return config;
  }

 private:
  static std::vector<uint8_t> StateBytes(const Json& state) {
    std::string text = state.dump();
    NIBBLE_CHECK(text.size() <= kStateBytes);
    text.resize(kStateBytes, ' ');
    return {text.begin(), text.end()};
  }

  const Scheme scheme_;
  const bool is_nf4_;
};

// The SCB whose 127th part is the scale. It was its row's largest magnitude, so there is one but
// for scales that were searched for.
absl::StatusOr<float> RowMaximum(float scale, int32_t row) {
  const float near = scale * 127.0f;
  for (const float toward : {0.0f, INFINITY}) {
    float candidate = near;
    for (int i = 0; i < 3; ++i) {
      if (candidate / 127.0f == scale) return candidate;
      candidate = std::nextafter(candidate, toward);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("scale ", scale, " of row ", row,
                   " is no 127th part of an f32, which the layout bitsandbytes keeps"));
}

class BnbInt8Packing final : public MatrixPacking {
 public:
  absl::Status CheckShape(int32_t, int32_t) const override { return absl::OkStatus(); }

  std::vector<PackedTensor> Plan(int32_t rows, int32_t cols) const override {
    return {{"weight", SafetensorsType::kI8, {rows, cols}},
            {"SCB", SafetensorsType::kF32, {rows}},
            {"weight_format", SafetensorsType::kU8, {}}};
  }

  absl::StatusOr<std::vector<std::vector<uint8_t>>> Pack(
      const QuantizedWeight& weight) const override {
    std::vector<float> maxima;
    for (const GroupParams& params : weight.params) {
      NIBBLE_ASSIGN_OR_RETURN(const float maximum,
                              RowMaximum(params.scale, static_cast<int32_t>(maxima.size())));
      maxima.push_back(maximum);
    }
    std::vector<uint8_t> codes(weight.codes.begin(), weight.codes.end());
    return std::vector<std::vector<uint8_t>>{std::move(codes), ToBytes<float>(maxima), {0}};
  }

  Json Config(const std::vector<std::string>& plain) const override {
    return ConfigOf(false, plain);
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeBnbPacking(const Method& method) {
  constexpr int32_t kLeast = 32, kMost = 4096;  // blocks that its kernels know, powers of two
  const Scheme& scheme = method.scheme;
  const bool table = scheme.grid == GridKind::kNf4 || scheme.grid == GridKind::kFp4;
  if (table && scheme.granularity == Granularity::kGroup && scheme.group >= kLeast &&
      scheme.group <= kMost && (scheme.group & (scheme.group - 1)) == 0) {
    return std::make_unique<Bnb4Packing>(scheme);
  }
  if (scheme.grid == GridKind::kSymmetric && scheme.bits == 8 &&
      scheme.granularity == Granularity::kChannel) {
    return std::make_unique<BnbInt8Packing>();
  }
  return NotHeld(method, "bitsandbytes",
                 "nf4 and fp4 in blocks of 32, 64, .. 4096, and int8-sym-channel");
}

}  // namespace nibble::quantize
