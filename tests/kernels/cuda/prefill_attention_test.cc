// Prefill attention on the emulator: against float64 for chunks around tiles, splits and blocks of
// columns; the same bits for a row however its prompt is chunked, among any neighbours, and from
// the decode kernel; and what it asks of memory.
#include "kernels/cuda/prefill_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "attention_world.h"
#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "measured_error.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;

struct ShapeCase {
  std::string name;
  Shape shape;
};

class PrefillShapeTest : public testing::TestWithParam<ShapeCase> {};

// A whole prompt, the middle of one, a single row, a chunk over two splits, and one of few rows
// far in.
TEST_P(PrefillShapeTest, EqualsFloat64) {
  const AttentionWorld world(GetParam().shape, {1, 70, 90, 200, 300, 520}, 5);
  const std::vector<Chunk> chunks = {{0, 0, 1},     {1, 0, 70},    {2, 17, 65},
                                     {3, 199, 200}, {4, 240, 300}, {5, 510, 515}};
  const Shape& shape = GetParam().shape;
  const double error =
      RelativeError(ToDoubles(shape.dtype, world.Prefill(chunks)), world.Expected(chunks));
  EXPECT_LT(Measured("prefill_attention", std::string(TypeOf(shape.cache)) + " cache", shape.dtype,
                     error),
            kTolerance);
}

// Against the same rows, each decoded by itself.
TEST_P(PrefillShapeTest, GivesRowsTheBitsThatDecodeGivesThem) {
  const AttentionWorld world(GetParam().shape, {90, 300}, 6);
  const std::vector<Chunk> chunks = {{0, 50, 90}, {1, 245, 270}};
  const std::vector<uint16_t> prefilled = world.Prefill(chunks);
  size_t row = 0;
  for (const Chunk& chunk : chunks) {
    for (int32_t p = chunk.begin; p < chunk.end; ++p, ++row) {
      if (p % 3 != 0 && p != 255) continue;
      ASSERT_EQ(world.Decode({{chunk.sequence, p, p + 1}}), world.RowOf(prefilled, row))
          << "sequence " << chunk.sequence << " position " << p;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Each, PrefillShapeTest,
    testing::Values(
        ShapeCase{"OneHead", {.num_heads = 1}},
        ShapeCase{"SmolLm", {.num_heads = 9, .num_kv_heads = 3, .block_size = 32}},
        ShapeCase{"SmallHeads", {.num_heads = 8, .num_kv_heads = 2, .head_dim = 32}},
        ShapeCase{"Llama", {.num_heads = 8, .num_kv_heads = 2, .head_dim = 128}},
        ShapeCase{"TwelveHeadsAGroup", {.num_heads = 12, .block_size = 7}},
        ShapeCase{"F16",
                  {.dtype = DType::kF16, .cache = DType::kF16, .num_heads = 6, .num_kv_heads = 2}},
        ShapeCase{"F16OfDim128",
                  {.dtype = DType::kF16, .cache = DType::kF16, .head_dim = 128, .block_size = 64}},
        ShapeCase{"Int8", {.cache = DType::kI8, .num_heads = 6, .num_kv_heads = 2}},
        ShapeCase{"Int8OfDim128", {.cache = DType::kI8, .head_dim = 128}},
        ShapeCase{"Int8OfSmallHeads", {.cache = DType::kI8, .head_dim = 32}},
        ShapeCase{"Int8F16", {.dtype = DType::kF16, .cache = DType::kI8}},
        ShapeCase{"Fp8", {.cache = DType::kF8E4M3, .num_heads = 6, .num_kv_heads = 2}},
        ShapeCase{"Fp8OfDim128", {.cache = DType::kF8E4M3, .head_dim = 128}},
        ShapeCase{
            "Fp8F16OfDim128",
            {.dtype = DType::kF16, .cache = DType::kF8E4M3, .head_dim = 128, .block_size = 12}}),
    [](const auto& info) { return info.param.name; });

TEST(PrefillAttention, GivesARowTheSameBitsHoweverItsPromptIsChunked) {
  const AttentionWorld world({.num_heads = 6, .num_kv_heads = 2}, {330}, 9);
  const std::vector<uint16_t> whole = world.Prefill({{0, 0, 330}});
  for (const std::vector<int32_t>& cuts :
       {std::vector<int32_t>{0, 64, 128, 330}, {0, 1, 257, 258, 330}, {0, 255, 300, 330}}) {
    std::vector<uint16_t> chunked;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const std::vector<uint16_t> rows = world.Prefill({{0, cuts[i], cuts[i + 1]}});
      chunked.insert(chunked.end(), rows.begin(), rows.end());
    }
    EXPECT_EQ(chunked, whole) << "the first cut is " << cuts[1];
  }
}

TEST(PrefillAttention, GivesASequenceTheSameBitsInAnyBatch) {
  const Shape shape{.num_heads = 6, .num_kv_heads = 2};
  const std::vector<int32_t> lengths = {3, 300, 64, 150};
  const AttentionWorld world(shape, lengths, 9);
  const std::vector<Chunk> chunks = {{0, 0, 3}, {1, 200, 300}, {2, 63, 64}, {3, 0, 150}};
  const std::vector<uint16_t> all = world.Prefill(chunks);
  size_t row = 0;
  for (const Chunk& chunk : chunks) {
    const AttentionWorld alone(shape, {lengths[chunk.sequence]}, 77);  // at other blocks, too
    const std::vector<uint16_t> rows = alone.Prefill({{0, chunk.begin, chunk.end}});
    for (int32_t i = 0; i < chunk.end - chunk.begin; ++i, ++row)
      ASSERT_EQ(alone.RowOf(rows, i), world.RowOf(all, row)) << chunk.sequence << " row " << i;
  }
}

// Where no row of a batch has anything to do the launch goes on without it.
TEST(PrefillAttention, LeavesOutSequencesWithoutRows) {
  const AttentionWorld world({}, {40, 30}, 2);
  EXPECT_EQ(world.Prefill({{0, 40, 40}, {1, 10, 30}}), world.Prefill({{1, 10, 30}}));
}

TEST(PrefillAttention, GivesTheSameBitsInEveryOrderOfBlocksAndThreads) {
  const AttentionWorld world({.num_heads = 8, .num_kv_heads = 2}, {300, 100}, 3);
  const std::vector<Chunk> chunks = {{0, 220, 300}, {1, 0, 100}};
  const std::vector<uint16_t> expected = world.Prefill(chunks);
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    TheGpu().SetSeed(seed);
    EXPECT_EQ(world.Prefill(chunks), expected) << "seed " << seed;
  }
  TheGpu().SetSeed(0);
}

TEST(PrefillAttention, AsksForTheBytesItNeedsWithoutConflicts) {
  for (const auto& [dim, cache] : {std::pair(64, DType::kBf16), std::pair(128, DType::kBf16),
                                   std::pair(64, DType::kI8), std::pair(128, DType::kF8E4M3)}) {
    SCOPED_TRACE(dim);
    SCOPED_TRACE(SizeOf(cache));
    const AttentionWorld world({.cache = cache, .num_heads = 4, .head_dim = dim, .block_size = 32},
                               {512}, 3);
    TheGpu().ResetCounts();
    world.Prefill({{0, 448, 512}});
    const emulator::Counts counts = TheGpu().counts();
    EXPECT_LE(counts.GlobalExcess(), 1.02);
    EXPECT_EQ(counts.bank_conflicts, 0u) << std::hex << counts.worst_conflict_site;
    // One block fits a multiprocessor of every device from sm_80 on: sm_89 lends a block 99 KB.
    EXPECT_LE(counts.shared_bytes, 99u * 1024);
  }
}

TEST(PrefillAttention, RefusesCallsItWouldGetWrong) {
  const DeviceArray<uint16_t> memory(std::vector<uint16_t>(4096, 0));
  const PrefillAttention good{.q = memory.data(),
                              .q_stride = 64,
                              .num_seqs = 1,
                              .num_heads = 1,
                              .num_kv_heads = 1,
                              .head_dim = 64,
                              .k = memory.data(),
                              .v = memory.data(),
                              .block_size = 16,
                              .max_blocks = 1,
                              .max_rows = 1,
                              .out = memory.data(),
                              .out_stride = 64};
  const auto error = [&](auto change) {
    PrefillAttention call = good;
    change(call);
    return LaunchPrefillAttention(call, nullptr);
  };
  EXPECT_EQ(error([](PrefillAttention& c) { c.head_dim = 96; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](PrefillAttention& c) { c.num_kv_heads = 2; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](PrefillAttention& c) { c.num_heads = 129; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](PrefillAttention& c) { c.max_rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](PrefillAttention& c) { c.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](PrefillAttention& c) { c.cache_dtype = DType::kF16; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](PrefillAttention& c) {
              c.cache_dtype = DType::kI8;
              c.block_size = 6;
            }),
            cudaErrorInvalidValue);
  EXPECT_EQ(error([](PrefillAttention& c) { c.q_stride = 60; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](PrefillAttention& c) { c.k = memory.data() + 1; }), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble::cuda
