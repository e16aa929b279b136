// A decoder whose shape and weights are drawn from a seed, each matrix in any of the formats that
// the backend has kernels for; and one token that carries what no activation should.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/model_config.h"
#include "engine/weights/weight_source.h"
#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/quant/matrix.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {

// Small enough that a thousand tokens take a fraction of a second on the scalar path, wide enough
// that ops are split over threads from a few rows on, and a lone decode row beyond 512 positions.
inline ModelConfig RandomConfig(std::mt19937& random) {
  const auto pick = [&random](std::initializer_list<int32_t> from) {
    return from.begin()[random() % from.size()];
  };
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 2;
  config.hidden_size = pick({64, 96, 128});
  config.ffn_size = pick({96, 128, 256});
  config.num_kv_heads = pick({1, 2});
  config.num_heads = config.num_kv_heads * pick({2, 3, 4});
  config.head_dim = pick({16, 32, 48});
  if (config.num_heads * config.head_dim % 32 != 0) config.head_dim = 32;  // groups of o
  config.rotary_dim = pick({8, config.head_dim});
  config.rope_layout = random() % 2 ? RopeLayout::kHalf : RopeLayout::kInterleaved;
  config.rope_base = 100.0f;
  config.qkv_bias = random() % 2 != 0;
  config.vocab_size = pick({61, 250, 509});
  config.context_length = 640;
  return config;
}

class RandomWeights : public WeightSource {
 public:
  // Token `poison_id`'s embedding is `poison` everywhere (-1: no such token). `backend` only says
  // which formats it can pack.
  RandomWeights(Backend& backend, uint32_t seed, int32_t poison_id, float poison)
      : seed_(seed), poison_id_(poison_id), poison_(poison) {
    using quant::Format;
    for (const quant::RandomSpec& spec : std::initializer_list<quant::RandomSpec>{
             {.format = Format::kInt4Affine, .group = 32, .offsets = true},
             {.format = Format::kInt4Affine, .group = 32, .f16_scales = false},
             {.format = Format::kInt4Affine, .group = 64, .offsets = true, .f16_scales = false},
             {.format = Format::kInt8, .group = 16},
             {.format = Format::kInt8, .group = 32, .offsets = true},
             {.format = Format::kInt8, .group = 64},
             {.format = Format::kLut4, .group = 32},
             {.format = Format::kBf16, .group = 0},
             {.format = Format::kF32, .group = 0}}) {
      if (backend.Pack(quant::RandomMatrix(spec, 1)).ok()) specs_.push_back(spec);
    }
  }

  bool Has(absl::string_view) const override { return true; }

  absl::StatusOr<quant::Matrix> LoadRows(absl::string_view name, int32_t rows, int32_t cols,
                                         RowRange range) const override {
    return quant::SliceRows(Whole(name, rows, cols), range.first, range.count);
  }
  absl::StatusOr<SourceIdentity> Identity() const override {
    return absl::UnimplementedError("random weights are in no file");
  }

  quant::Matrix Whole(absl::string_view name, int32_t rows, int32_t cols) const {
    std::mt19937 random(SeedOf(name));
    std::vector<quant::RandomSpec> fitting;
    for (const quant::RandomSpec& spec : specs_) {
      if (spec.group == 0 || cols % spec.group == 0) fitting.push_back(spec);
    }
    quant::RandomSpec spec = fitting[random() % fitting.size()];
    spec.rows = rows;
    spec.cols = cols;
    quant::Matrix matrix = quant::RandomMatrix(spec, random());
    // Q4_0's form, a zero point, has kernels of its own.
    if (!matrix.offsets.empty() && random() % 2) {
      for (size_t i = 0; i < matrix.scales.size(); ++i) matrix.offsets[i] = -8 * matrix.scales[i];
    }
    Normalize(matrix);
    if (name == "token_embd.weight" && poison_id_ >= 0) Poison(matrix);
    return matrix;
  }

  absl::StatusOr<std::vector<float>> LoadVector(absl::string_view name, int32_t n) const override {
    std::mt19937 random(SeedOf(name));
    const bool is_norm = absl::string_view(name).find("norm") != absl::string_view::npos;
    std::normal_distribution<float> normal(is_norm ? 1.0f : 0.0f, 0.3f);
    std::vector<float> values(n);
    for (float& value : values) value = normal(random);
    return values;
  }

  std::vector<TensorReport> Report() const override { return {}; }

 private:
  uint32_t SeedOf(absl::string_view name) const {
    uint32_t hash = 2166136261u ^ seed_;  // FNV-1a
    for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
    return hash;
  }

  // Scales the matrix so that its products keep the size of what they are given: attention then
  // looks at many positions, and a difference anywhere reaches the logits.
  static void Normalize(quant::Matrix& matrix) {
    std::vector<float> row(matrix.cols);
    double squares = 0;
    const int32_t rows = std::min(matrix.rows, 8);
    for (int32_t r = 0; r < rows; ++r) {
      quant::DequantizeRow(matrix, r, row.data());
      for (float x : row) squares += double{x} * x;
    }
    // A power of two: what was exactly an f16 stays one.
    const float factor = std::exp2(std::round(-std::log2(std::sqrt(squares / rows))));
    for (float& scale : matrix.scales) scale *= factor;
    for (float& offset : matrix.offsets) offset *= factor;
    ForFloats(matrix, 0, matrix.rows, [factor](float x) { return x * factor; });
  }

  void Poison(quant::Matrix& matrix) const {
    const size_t groups = matrix.scales.size() / matrix.rows;
    std::fill_n(matrix.scales.begin() + groups * poison_id_, groups, poison_);
    ForFloats(matrix, poison_id_, 1, [this](float) { return poison_; });
  }

  // x = change(x) in rows first .. first + n - 1 of an unquantized matrix.
  template <typename Change>
  static void ForFloats(quant::Matrix& matrix, int64_t first, int64_t n, Change change) {
    const int64_t begin = first * matrix.cols, end = begin + n * matrix.cols;
    for (int64_t i = begin; i < end; ++i) {
      if (matrix.format == quant::Format::kF32) {
        float x;
        std::memcpy(&x, &matrix.codes[4 * i], 4);
        x = change(x);
        std::memcpy(&matrix.codes[4 * i], &x, 4);
      } else if (matrix.format == quant::Format::kBf16) {
        uint16_t x;
        std::memcpy(&x, &matrix.codes[2 * i], 2);
        x = F32ToBf16(change(Bf16ToF32(x)));
        std::memcpy(&matrix.codes[2 * i], &x, 2);
      }
    }
  }

  uint32_t seed_;
  int32_t poison_id_;
  float poison_;
  std::vector<quant::RandomSpec> specs_;
};

}  // namespace nibble
