// Attention against float64, and the contract that nothing around a token changes a bit of its
// output.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "kernels/half.h"
#include "tests/kernels/cpu/op_fixture.h"

namespace nibble {
namespace {

struct Shape {
  int32_t num_heads, num_kv_heads, head_dim, block_size;
};

constexpr DType kCacheTypes[] = {DType::kF16, DType::kBf16, DType::kI8, DType::kF8E4M3};

std::string NameOfType(DType type) {
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

// The value of an e4m3 code, by the format's definition (OCP OFP8: bias 7, no infinities).
double E4m3(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  return exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
}

// Of a magnitude: the nearest code's value, the even code where two are as near.
double NearestE4m3(double x) {
  int best = 0;
  for (int code = 1; code <= 0x7E; ++code) {
    const double gain = std::abs(x - E4m3(best)) - std::abs(x - E4m3(code));
    if (gain > 0 || (gain == 0 && code % 2 == 0)) best = code;
  }
  return E4m3(best);
}

// What a cache of that type makes of a row, written from KvLayer's words alone.
std::vector<double> Cached(DType type, const float* x, int32_t n) {
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

struct Part {  // rows first .. first + count - 1 of a sequence
  int32_t sequence, first, count;
};

// A cache and some sequences with random q, k, v, at random blocks.
class World {
 public:
  World(std::pair<CpuIsa, DType> kind, int32_t num_threads, Shape shape,
        std::vector<int32_t> lengths, uint32_t seed, uint32_t table_seed = 1)
      : type_(kind.second),
        shape_(shape),
        lengths_(std::move(lengths)),
        backend_(MakeBackend(kind.first, num_threads)) {
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

  // The definition, in float64 over what the cache holds.
  std::vector<double> Reference(int32_t sequence, int32_t position) {
    const int32_t head_dim = shape_.head_dim;
    const auto cached = [&](int32_t p, int32_t head) {
      return Cached(type_, row(sequence, p) + head * head_dim, head_dim);
    };
    std::vector<double> out(out_size());
    const int32_t group = shape_.num_heads / shape_.num_kv_heads;
    for (int32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
      std::vector<std::vector<double>> k, v;
      for (int32_t p = 0; p <= position; ++p) {
        k.push_back(cached(p, shape_.num_heads + kv_head));
        v.push_back(cached(p, shape_.num_heads + shape_.num_kv_heads + kv_head));
      }
      for (int32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        const float* q = row(sequence, position) + h * head_dim;
        std::vector<double> weights;
        double sum = 0;
        for (const auto& x : k) {
          weights.push_back(std::inner_product(x.begin(), x.end(), q, 0.0) * scale());
        }
        const double top = *std::max_element(weights.begin(), weights.end());
        for (double& weight : weights) sum += weight = std::exp(weight - top);
        for (int32_t p = 0; p <= position; ++p) {
          for (int32_t d = 0; d < head_dim; ++d)
            out[h * head_dim + d] += weights[p] / sum * v[p][d];
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

  DType type_;
  Shape shape_;
  std::vector<int32_t> lengths_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::vector<float>> qkv_;
  std::vector<std::vector<int32_t>> tables_;
  int32_t max_blocks_;
  DeviceBuffer k_, v_;
  KvLayer cache_;
};

class AttentionTest : public testing::TestWithParam<std::tuple<CpuIsa, DType>> {
 protected:
  static std::pair<CpuIsa, DType> Kind() { return {std::get<0>(GetParam()), Type()}; }
  static DType Type() { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(IsaAndType, AttentionTest,
                         testing::Combine(testing::ValuesIn(AvailableIsas()),
                                          testing::ValuesIn(kCacheTypes)),
                         [](const auto& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  NameOfType(std::get<1>(info.param));
                         });

// f32 sums of up to 301 terms, and weights by a polynomial within 3e-7.
TEST_P(AttentionTest, MatchesFloat64OfTheCacheForManyShapes) {
  const Shape shapes[] = {{9, 3, 64, 32}, {4, 4, 80, 16},  {4, 1, 128, 64}, {2, 2, 20, 8},
                          {6, 1, 8, 256}, {3, 1, 96, 128}, {5, 1, 33, 16}};
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(testing::Message() << shape.num_heads << "/" << shape.num_kv_heads << " heads of "
                                    << shape.head_dim << ", block " << shape.block_size);
    World world(Kind(), 2, shape, {70, 301}, 7);
    const auto rows = world.Step({{0, 0, 70}, {1, 0, 301}});
    for (const auto& [sequence, position, index] : {std::tuple{0, 0, 0},
                                                    {0, 63, 63},
                                                    {0, 64, 64},
                                                    {1, 7, 77},
                                                    {1, 255, 325},
                                                    {1, 256, 326},
                                                    {1, 300, 370}}) {
      const std::vector<double> expected = world.Reference(sequence, position);
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(rows[index][i], expected[i], 3e-6 * (1 + std::abs(expected[i])))
            << "sequence " << sequence << " position " << position << " element " << i;
      }
    }
  }
}

// The contract: chunks, company and threads change no bit.
TEST_P(AttentionTest, ChunksBatchesAndThreadsChangeNoBit) {
  const Shape shape = {6, 2, 48, 16};
  const std::vector<int32_t> lengths = {600, 37, 130};
  World whole(Kind(), 1, shape, lengths, 11);
  const auto expected = whole.Step({{0, 0, 600}});

  for (int32_t num_threads = 1; num_threads <= 4; ++num_threads) {
    SCOPED_TRACE(testing::Message() << num_threads << " threads");
    World world(Kind(), num_threads, shape, lengths, 11, /*table_seed=*/num_threads);
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

// Few rows read the cache's own lines, many a widened tile, and a lone long row is split over
// threads; groups of every size of row block, heads and blocks that vectors fit and do not fit.
TEST_P(AttentionTest, DecodeRowsEqualPrefillRows) {
  for (const Shape& shape : {Shape{8, 8, 64, 32},
                             {4, 2, 64, 32},
                             {9, 3, 64, 64},
                             {4, 1, 64, 256},
                             {7, 1, 128, 16},
                             {8, 1, 32, 8},
                             {3, 3, 40, 32}}) {
    SCOPED_TRACE(testing::Message() << shape.num_heads << "/" << shape.num_kv_heads << " heads of "
                                    << shape.head_dim << ", block " << shape.block_size);
    World world(Kind(), 4, shape, {530}, 5);
    const auto prefill = world.Step({{0, 0, 530}});
    for (int32_t position : {0, 15, 63, 64, 100, 255, 256, 257, 511, 512, 528}) {
      ASSERT_EQ(world.Step({{0, position, 1}})[0], prefill[position]) << "position " << position;
      const auto two = world.Step({{0, position, 2}});
      ASSERT_EQ(two[0], prefill[position]) << "the first of two at " << position;
      ASSERT_EQ(two[1], prefill[position + 1]) << "the second of two at " << position;
    }
  }
}

// What lies behind a row in the cache must not touch it, not even an infinity.
TEST_P(AttentionTest, LaterPositionsAreNeverRead) {
  const Shape shape = {4, 2, 32, 16};
  World clean(Kind(), 2, shape, {100}, 3);
  World dirty(Kind(), 2, shape, {100}, 3);
  const auto expected = clean.Step({{0, 0, 100}});
  for (int32_t i = 4 * 32; i < dirty.row_size(); ++i) {
    dirty.row(0, 90)[i] =
        i % 2 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  }
  const auto rows = dirty.Step({{0, 0, 100}});
  for (int32_t p = 0; p < 90; ++p) ASSERT_EQ(rows[p], expected[p]) << "position " << p;
}

// A broken q, k or v stays in its sequence, and there it is seen.
TEST_P(AttentionTest, NanAndInfinityStayInTheirSequence) {
  const Shape shape = {6, 2, 64, 32};
  const std::vector<Part> parts = {{0, 99, 1}, {1, 0, 70}, {2, 69, 1}};
  constexpr int32_t kQ = 5, kK = 6 * 64 + 5, kV = 8 * 64 + 5;
  const auto run = [&](int32_t column, float poison) {
    World world(Kind(), 2, shape, {100, 70, 70}, 13);
    world.row(1, 40)[kQ] = 1;  // an infinite k is then an infinite score, not a weight of 0
    if (column >= 0) world.row(1, 40)[column] = poison;
    world.Store({0, 0, 100});
    world.Store({2, 0, 70});
    return world.Step(parts);
  };
  const auto expected = run(-1, 0);
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const int32_t column : {kQ, kK, kV}) {
      const auto rows = run(column, poison);
      ASSERT_EQ(rows[0], expected[0]);
      ASSERT_EQ(rows[71], expected[71]);
      for (int32_t p = 0; p < 40; ++p) ASSERT_EQ(rows[1 + p], expected[1 + p]) << p;
      // Head 0 is of kv head 0. An infinite v is an infinite sum, where it is not a NaN.
      EXPECT_FALSE(std::isfinite(rows[1 + 40][5])) << "column " << column << " of " << poison;
    }
  }
}

TEST_P(AttentionTest, OnePositionReturnsItsValue) {
  const Shape shape = {2, 1, 16, 8};
  World world(Kind(), 1, shape, {1}, 9);
  const std::vector<float> out = world.Step({{0, 0, 1}})[0];
  const std::vector<double> v = Cached(Type(), world.row(0, 0) + 3 * 16, 16);
  for (int32_t i = 0; i < 32; ++i) EXPECT_FLOAT_EQ(out[i], static_cast<float>(v[i % 16]));
}

// Rows of zeros and of values too small for a scale come back as zeros.
TEST_P(AttentionTest, RowsOfNothingAreZeros) {
  World world(Kind(), 1, {1, 1, 32, 32}, {2}, 9);
  std::fill_n(world.row(0, 0) + 32, 64, 0.0f);
  std::fill_n(world.row(0, 1) + 32, 64, -1e-38f);
  for (const auto& row : world.Step({{0, 0, 2}})) {
    for (float x : row) EXPECT_NEAR(x, 0, 1e-37);
  }
}

}  // namespace
}  // namespace nibble
