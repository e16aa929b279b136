// One op with the shapes of SmolLM2-135M (9 heads, 3 kv heads of 64, hidden 576, ffn 1536) and
// random operands, ready to be called again and again: for benchmarks and instruction counts. Goes
// through Backend, as the model does, and so measures what the model gets.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/cpu/op_fixture.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {

inline constexpr int32_t kHeads = 9, kKvHeads = 3, kHeadDim = 64, kHidden = 576, kFfn = 1536;

// y = x W^T. Several copies of the weight take turns, so that together they are larger than a last
// cache and come from memory, as in a real step; one copy stays in the cache.
class LinearOp {
 public:
  LinearOp(Backend& backend, const quant::RandomSpec& weight, int32_t rows, int copies)
      : backend_(backend) {
    for (int i = 0; i < copies; ++i) {
      weights_.push_back(backend.Pack(quant::RandomMatrix(weight, i + 1)).value());
    }
    std::mt19937 random(7);
    x_ = RandomFloats(random, static_cast<size_t>(rows) * weight.cols);
    y_.resize(static_cast<size_t>(rows) * weight.rows);
    params_.x = RowsOf(x_, rows, weight.cols);
    params_.y = RowsOf(y_, rows, weight.rows);
  }
  void Run() {
    const PackedMatrix* const one[] = {weights_[next_++ % weights_.size()].get()};
    params_.weights = one;
    backend_.Linear(params_);
  }
  int64_t weight_bytes() const { return weights_[0]->size_bytes(); }
  int64_t macs() const { return int64_t{params_.x.rows} * params_.x.cols * params_.y.cols; }

 private:
  Backend& backend_;
  std::vector<std::unique_ptr<PackedMatrix>> weights_;
  std::vector<float> x_, y_;
  LinearParams params_;
  size_t next_ = 0;
};

// `num_seqs` sequences of `context` tokens, the last `num_tokens` of which are rotated, stored and
// attended. The cache holds what RopeStoreKv wrote, in blocks of 32.
class AttentionOp {
 public:
  AttentionOp(Backend& backend, int32_t num_seqs, int32_t context, int32_t num_tokens)
      : backend_(backend), num_seqs_(num_seqs), context_(context), num_tokens_(num_tokens) {
    const int32_t blocks = (context + kBlock - 1) / kBlock;
    cache_.num_blocks = num_seqs * blocks;
    cache_.block_size = kBlock;
    cache_.num_kv_heads = kKvHeads;
    cache_.head_dim = kHeadDim;
    const int64_t bytes = int64_t{cache_.num_blocks} * kBlock * kKvHeads * kHeadDim * 2;
    k_ = backend.Allocate(bytes, "k").value();
    v_ = backend.Allocate(bytes, "v").value();
    cache_.k = k_.data();
    cache_.v = v_.data();
    for (int32_t i = 0; i < cache_.num_blocks; ++i) block_table_.push_back(i);
    FillAngles();
    FillCache();
    Prepare(context - num_tokens, num_tokens);
    out_.resize(static_cast<size_t>(num_seqs) * num_tokens * kHeads * kHeadDim);
  }

  // Rotates q and k in place and stores k and v of the last tokens.
  void RopeStore() {
    RopeStoreKvParams params;
    params.qkv = RowsOf(qkv_, num_rows(), kCols);
    params.num_heads = kHeads;
    params.rotary_dim = kHeadDim;
    params.cos_sin = cos_sin_.data();
    params.positions = positions_.data();
    params.slots = slots_.data();
    params.cache = cache_;
    backend_.RopeStoreKv(params);
  }

  void Attend() {
    AttentionParams params;
    params.q = RowsOf(qkv_, num_rows(), kHeads * kHeadDim);
    params.q.stride = kCols;
    params.num_heads = kHeads;
    params.cache = cache_;
    params.num_seqs = num_seqs_;
    params.max_blocks = cache_.num_blocks / num_seqs_;
    params.cu_seqlens_q = cu_seqlens_.data();
    params.context_lens = context_lens_.data();
    params.block_table = block_table_.data();
    params.scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
    params.out = RowsOf(out_, num_rows(), kHeads * kHeadDim);
    backend_.Attention(params);
  }

  int32_t num_rows() const { return num_seqs_ * num_tokens_; }
  // Bytes of k and v that are seen, each once.
  int64_t kv_bytes() const {
    return int64_t{num_seqs_} * context_ * kKvHeads * kHeadDim * 2 * kF16Bytes;
  }
  int64_t qkv_bytes() const { return int64_t{num_rows()} * kCols * 4; }
  int64_t macs() const {
    const int64_t n = num_tokens_, before = context_ - num_tokens_;
    return 2 * int64_t{num_seqs_} * kHeads * kHeadDim * (n * before + n * (n + 1) / 2);
  }

 private:
  static constexpr int32_t kBlock = 32, kF16Bytes = 2;
  static constexpr int32_t kCols = (kHeads + 2 * kKvHeads) * kHeadDim;

  void FillAngles() {
    for (int32_t p = 0; p < context_; ++p) {
      for (int32_t i = 0; i < kHeadDim / 2; ++i) {
        const float angle = static_cast<float>(p) * std::pow(1e4f, -2.0f * i / kHeadDim);
        cos_sin_.push_back(std::cos(angle));
        cos_sin_.push_back(std::sin(angle));
      }
    }
  }
  // Positions first .. first + count - 1 of every sequence become the rows of qkv.
  void Prepare(int32_t first, int32_t count) {
    std::mt19937 random(first + 11);
    qkv_ = RandomFloats(random, static_cast<size_t>(num_seqs_) * count * kCols);
    positions_.clear();
    slots_.clear();
    cu_seqlens_ = {0};
    context_lens_.assign(num_seqs_, first + count);
    const int32_t slots_each = cache_.num_blocks / num_seqs_ * kBlock;
    for (int32_t s = 0; s < num_seqs_; ++s) {
      for (int32_t p = first; p < first + count; ++p) {
        positions_.push_back(p);
        slots_.push_back(s * slots_each + p);
      }
      cu_seqlens_.push_back((s + 1) * count);
    }
  }
  void FillCache() {
    const int32_t wanted = num_tokens_;
    num_tokens_ = context_;
    Prepare(0, context_);
    RopeStore();
    num_tokens_ = wanted;
  }

  Backend& backend_;
  int32_t num_seqs_, context_, num_tokens_;
  KvLayer cache_;
  DeviceBuffer k_, v_;
  std::vector<float> cos_sin_, qkv_, out_;
  std::vector<int32_t> positions_, slots_, cu_seqlens_, context_lens_, block_table_;
};

}  // namespace nibble
