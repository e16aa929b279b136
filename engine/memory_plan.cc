#include "engine/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "engine/model/kv_cache.h"
#include "engine/weights/canonical.h"
#include "kernels/check.h"

namespace nibble {
namespace {

using quantize::Scheme;

constexpr int64_t kVectorBytes = 4;    // an element of a norm or a bias, f32
constexpr int32_t kAssumedRow = 8192;  // of a model that is only a number of parameters

struct Matrices {
  int64_t count = 1;
  int32_t rows = 0, cols = 0;

  int64_t elements() const { return count * rows * cols; }
};

std::vector<Matrices> MatricesOf(const ModelConfig& config) {
  const int64_t layers = config.num_layers;
  const int32_t hidden = config.hidden_size, ffn = config.ffn_size;
  const int32_t q = config.num_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  return {{config.tied_head ? 1 : 2, config.vocab_size, hidden},
          {layers, q, hidden},
          {2 * layers, kv, hidden},
          {layers, hidden, q},
          {2 * layers, ffn, hidden},
          {layers, hidden, ffn}};
}

int64_t VectorElements(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size, layers = config.num_layers;
  int64_t elements = hidden + 2 * hidden * layers;
  if (config.qkv_bias) {
    elements += layers * (config.num_heads + 2 * config.num_kv_heads) * config.head_dim;
  }
  return elements;
}

struct Bits {
  double file = 0, loaded = 0;  // a weight
};

Bits BitsOf(BareCodes codes, const Matrices&) {
  return {static_cast<double>(codes.bits), static_cast<double>(codes.bits)};
}

Bits BitsOf(GgmlType type, const Matrices&) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  const std::optional<CanonicalForm> form = CanonicalFormOf(type);
  NIBBLE_CHECK(form.has_value());
  constexpr int64_t kWhole = int64_t{1} << 20;  // whole groups of every format
  return {8.0 * info.block_bytes / info.block_elements,
          8.0 * static_cast<double>(CanonicalBytes(*form, kWhole)) / kWhole};
}

// Codes narrower than 4 bits are held as 4, wider integers as 8 (quantized_weight.h).
Bits BitsOf(const Scheme& scheme, const Matrices& matrices) {
  Scheme held = scheme;
  held.bits = scheme.bits <= 4 ? 4 : 8;
  held.double_quantized = false;
  return {quantize::BitsPerWeight(scheme, matrices.rows, matrices.cols),
          quantize::BitsPerWeight(held, matrices.rows, matrices.cols)};
}

Bits BitsOf(const WeightFormat& format, const Matrices& matrices) {
  return std::visit([&](const auto& kind) { return BitsOf(kind, matrices); }, format.kind);
}

absl::Status CheckRows(const WeightFormat& format, const Matrices& matrices) {
  if (const auto* scheme = std::get_if<Scheme>(&format.kind)) {
    return quantize::CheckShape(*scheme, matrices.rows, matrices.cols);
  }
  const auto* type = std::get_if<GgmlType>(&format.kind);
  if (type == nullptr) return absl::OkStatus();
  const int32_t block = TypeInfo(static_cast<int32_t>(*type)).block_elements;
  if (matrices.cols % block == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      format.name, " has blocks of ", block, " weights, the shape has rows of ", matrices.cols));
}

void Add(const WeightFormat& format, const Matrices& matrices, WeightsPlan& plan) {
  const Bits bits = BitsOf(format, matrices);
  const double bytes = static_cast<double>(matrices.elements()) / 8;
  plan.file_bytes += std::llround(bits.file * bytes);
  plan.loaded_bytes += std::llround(bits.loaded * bytes);
}

void SetBits(int64_t parameters, WeightsPlan& plan) {
  plan.bits_per_weight =
      8.0 * static_cast<double>(plan.file_bytes) / static_cast<double>(parameters);
}

}  // namespace

absl::StatusOr<WeightFormat> ParseWeightFormat(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  absl::string_view number = lower;
  BareCodes codes;
  if (absl::ConsumeSuffix(&number, "-bit") && absl::SimpleAtoi(number, &codes.bits) &&
      codes.bits >= 1 && codes.bits <= 32) {
    return WeightFormat{lower, codes};
  }
  constexpr int32_t kTypes = 64;  // ggml's ids are below
  for (int32_t id = 0; id < kTypes; ++id) {
    const GgmlTypeInfo info = TypeInfo(id);
    if (info.readable && absl::AsciiStrToLower(info.name) == lower) {
      return WeightFormat{lower, static_cast<GgmlType>(id)};
    }
  }
  const absl::StatusOr<Scheme> scheme = quantize::ParseScheme(lower);
  if (scheme.ok()) return WeightFormat{lower, *scheme};
  return absl::InvalidArgumentError(
      absl::StrCat("found \"", name,
                   "\", needed N-bit (N 1 to 32), a ggml type such as q4_k, or a "
                   "scheme such as int4-asym-g128, nf4-b64-dq or e4m3-channel"));
}

int64_t NumParameters(const ModelConfig& config) {
  int64_t elements = VectorElements(config);
  for (const Matrices& matrices : MatricesOf(config)) elements += matrices.elements();
  return elements;
}

absl::StatusOr<WeightsPlan> PlanWeights(const ModelConfig& config, const WeightFormat& format) {
  WeightsPlan plan;
  plan.file_bytes = plan.loaded_bytes = VectorElements(config) * kVectorBytes;
  for (const Matrices& matrices : MatricesOf(config)) {
    NIBBLE_RETURN_IF_ERROR(CheckRows(format, matrices));
    Add(format, matrices, plan);
  }
  SetBits(NumParameters(config), plan);
  return plan;
}

WeightsPlan PlanWeights(int64_t num_parameters, const WeightFormat& format) {
  WeightsPlan plan;
  const Bits bits = BitsOf(format, {1, kAssumedRow, kAssumedRow});
  const double bytes = static_cast<double>(num_parameters) / 8;
  plan.file_bytes = std::llround(bits.file * bytes);
  plan.loaded_bytes = std::llround(bits.loaded * bytes);
  SetBits(num_parameters, plan);
  return plan;
}

KvPlan PlanKvCache(const ModelConfig& config, DType type, int32_t block_size, int64_t context) {
  KvPlan plan;
  plan.token_bytes = KvCache::BlockBytes(config, 1, type);
  plan.layer_token_bytes = plan.token_bytes / config.num_layers;
  plan.block_bytes = KvCache::BlockBytes(config, block_size, type);
  plan.blocks_per_sequence = (context + block_size - 1) / block_size;
  plan.sequence_bytes = plan.blocks_per_sequence * plan.block_bytes;
  return plan;
}

FitPlan PlanFit(int64_t memory_bytes, int64_t weights_bytes, const KvPlan& kv) {
  FitPlan plan;
  plan.cache_bytes = memory_bytes - weights_bytes;
  plan.num_blocks = std::max<int64_t>(plan.cache_bytes, 0) / kv.block_bytes;
  plan.sequences = plan.num_blocks / kv.blocks_per_sequence;
  return plan;
}

}  // namespace nibble
