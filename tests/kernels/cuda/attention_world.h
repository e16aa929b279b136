// Sequences with random q, k and v in a paged cache, for the tests of the attention kernels: what
// the kernels give for any of their rows, and what float64 does.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/fp8.h"
#include "kernels/ops.h"

namespace nibble::cuda {

struct Shape {
  DType dtype = DType::kBf16;
  DType cache = DType::kBf16;
  int32_t num_heads = 4, num_kv_heads = 1, head_dim = 64, block_size = 16;
};

// k or v of one sequence as its cache holds it: rows of one kv head and position.
struct CachedRows {
  std::vector<uint8_t> bytes;  // [positions, num_kv_heads, head_dim] elements
  std::vector<float> scales;   // [positions, num_kv_heads], of 8-bit codes
  std::vector<double> values;  // what they stand for
};

// The code nearest to x.
inline uint8_t CodeOf(DType cache, float x) {
  if (cache == DType::kI8) return static_cast<uint8_t>(std::lround(x));
  int nearest = 0;
  for (int code = 0; code < 0x7F; ++code) {
    const auto distance = [&](int c) { return std::abs(E4m3ToF32(c) - std::abs(x)); };
    if (distance(code) < distance(nearest)) nearest = code;
  }
  return static_cast<uint8_t>(nearest | (x < 0 ? 0x80 : 0));
}
inline double ValueOf(DType cache, uint8_t code) {
  return cache == DType::kI8 ? static_cast<int8_t>(code) : E4m3ToF32(code);
}

// Random rows; those of 8-bit codes grow and shrink from row to row, as their scales do.
inline CachedRows RandomRows(DType cache, size_t rows, size_t dim, uint32_t seed) {
  CachedRows out;
  if (!KvHasScales(cache)) {
    const std::vector<uint16_t> halves = RandomHalves(cache, rows * dim, seed);
    out.bytes.resize(halves.size() * 2);
    std::memcpy(out.bytes.data(), halves.data(), out.bytes.size());
    out.values = ToDoubles(cache, halves);
    return out;
  }
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (size_t row = 0; row < rows; ++row) {
    std::vector<float> x(dim);
    for (float& v : x) v = normal(random) * (1 + 0.2f * static_cast<float>(row % 5));
    float max = 0;
    for (const float v : x) max = std::max(max, std::abs(v));
    const float scale = max / (cache == DType::kI8 ? 127.0f : 448.0f);
    out.scales.push_back(scale);
    for (const float v : x) {
      out.bytes.push_back(CodeOf(cache, v / scale));
      out.values.push_back(ValueOf(cache, out.bytes.back()) * scale);
    }
  }
  return out;
}

// Rows begin .. end - 1 of a sequence, whose cache ends there.
struct Chunk {
  size_t sequence = 0;
  int32_t begin = 0, end = 0;
};

class AttentionWorld {
 public:
  // A sequence's contents follow from its length, so that it is the same in another world; `seed`
  // shuffles the blocks only.
  AttentionWorld(const Shape& shape, std::vector<int32_t> lengths, uint32_t seed)
      : shape_(shape), lengths_(std::move(lengths)) {
    max_blocks_ = *std::max_element(lengths_.begin(), lengths_.end()) / shape.block_size + 1;
    num_blocks_ = max_blocks_ * static_cast<int32_t>(lengths_.size()) + 3;
    std::vector<int32_t> blocks(num_blocks_);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(seed));
    blocks.resize(max_blocks_ * lengths_.size());
    table_ = blocks;
    for (const int32_t length : lengths_) {
      const size_t rows = static_cast<size_t>(length) * shape.num_kv_heads;
      const uint32_t of_sequence = 100 + static_cast<uint32_t>(length);
      k_.push_back(RandomRows(shape.cache, rows, shape.head_dim, of_sequence));
      v_.push_back(RandomRows(shape.cache, rows, shape.head_dim, of_sequence + 1000));
      q_.push_back(RandomHalves(shape.dtype, length * RowSize(), of_sequence + 2000, 2.0f));
    }
  }

  size_t RowSize() const { return static_cast<size_t>(shape_.num_heads) * shape_.head_dim; }
  // The last row of every sequence.
  std::vector<Chunk> LastRows() const {
    std::vector<Chunk> rows;
    for (size_t s = 0; s < lengths_.size(); ++s) rows.push_back({s, lengths_[s] - 1, lengths_[s]});
    return rows;
  }

  // REQUIRES chunks of one row.
  std::vector<uint16_t> Decode(const std::vector<Chunk>& rows, int calls = 1) const {
    const OnDevice device(*this, rows);
    DecodeAttention call;
    Fill(device, call);
    call.max_context = max_blocks_ * shape_.block_size;
    const DeviceArray<uint8_t> workspace(static_cast<size_t>(DecodeWorkspaceBytes(call)));
    cudaMemset(workspace.data(), 0, static_cast<size_t>(DecodeCounterBytes(call)));
    call.workspace = workspace.data();
    for (int i = 0; i < calls; ++i) {
      EXPECT_EQ(LaunchDecodeAttention(call, nullptr), cudaSuccess)
          << emulator::TheGpu().TakeFault();
    }
    return device.out.Read();
  }

  std::vector<uint16_t> Prefill(const std::vector<Chunk>& chunks) const {
    const OnDevice device(*this, chunks);
    std::vector<int32_t> ends = {0};
    PrefillAttention call;
    for (const Chunk& chunk : chunks) {
      ends.push_back(ends.back() + chunk.end - chunk.begin);
      call.max_rows = std::max(call.max_rows, chunk.end - chunk.begin);
    }
    const DeviceArray<int32_t> cu_seqlens_q(ends);
    Fill(device, call);
    call.cu_seqlens_q = cu_seqlens_q.data();
    EXPECT_EQ(LaunchPrefillAttention(call, nullptr), cudaSuccess) << emulator::TheGpu().TakeFault();
    return device.out.Read();
  }

  std::vector<double> Expected(const std::vector<Chunk>& chunks) const {
    std::vector<double> out;
    for (const Chunk& chunk : chunks) {
      for (int32_t p = chunk.begin; p < chunk.end; ++p) {
        for (int32_t head = 0; head < shape_.num_heads; ++head)
          AttendHead(chunk.sequence, p, head, out);
      }
    }
    return out;
  }

  std::vector<uint16_t> RowOf(const std::vector<uint16_t>& out, size_t row) const {
    const auto begin = out.begin() + static_cast<int64_t>(row * RowSize());
    return {begin, begin + static_cast<int64_t>(RowSize())};
  }

 private:
  // What a call reads. Blocks that no chunk's sequence owns, and positions past its end, are never
  // written, so that the emulator finds a read of them.
  struct OnDevice {
    OnDevice(const AttentionWorld& world, const std::vector<Chunk>& chunks)
        : k(world.CacheSize()),
          v(world.CacheSize()),
          q(world.QueriesOf(chunks)),
          out(q.size()),
          table(world.TableOf(chunks)),
          lengths(EndsOf(chunks)) {
      for (const Chunk& chunk : chunks) {
        for (int32_t p = 0; p < chunk.end; ++p) world.Put(chunk.sequence, p, k.data(), v.data());
      }
    }
    DeviceArray<uint8_t> k, v;
    DeviceArray<uint16_t> q, out;
    DeviceArray<int32_t> table, lengths;
  };

  int64_t HeadBytes() const {
    return KvHeadBytes(shape_.cache, shape_.block_size, shape_.head_dim);
  }
  size_t CacheSize() const {
    return static_cast<size_t>(num_blocks_) * shape_.num_kv_heads * HeadBytes();
  }
  std::vector<uint16_t> QueriesOf(const std::vector<Chunk>& chunks) const {
    std::vector<uint16_t> rows;
    for (const Chunk& chunk : chunks) {
      const auto q = q_[chunk.sequence].begin();
      rows.insert(rows.end(), q + chunk.begin * static_cast<int64_t>(RowSize()),
                  q + chunk.end * static_cast<int64_t>(RowSize()));
    }
    return rows;
  }
  std::vector<int32_t> TableOf(const std::vector<Chunk>& chunks) const {
    std::vector<int32_t> table;
    for (const Chunk& chunk : chunks) {
      const auto row = table_.begin() + static_cast<int64_t>(chunk.sequence) * max_blocks_;
      table.insert(table.end(), row, row + max_blocks_);
    }
    return table;
  }
  static std::vector<int32_t> EndsOf(const std::vector<Chunk>& chunks) {
    std::vector<int32_t> ends;
    for (const Chunk& chunk : chunks) ends.push_back(chunk.end);
    return ends;
  }

  template <class Call>
  void Fill(const OnDevice& device, Call& call) const {
    call.dtype = shape_.dtype;
    call.cache_dtype = shape_.cache;
    call.q = device.q.data();
    call.q_stride = static_cast<int32_t>(RowSize());
    call.num_seqs = static_cast<int32_t>(device.lengths.size());
    call.num_heads = shape_.num_heads;
    call.num_kv_heads = shape_.num_kv_heads;
    call.head_dim = shape_.head_dim;
    call.k = device.k.data();
    call.v = device.v.data();
    call.block_size = shape_.block_size;
    call.block_table = device.table.data();
    call.max_blocks = max_blocks_;
    call.context_lens = device.lengths.data();
    call.scale = Scale();
    call.out = device.out.data();
    call.out_stride = call.q_stride;
  }
  float Scale() const { return 1 / std::sqrt(static_cast<float>(shape_.head_dim)); }

  // The host writes each row apart: a block's tail stays unwritten.
  void Put(size_t s, int32_t p, uint8_t* k, uint8_t* v) const {
    const int64_t block = table_[s * max_blocks_ + p / shape_.block_size];
    for (int32_t head = 0; head < shape_.num_kv_heads; ++head) {
      const int64_t head_block = (block * shape_.num_kv_heads + head) * HeadBytes();
      PutRow(k_[s], int64_t{p} * shape_.num_kv_heads + head, p, k + head_block);
      PutRow(v_[s], int64_t{p} * shape_.num_kv_heads + head, p, v + head_block);
    }
  }
  void PutRow(const CachedRows& rows, int64_t row, int32_t p, uint8_t* head_block) const {
    const int64_t bytes = shape_.head_dim * static_cast<int64_t>(SizeOf(shape_.cache));
    const int64_t in_block = p % shape_.block_size;
    cudaMemcpy(head_block + in_block * bytes, &rows.bytes[row * bytes], bytes,
               cudaMemcpyHostToDevice);
    if (rows.scales.empty()) return;
    cudaMemcpy(head_block + shape_.block_size * bytes + in_block * 4, &rows.scales[row], 4,
               cudaMemcpyHostToDevice);
  }

  void AttendHead(size_t s, int32_t position, int32_t head, std::vector<double>& out) const {
    const int32_t kv_head = head / (shape_.num_heads / shape_.num_kv_heads), dim = shape_.head_dim;
    const auto at = [&](const CachedRows& rows, int32_t p, int32_t d) {
      return rows.values[(int64_t{p} * shape_.num_kv_heads + kv_head) * dim + d];
    };
    const uint16_t* q = &q_[s][position * RowSize() + head * dim];
    std::vector<double> weights(position + 1);
    for (int32_t p = 0; p <= position; ++p) {
      for (int32_t d = 0; d < dim; ++d) weights[p] += at(k_[s], p, d) * ToFloat(shape_.dtype, q[d]);
      weights[p] *= Scale();
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - max);
    for (int32_t d = 0; d < dim; ++d) {
      double value = 0;
      for (int32_t p = 0; p <= position; ++p) value += weights[p] * at(v_[s], p, d);
      out.push_back(value / sum);
    }
  }

  Shape shape_;
  std::vector<int32_t> lengths_, table_;
  int32_t max_blocks_ = 0, num_blocks_ = 0;
  std::vector<CachedRows> k_, v_;         // of each sequence, all positions
  std::vector<std::vector<uint16_t>> q_;  // the same
};

}  // namespace nibble::cuda
