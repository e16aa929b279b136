// A paged cache with some sequences in it, the steps that attend them, and what they should give:
// for tests of the attention op.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/half.h"
#include "tests/kernels/cpu/op_fixture.h"

namespace nibble {

struct Shape {
  int32_t num_heads, num_kv_heads, head_dim, block_size;
};

inline constexpr DType kCacheTypes[] = {DType::kF16, DType::kBf16, DType::kI8, DType::kF8E4M3};

inline std::string NameOfType(DType type) {
  switch (type) {
    case DType::kF16:
      return "f16";
    case DType::kBf16:
      return "bf16";
    case DType::kI8:
      return "int8";
    default:
      return "fp8";
  }
}

// Of a magnitude up to 448: the nearest value of e4m3 (OCP OFP8: three bits behind the leading one,
// the least exponent -6), the even one where two are as near.
inline double NearestE4m3(double x) {
  const double step = std::ldexp(1, std::max(x > 0 ? std::ilogb(x) : -6, -6) - 3);
  return std::nearbyint(x / step) * step;
}

// What a cache of that type makes of a row, written from KvLayer's words alone.
inline std::vector<double> Cached(DType type, const float* x, int32_t n) {
  std::vector<double> values;
  float max = 0;
  for (int32_t i = 0; i < n; ++i) max = std::max(max, std::abs(x[i]));
  for (int32_t i = 0; i < n; ++i) {
    if (type == DType::kF16) {
      values.push_back(F16ToF32(F32ToF16(x[i])));
    } else if (type == DType::kBf16) {
      values.push_back(Bf16ToF32(F32ToBf16(x[i])));
    } else if (type == DType::kI8) {
      values.push_back(std::nearbyint(x[i] * (127 / max)) * double{max / 127});
    } else {
      const float code = x[i] * (448 / max);
      values.push_back(std::copysign(NearestE4m3(std::abs(code)), code) * double{max / 448});
    }
  }
  return values;
}

// What an output element should be, and how far from it rounding the weights may bring it: the sum
// of weights times magnitudes of v.
struct Expected {
  double value = 0;
  double magnitude = 0;
};

struct Part {  // rows first .. first + count - 1 of a sequence
  int32_t sequence, first, count;
};

// A cache and some sequences with random q, k, v, at random blocks.
class World {
 public:
  World(std::pair<CpuIsa, DType> kind, int32_t num_threads, Shape shape,
        std::vector<int32_t> lengths, uint32_t seed, uint32_t table_seed = 1,
        CpuActivations activations = CpuActivations::kInt8)
      : type_(kind.second),
        products_(ChooseAttention(kind.first, activations).products),
        shape_(shape),
        lengths_(std::move(lengths)),
        backend_(MakeBackend(kind.first, num_threads, activations)) {
    std::mt19937 random(seed), table_random(table_seed);
    max_blocks_ = 0;
    int32_t num_blocks = 3;  // some stay unused
    for (int32_t length : lengths_) {
      qkv_.push_back(RandomFloats(random, size_t(length) * row_size()));
      max_blocks_ = std::max(max_blocks_, BlocksOf(length));
      num_blocks += BlocksOf(length);
    }
    std::vector<int32_t> blocks(num_blocks);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), table_random);
    for (int32_t length : lengths_) {
      tables_.emplace_back(blocks.end() - BlocksOf(length), blocks.end());
      blocks.resize(blocks.size() - BlocksOf(length));
    }
    const int64_t bytes = int64_t{num_blocks} * shape.num_kv_heads *
                          KvHeadBytes(type_, shape.block_size, shape.head_dim);
    k_ = backend_->Allocate(bytes, "k").value();
    v_ = backend_->Allocate(bytes, "v").value();
    // What no sequence has written must not matter.
    std::memset(k_.data(), 0xFF, bytes);
    std::memset(v_.data(), 0xFF, bytes);
    cache_ = {k_.data(),        v_.data(),          type_,         num_blocks,
              shape.block_size, shape.num_kv_heads, shape.head_dim};
  }

  int32_t row_size() const {
    return (shape_.num_heads + 2 * shape_.num_kv_heads) * shape_.head_dim;
  }
  int32_t out_size() const { return shape_.num_heads * shape_.head_dim; }
  float* row(int32_t sequence, int32_t position) {
    return &qkv_[sequence][size_t(position) * row_size()];
  }

  void Store(Part part) {
    std::vector<int32_t> positions, slots;
    std::vector<float> rows(row(part.sequence, part.first),
                            row(part.sequence, part.first) + part.count * row_size());
    for (int32_t p = part.first; p < part.first + part.count; ++p) {
      positions.push_back(p);
      slots.push_back(tables_[part.sequence][p / shape_.block_size] * shape_.block_size +
                      p % shape_.block_size);
    }
    RopeStoreKvParams params;
    params.qkv = RowsOf(rows, part.count, row_size());
    params.num_heads = shape_.num_heads;
    params.positions = positions.data();
    params.slots = slots.data();
    params.cache = cache_;
    backend_->RopeStoreKv(params);
  }

  // Stores the parts' k and v, then attends all of them in one step. One output row a query row, in
  // order.
  std::vector<std::vector<float>> Step(const std::vector<Part>& parts) {
    std::vector<float> q;
    std::vector<int32_t> cu_seqlens = {0}, contexts, tables;
    for (const Part& part : parts) {
      Store(part);
      q.insert(q.end(), row(part.sequence, part.first),
               row(part.sequence, part.first) + part.count * row_size());
      cu_seqlens.push_back(cu_seqlens.back() + part.count);
      contexts.push_back(part.first + part.count);
      std::vector<int32_t> table = tables_[part.sequence];
      table.resize(max_blocks_, -1);  // never read past the context
      tables.insert(tables.end(), table.begin(), table.end());
    }
    const int32_t n = cu_seqlens.back();
    std::vector<float> out(size_t(n) * out_size(), -77.0f);
    AttentionParams params;
    params.q = RowsOf(q, n, row_size());
    params.num_heads = shape_.num_heads;
    params.cache = cache_;
    params.num_seqs = static_cast<int32_t>(parts.size());
    params.max_blocks = max_blocks_;
    params.cu_seqlens_q = cu_seqlens.data();
    params.context_lens = contexts.data();
    params.block_table = tables.data();
    params.scale = scale();
    params.out = RowsOf(out, n, out_size());
    backend_->Attention(params);
    std::vector<std::vector<float>> rows;
    for (int32_t r = 0; r < n; ++r) {
      rows.emplace_back(out.begin() + r * out_size(), out.begin() + (r + 1) * out_size());
    }
    return rows;
  }

  // How far from Reference an element may be: f32 sums of up to 301 terms, exponentials within
  // 3e-7, and with bf16 products each weight off by up to 2^-8 of it.
  double Tolerance(const Expected& expected) const {
    const double weights = products_ == DType::kBf16 ? expected.magnitude / 256 : 0;
    return weights + 3e-6 * (1 + std::abs(expected.value));
  }

  // The definition, in float64 over the operands of the products: what the cache holds and q,
  // rounded to bf16 where products are.
  std::vector<Expected> Reference(int32_t sequence, int32_t position) {
    return Reference(sequence, position, products_);
  }
  std::vector<Expected> Reference(int32_t sequence, int32_t position, DType products) {
    const int32_t head_dim = shape_.head_dim;
    const auto rounded = [products](double x) {
      return products == DType::kBf16 ? Bf16ToF32(F32ToBf16(static_cast<float>(x))) : x;
    };
    const auto cached = [&](int32_t p, int32_t head) {
      std::vector<double> x = Cached(type_, row(sequence, p) + head * head_dim, head_dim);
      // Codes of a byte are exact in bf16, and their scales are no operands of the products.
      if (type_ == DType::kF16) std::transform(x.begin(), x.end(), x.begin(), rounded);
      return x;
    };
    std::vector<Expected> out(out_size());
    const int32_t group = shape_.num_heads / shape_.num_kv_heads;
    for (int32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
      std::vector<std::vector<double>> k, v;
      for (int32_t p = 0; p <= position; ++p) {
        k.push_back(cached(p, shape_.num_heads + kv_head));
        v.push_back(cached(p, shape_.num_heads + shape_.num_kv_heads + kv_head));
      }
      for (int32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        // Weights are powers of two (attention.h).
        std::vector<double> q, weights;
        for (int32_t d = 0; d < head_dim; ++d) {
          q.push_back(rounded(row(sequence, position)[h * head_dim + d] * (scale() * 1.44269504f)));
        }
        double sum = 0;
        for (const auto& x : k) {
          weights.push_back(std::inner_product(x.begin(), x.end(), q.begin(), 0.0));
        }
        const double top = *std::max_element(weights.begin(), weights.end());
        for (double& weight : weights) sum += weight = std::exp2(weight - top);
        for (int32_t p = 0; p <= position; ++p) {
          for (int32_t d = 0; d < head_dim; ++d) {
            out[h * head_dim + d].value += weights[p] / sum * v[p][d];
            out[h * head_dim + d].magnitude += weights[p] / sum * std::abs(v[p][d]);
          }
        }
      }
    }
    return out;
  }

 private:
  int32_t BlocksOf(int32_t length) const {
    return (length + shape_.block_size - 1) / shape_.block_size;
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }

  DType type_, products_;
  Shape shape_;
  std::vector<int32_t> lengths_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::vector<float>> qkv_;
  std::vector<std::vector<int32_t>> tables_;
  int32_t max_blocks_;
  DeviceBuffer k_, v_;
  KvLayer cache_;
};

}  // namespace nibble
