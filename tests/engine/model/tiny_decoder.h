// A small decoder with random weights: a WeightSource for the runner, and the same model computed
// densely in float64, token by token from the definition, with no cache, no batch and none of the
// runner's code.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/model_config.h"
#include "engine/weights/weight_source.h"
#include "kernels/half.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {

// Every weight f32 unless `int8_group` is set: then matrices are int8 with a scale a group, and
// what the reference multiplies with is the dequantized value.
class TinyWeights : public WeightSource {
 public:
  TinyWeights(const ModelConfig& config, uint32_t seed, int32_t int8_group = 0)
      : int8_group_(int8_group), random_(seed) {
    const int32_t hidden = config.hidden_size, q = config.num_heads * config.head_dim;
    const int32_t kv = config.num_kv_heads * config.head_dim;
    AddMatrix("token_embd.weight", config.vocab_size, hidden, 1.0f);
    for (int32_t i = 0; i < config.num_layers; ++i) {
      const std::string block = absl::StrCat("blk.", i, ".");
      AddVector(block + "attn_norm.weight", hidden, 1.0f);
      AddMatrix(block + "attn_q.weight", q, hidden, 0.2f);
      AddMatrix(block + "attn_k.weight", kv, hidden, 0.2f);
      AddMatrix(block + "attn_v.weight", kv, hidden, 0.2f);
      if (config.qkv_bias) {
        AddVector(block + "attn_q.bias", q, 0.0f);
        AddVector(block + "attn_k.bias", kv, 0.0f);
        AddVector(block + "attn_v.bias", kv, 0.0f);
      }
      AddMatrix(block + "attn_output.weight", hidden, q, 0.2f);
      AddVector(block + "ffn_norm.weight", hidden, 1.0f);
      AddMatrix(block + "ffn_gate.weight", config.ffn_size, hidden, 0.2f);
      AddMatrix(block + "ffn_up.weight", config.ffn_size, hidden, 0.2f);
      AddMatrix(block + "ffn_down.weight", hidden, config.ffn_size, 0.2f);
    }
    AddVector("output_norm.weight", hidden, 1.0f);
    if (!config.tied_head) AddMatrix("output.weight", config.vocab_size, hidden, 0.3f);
  }

  struct Entry {
    int32_t rows = 0, cols = 0;  // cols 0: a vector
    std::vector<float> values;
    quant::Matrix matrix;
  };
  const Entry& Get(const std::string& name) const { return entries_.at(name); }
  void Remove(const std::string& name) { entries_.erase(name); }
  // Of an f32 matrix or a vector: Get's value, not what the source loads.
  void Set(const std::string& name, size_t element, float value) {
    entries_.at(name).values.at(element) = value;
  }

  bool Has(absl::string_view name) const override { return entries_.count(std::string(name)) > 0; }
  absl::StatusOr<quant::Matrix> LoadRows(absl::string_view name, int32_t rows, int32_t cols,
                                         RowRange range) const override {
    const auto found = entries_.find(std::string(name));
    if (found == entries_.end()) return absl::NotFoundError(absl::StrCat("no tensor '", name, "'"));
    if (found->second.rows != rows || found->second.cols != cols) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' has another shape"));
    }
    return quant::SliceRows(found->second.matrix, range.first, range.count);
  }
  absl::StatusOr<SourceIdentity> Identity() const override { return identity; }
  SourceIdentity identity;  // as a test likes it
  absl::StatusOr<std::vector<float>> LoadVector(absl::string_view name, int32_t n) const override {
    const auto found = entries_.find(std::string(name));
    if (found == entries_.end()) return absl::NotFoundError(absl::StrCat("no tensor '", name, "'"));
    if (found->second.rows != n) return absl::InvalidArgumentError("another length");
    return found->second.values;
  }
  std::vector<TensorReport> Report() const override {
    std::vector<TensorReport> report;
    for (const auto& [name, entry] : entries_) {
      report.emplace_back();
      report.back().name = name;
      report.back().file_bytes = static_cast<int64_t>(entry.values.size() * 4);
    }
    return report;
  }

 private:
  std::vector<float> Draw(size_t n, float mean, float deviation) {
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<float> values(n);
    for (float& value : values) value = normal(random_);
    return values;
  }
  void AddVector(const std::string& name, int32_t n, float mean) {
    entries_[name] = {n, 0, Draw(n, mean, 0.3f), {}};
  }
  void AddMatrix(const std::string& name, int32_t rows, int32_t cols, float deviation) {
    Entry& entry = entries_[name];
    entry.rows = rows;
    entry.cols = cols;
    entry.values = Draw(size_t(rows) * cols, 0.0f, deviation);
    entry.matrix.rows = rows;
    entry.matrix.cols = cols;
    if (int8_group_ == 0) {
      entry.matrix.format = quant::Format::kF32;
      entry.matrix.codes.resize(entry.values.size() * 4);
      std::memcpy(entry.matrix.codes.data(), entry.values.data(), entry.matrix.codes.size());
      return;
    }
    entry.matrix.format = quant::Format::kInt8;
    entry.matrix.group = int8_group_;
    const float scale = F16ToF32(F32ToF16(3 * deviation / 127));
    entry.matrix.scales.assign(entry.values.size() / int8_group_, scale);
    for (float& value : entry.values) {
      const int code = std::max(-127, std::min(127, static_cast<int>(std::lround(value / scale))));
      entry.matrix.codes.push_back(static_cast<uint8_t>(static_cast<int8_t>(code)));
      value = scale * static_cast<float>(code);
    }
  }

  int32_t int8_group_;
  std::mt19937 random_;
  std::map<std::string, Entry> entries_;
};

// Log probabilities over the vocabulary after each of `ids`.
class DenseDecoder {
 public:
  DenseDecoder(const ModelConfig& config, const TinyWeights& weights)
      : config_(config), weights_(weights) {}

  std::vector<std::vector<double>> Logprobs(const std::vector<int32_t>& ids) {
    const size_t n = ids.size();
    std::vector<Vec> x;
    for (int32_t id : ids) x.push_back(RowOf("token_embd.weight", id));
    for (int32_t i = 0; i < config_.num_layers; ++i) {
      const std::string block = absl::StrCat("blk.", i, ".");
      std::vector<Vec> q, k, v;
      for (size_t p = 0; p < n; ++p) {
        const Vec normed = Norm(x[p], block + "attn_norm.weight");
        q.push_back(Rotate(Biased(normed, block + "attn_q"), p));
        k.push_back(Half(Rotate(Biased(normed, block + "attn_k"), p)));
        v.push_back(Half(Biased(normed, block + "attn_v")));
      }
      for (size_t p = 0; p < n; ++p) {
        Add(x[p], Times(Attend(q[p], k, v, p), block + "attn_output.weight"));
        const Vec normed = Norm(x[p], block + "ffn_norm.weight");
        Vec gate = Times(normed, block + "ffn_gate.weight");
        const Vec up = Times(normed, block + "ffn_up.weight");
        for (size_t j = 0; j < gate.size(); ++j)
          gate[j] = gate[j] / (1 + std::exp(-gate[j])) * up[j];
        Add(x[p], Times(gate, block + "ffn_down.weight"));
      }
    }
    std::vector<Vec> all;
    for (const Vec& row : x) {
      Vec logits = Times(Norm(row, "output_norm.weight"),
                         config_.tied_head ? "token_embd.weight" : "output.weight");
      double sum = 0;
      for (double logit : logits) sum += std::exp(logit);
      for (double& logit : logits) logit -= std::log(sum);
      all.push_back(logits);
    }
    return all;
  }

 private:
  using Vec = std::vector<double>;

  Vec RowOf(const std::string& name, int32_t row) {
    const TinyWeights::Entry& entry = weights_.Get(name);
    const auto begin = entry.values.begin() + size_t(row) * entry.cols;
    return Vec(begin, begin + entry.cols);
  }
  Vec Times(const Vec& x, const std::string& name) {
    const TinyWeights::Entry& entry = weights_.Get(name);
    Vec y(entry.rows);
    for (int32_t r = 0; r < entry.rows; ++r) {
      for (int32_t c = 0; c < entry.cols; ++c)
        y[r] += x[c] * entry.values[size_t(r) * entry.cols + c];
    }
    return y;
  }
  Vec Biased(const Vec& x, const std::string& name) {
    Vec y = Times(x, name + ".weight");
    if (config_.qkv_bias) {
      for (size_t i = 0; i < y.size(); ++i) y[i] += weights_.Get(name + ".bias").values[i];
    }
    return y;
  }
  Vec Norm(const Vec& x, const std::string& name) {
    double squares = 0;
    for (double value : x) squares += value * value;
    Vec y = x;
    for (size_t i = 0; i < y.size(); ++i) {
      y[i] *= weights_.Get(name).values[i] / std::sqrt(squares / x.size() + config_.rms_epsilon);
    }
    return y;
  }
  static Vec Half(Vec x) {
    for (double& value : x) value = F16ToF32(F32ToF16(static_cast<float>(value)));
    return x;
  }
  static void Add(Vec& x, const Vec& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  double Frequency(int32_t pair) {
    double f = 1 / std::pow(config_.rope_base, 2.0 * pair / config_.rotary_dim);
    if (config_.rope_scaling == RopeScaling::kLinear) f = f / config_.rope_factor;
    if (!config_.rope_freq_factors.empty()) return f / config_.rope_freq_factors[pair];
    if (config_.rope_scaling != RopeScaling::kLlama3) return f;
    const double turns = config_.rope_original_context * f / (2 * std::numbers::pi);
    if (turns > config_.rope_high_freq_factor) return f;
    if (turns < config_.rope_low_freq_factor) return f / config_.rope_factor;
    const double smooth = (turns - config_.rope_low_freq_factor) /
                          (config_.rope_high_freq_factor - config_.rope_low_freq_factor);
    return (1 - smooth) * f / config_.rope_factor + smooth * f;
  }
  Vec Rotate(Vec heads, size_t position) {
    for (size_t head = 0; head < heads.size(); head += config_.head_dim) {
      for (int32_t i = 0; i < config_.rotary_dim / 2; ++i) {
        const bool half = config_.rope_layout == RopeLayout::kHalf;
        double& a = heads[head + (half ? i : 2 * i)];
        double& b = heads[head + (half ? i + config_.rotary_dim / 2 : 2 * i + 1)];
        const double angle = position * Frequency(i), a0 = a, b0 = b;
        a = a0 * std::cos(angle) - b0 * std::sin(angle);
        b = a0 * std::sin(angle) + b0 * std::cos(angle);
      }
    }
    return heads;
  }
  Vec Attend(const Vec& q, const std::vector<Vec>& k, const std::vector<Vec>& v, size_t position) {
    const int32_t d = config_.head_dim, group = config_.num_heads / config_.num_kv_heads;
    Vec out(q.size());
    for (int32_t h = 0; h < config_.num_heads; ++h) {
      Vec weights;
      double sum = 0;
      for (size_t p = 0; p <= position; ++p) {
        double dot = 0;
        for (int32_t i = 0; i < d; ++i) dot += q[h * d + i] * k[p][h / group * d + i];
        weights.push_back(std::exp(dot / std::sqrt(double(d))));
        sum += weights.back();
      }
      for (size_t p = 0; p <= position; ++p) {
        for (int32_t i = 0; i < d; ++i)
          out[h * d + i] += weights[p] / sum * v[p][h / group * d + i];
      }
    }
    return out;
  }

  const ModelConfig& config_;
  const TinyWeights& weights_;
};

inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 2;
  config.hidden_size = 64;
  config.ffn_size = 96;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 61;
  config.context_length = 640;
  config.rotary_dim = 16;
  config.rope_base = 100.0f;
  return config;
}

}  // namespace nibble
