// Attention against float64, and the contract that nothing around a token changes a bit of its
// output.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/half.h"
#include "tests/kernels/cpu/op_fixture.h"

namespace nibble {
namespace {

struct Shape {
  int32_t num_heads, num_kv_heads, head_dim, block_size;
};

struct Part {  // rows first .. first + count - 1 of a sequence
  int32_t sequence, first, count;
};

// A cache and some sequences with random q, k, v, at random blocks.
class World {
 public:
  World(CpuIsa isa, int32_t num_threads, Shape shape, std::vector<int32_t> lengths, uint32_t seed,
        uint32_t table_seed = 1)
      : shape_(shape), lengths_(std::move(lengths)), backend_(MakeBackend(isa, num_threads)) {
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
    const int64_t elements =
        int64_t{num_blocks} * shape.num_kv_heads * shape.block_size * shape.head_dim;
    k_ = backend_->Allocate(elements * 2, "k").value();
    v_ = backend_->Allocate(elements * 2, "v").value();
    cache_ = {k_.data(),        v_.data(),          DType::kF16,   num_blocks,
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

  // The definition, in float64 over the f16 cache.
  std::vector<double> Reference(int32_t sequence, int32_t position) {
    const auto part = [&](int32_t p, int32_t head) {
      return row(sequence, p) + head * shape_.head_dim;
    };
    const auto half = [](float x) { return double{F16ToF32(F32ToF16(x))}; };
    std::vector<double> out(out_size());
    for (int32_t h = 0; h < shape_.num_heads; ++h) {
      const int32_t k_head = shape_.num_heads + h / (shape_.num_heads / shape_.num_kv_heads);
      std::vector<double> weights;
      double top = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int32_t p = 0; p <= position; ++p) {
        double dot = 0;
        for (int32_t d = 0; d < shape_.head_dim; ++d) {
          dot += double{part(position, h)[d]} * half(part(p, k_head)[d]);
        }
        weights.push_back(dot * scale());
        top = std::max(top, weights.back());
      }
      for (double& weight : weights) sum += weight = std::exp(weight - top);
      for (int32_t p = 0; p <= position; ++p) {
        for (int32_t d = 0; d < shape_.head_dim; ++d) {
          out[h * shape_.head_dim + d] +=
              weights[p] / sum * half(part(p, k_head + shape_.num_kv_heads)[d]);
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

  Shape shape_;
  std::vector<int32_t> lengths_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::vector<float>> qkv_;
  std::vector<std::vector<int32_t>> tables_;
  int32_t max_blocks_;
  DeviceBuffer k_, v_;
  KvLayer cache_;
};

class AttentionTest : public testing::TestWithParam<CpuIsa> {};
INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, testing::ValuesIn(AvailableIsas()), NameOfIsa);

TEST_P(AttentionTest, MatchesFloat64ForManyShapes) {
  const Shape shapes[] = {{9, 3, 64, 32}, {4, 4, 80, 16}, {4, 1, 128, 64},
                          {2, 2, 20, 8},  {6, 1, 8, 256}, {3, 1, 96, 128}};
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(testing::Message() << shape.num_heads << "/" << shape.num_kv_heads << " heads of "
                                    << shape.head_dim << ", block " << shape.block_size);
    World world(GetParam(), 2, shape, {70, 301}, 7);
    const auto rows = world.Step({{0, 0, 70}, {1, 0, 301}});
    for (const auto& [sequence, position, index] : {std::tuple{0, 0, 0},
                                                    {0, 63, 63},
                                                    {0, 64, 64},
                                                    {1, 7, 77},
                                                    {1, 255, 325},
                                                    {1, 300, 370}}) {
      const std::vector<double> expected = world.Reference(sequence, position);
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(rows[index][i], expected[i], 2e-6 * (1 + std::abs(expected[i])))
            << "sequence " << sequence << " position " << position << " element " << i;
      }
    }
  }
}

// The contract: chunks, company and threads change no bit.
TEST_P(AttentionTest, ChunksBatchesAndThreadsChangeNoBit) {
  const Shape shape = {6, 2, 48, 16};
  const std::vector<int32_t> lengths = {600, 37, 130};
  World whole(GetParam(), 1, shape, lengths, 11);
  const auto expected = whole.Step({{0, 0, 600}});

  for (int32_t num_threads = 1; num_threads <= 4; ++num_threads) {
    SCOPED_TRACE(testing::Message() << num_threads << " threads");
    World world(GetParam(), num_threads, shape, lengths, 11, /*table_seed=*/num_threads);
    std::mt19937 random(num_threads);
    world.Store({1, 0, 36});
    world.Store({2, 0, 100});
    for (int32_t first = 0; first < 600;) {
      const int32_t kinds[] = {1, 2, 65, 128, static_cast<int32_t>(random() % 90 + 1)};
      const int32_t count = std::min<int32_t>(kinds[random() % 5], 600 - first);
      std::vector<Part> parts = {{0, first, count}};
      size_t at = 0;
      if (random() % 2) parts.push_back({2, 100, 30});
      if (random() % 2) {
        parts.insert(parts.begin(), {1, 36, 1});
        at = 1;
      }
      const auto rows = world.Step(parts);
      for (int32_t i = 0; i < count; ++i) {
        ASSERT_EQ(rows[at + i], expected[first + i])
            << "position " << first + i << " in a chunk of " << count << " from " << first;
      }
      first += count;
    }
  }
}

// A lone long decode row is split over threads; it must equal the row of a prefill, which is not.
TEST_P(AttentionTest, SplitDecodeRowEqualsPrefillRow) {
  const Shape shape = {8, 2, 64, 32};
  World world(GetParam(), 4, shape, {1100}, 5);
  const auto prefill = world.Step({{0, 0, 1100}});
  for (int32_t position : {255, 256, 257, 511, 512, 1023, 1024, 1099}) {
    ASSERT_EQ(world.Step({{0, position, 1}})[0], prefill[position]) << "position " << position;
  }
}

// What lies behind a row in the cache must not touch it, not even an infinity.
TEST_P(AttentionTest, LaterPositionsAreNeverRead) {
  const Shape shape = {4, 2, 32, 16};
  World clean(GetParam(), 2, shape, {100}, 3);
  World dirty(GetParam(), 2, shape, {100}, 3);
  const auto expected = clean.Step({{0, 0, 100}});
  for (int32_t i = 4 * 32; i < dirty.row_size(); ++i) {
    dirty.row(0, 90)[i] =
        i % 2 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  }
  const auto rows = dirty.Step({{0, 0, 100}});
  for (int32_t p = 0; p < 90; ++p) ASSERT_EQ(rows[p], expected[p]) << "position " << p;
}

TEST_P(AttentionTest, OnePositionReturnsItsValue) {
  const Shape shape = {2, 1, 16, 8};
  World world(GetParam(), 1, shape, {1}, 9);
  const std::vector<float> out = world.Step({{0, 0, 1}})[0];
  for (int32_t i = 0; i < 32; ++i) {
    EXPECT_EQ(out[i], F16ToF32(F32ToF16(world.row(0, 0)[3 * 16 + i % 16])));
  }
}

}  // namespace
}  // namespace nibble
