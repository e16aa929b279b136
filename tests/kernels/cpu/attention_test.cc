// Attention against float64, and the contract that nothing around a token changes a bit of its
// output.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "tests/kernels/cpu/attention_world.h"

namespace nibble {
namespace {

class AttentionTest : public testing::TestWithParam<std::tuple<CpuIsa, DType>> {
 protected:
  static std::pair<CpuIsa, DType> Kind() { return {std::get<0>(GetParam()), Type()}; }
  static DType Type() { return std::get<1>(GetParam()); }
  static DType Products() {
    return ChooseAttention(std::get<0>(GetParam()), CpuActivations::kInt8).products;
  }
  static void ExpectNear(World& world, const std::vector<float>& row, int32_t sequence,
                         int32_t position) {
    const std::vector<Expected> expected = world.Reference(sequence, position);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(row[i], expected[i].value, world.Tolerance(expected[i]))
          << "sequence " << sequence << " position " << position << " element " << i;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(IsaAndType, AttentionTest,
                         testing::Combine(testing::ValuesIn(AvailableIsas()),
                                          testing::ValuesIn(kCacheTypes)),
                         [](const auto& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  NameOfType(std::get<1>(info.param));
                         });

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
      ExpectNear(world, rows[index], sequence, position);
    }
  }
}

// From one row to a whole piece, on both sides of where rows get a tile, with contexts that end at
// odd and even places.
TEST_P(AttentionTest, MatchesFloat64ForAnyNumberOfRows) {
  for (const int32_t head_dim : {32, 64, 128}) {
    const Shape shape = {1, 1, head_dim, 32};
    World world(Kind(), 1, shape, {230}, 21);
    world.Store({0, 0, 230});
    for (const int32_t count : {1, 2, 3, 8, 9, 96}) {
      for (const int32_t end : {count, 97, 230}) {
        if (count > end) continue;
        SCOPED_TRACE(testing::Message() << count << " rows up to " << end << " of " << head_dim);
        const auto rows = world.Step({{0, end - count, count}});
        ExpectNear(world, rows.front(), 0, end - count);
        ExpectNear(world, rows.back(), 0, end - 1);
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

// A block of 8 is read in pieces that no vector fits.
TEST_P(AttentionTest, BlockSizesChangeNoBit) {
  std::vector<std::vector<float>> expected;
  for (const int32_t block_size : {32, 8, 16, 64, 256}) {
    World world(Kind(), 2, {6, 2, 64, block_size}, {150}, 17);
    auto rows = world.Step({{0, 0, 140}});
    for (const Part& part : {Part{0, 140, 1}, Part{0, 141, 2}, Part{0, 143, 7}}) {
      for (auto& row : world.Step({part})) rows.push_back(std::move(row));
    }
    if (expected.empty()) expected = rows;
    for (size_t p = 0; p < rows.size(); ++p) {
      ASSERT_EQ(rows[p], expected[p]) << "position " << p << ", blocks of " << block_size;
    }
  }
}

// What lies behind a row in the cache must not touch it, not even an infinity: whether it shares a
// pair with what the row sees or not, and whether there are rows enough for a tile or not.
TEST_P(AttentionTest, LaterPositionsAreNeverRead) {
  const Shape shape = {4, 2, 32, 16};
  for (const int32_t poisoned : {90, 91}) {
    World clean(Kind(), 2, shape, {100}, 3);
    World dirty(Kind(), 2, shape, {100}, 3);
    const auto expected = clean.Step({{0, 0, 100}});
    for (int32_t i = 4 * 32; i < dirty.row_size(); ++i) {
      dirty.row(0, poisoned)[i] =
          i % 2 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    }
    const auto rows = dirty.Step({{0, 0, 100}});
    for (int32_t p = 0; p < poisoned; ++p) ASSERT_EQ(rows[p], expected[p]) << "position " << p;
    const auto few = dirty.Step({{0, 88, 4}});
    for (int32_t p = 88; p < poisoned; ++p) ASSERT_EQ(few[p - 88], expected[p]) << "row at " << p;
  }
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
  // bf16 rounds v, or its scale.
  const double rounding = Products() == DType::kBf16 ? 0x1p-8 : 1e-7;
  for (int32_t i = 0; i < 32; ++i) EXPECT_NEAR(out[i], v[i % 16], rounding * std::abs(v[i % 16]));
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
