// Decode attention on the emulator: against float64 for lengths around tiles and splits, groups of
// heads, head sizes and block sizes; the same bits in any batch and order; and what it asks of
// memory.
#include "kernels/cuda/decode_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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

class DecodeShapeTest : public testing::TestWithParam<ShapeCase> {};

// Lengths that end within, at, and after a warp's 16, a tile's 64 and a split's 256 positions.
TEST_P(DecodeShapeTest, EqualsFloat64) {
  const AttentionWorld world(GetParam().shape, {1, 15, 16, 17, 63, 64, 65, 130, 255, 256, 257, 520},
                             5);
  const std::vector<Chunk> rows = world.LastRows();
  const Shape& shape = GetParam().shape;
  const double error =
      RelativeError(ToDoubles(shape.dtype, world.Decode(rows)), world.Expected(rows));
  EXPECT_LT(
      Measured("decode_attention", std::string(TypeOf(shape.cache)) + " cache", shape.dtype, error),
      kTolerance);
}

INSTANTIATE_TEST_SUITE_P(
    Each, DecodeShapeTest,
    testing::Values(
        ShapeCase{"OneHead", {.num_heads = 1}},
        ShapeCase{"SmolLm", {.num_heads = 9, .num_kv_heads = 3, .block_size = 32}},
        ShapeCase{"SmallHeads", {.num_heads = 8, .num_kv_heads = 2, .head_dim = 32}},
        ShapeCase{"Llama", {.num_heads = 8, .num_kv_heads = 2, .head_dim = 128}},
        ShapeCase{"EightHeadsAGroup", {.num_heads = 8}},
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

TEST(DecodeAttention, GivesASequenceTheSameBitsInAnyBatch) {
  const Shape shape{.num_heads = 6, .num_kv_heads = 2};
  const std::vector<int32_t> lengths = {3, 300, 64, 700};
  const AttentionWorld world(shape, lengths, 9);
  const std::vector<uint16_t> all = world.Decode(world.LastRows());
  for (size_t s = 0; s < lengths.size(); ++s) {
    const AttentionWorld alone(shape, {lengths[s]}, 77);  // at other blocks, too
    EXPECT_EQ(alone.Decode(alone.LastRows()), world.RowOf(all, s)) << lengths[s];
  }
}

TEST(DecodeAttention, GivesTheSameBitsInEveryOrderOfBlocksAndThreads) {
  const AttentionWorld world({.num_heads = 8, .num_kv_heads = 2}, {700, 257}, 3);
  const std::vector<uint16_t> expected = world.Decode(world.LastRows());
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    TheGpu().SetSeed(seed);
    EXPECT_EQ(world.Decode(world.LastRows(), 2), expected) << "seed " << seed;
  }
  TheGpu().SetSeed(0);
}

TEST(DecodeAttention, AsksForTheBytesItNeedsWithoutConflicts) {
  for (const auto& [dim, cache] : {std::pair(64, DType::kBf16), std::pair(128, DType::kBf16),
                                   std::pair(64, DType::kI8), std::pair(128, DType::kF8E4M3)}) {
    SCOPED_TRACE(dim);
    SCOPED_TRACE(SizeOf(cache));
    const AttentionWorld world({.cache = cache, .num_heads = 4, .head_dim = dim, .block_size = 32},
                               {1024, 512}, 3);
    TheGpu().ResetCounts();
    world.Decode(world.LastRows());
    const emulator::Counts counts = TheGpu().counts();
    EXPECT_LE(counts.GlobalExcess(), 1.02);
    EXPECT_EQ(counts.bank_conflicts, 0u) << std::hex << counts.worst_conflict_site;
    // Of an H100's multiprocessor: as many blocks as registers (kernels/cuda/budgets.json) and
    // shared memory let it hold, each with two stages open.
    const uint64_t blocks = std::min<uint64_t>(4, (228 << 10) / (counts.shared_bytes + 1024));
    EXPECT_GE(blocks, 3u);
    EXPECT_GE(blocks * counts.bytes_in_flight, 64u * 1024);
  }
}

TEST(DecodeAttention, RefusesCallsItWouldGetWrong) {
  const DeviceArray<uint16_t> memory(std::vector<uint16_t>(4096, 0));
  const DecodeAttention good{.q = memory.data(),
                             .q_stride = 64,
                             .num_seqs = 1,
                             .num_heads = 1,
                             .num_kv_heads = 1,
                             .head_dim = 64,
                             .k = memory.data(),
                             .v = memory.data(),
                             .block_size = 16,
                             .max_blocks = 1,
                             .max_context = 16,
                             .workspace = memory.data()};
  const auto error = [&](auto change) {
    DecodeAttention call = good;
    change(call);
    return LaunchDecodeAttention(call, nullptr);
  };
  EXPECT_EQ(error([](DecodeAttention& c) { c.head_dim = 96; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](DecodeAttention& c) { c.num_kv_heads = 2; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](DecodeAttention& c) { c.num_seqs = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](DecodeAttention& c) { c.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](DecodeAttention& c) { c.cache_dtype = DType::kF16; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](DecodeAttention& c) {
              c.cache_dtype = DType::kI8;
              c.block_size = 6;
            }),
            cudaErrorInvalidValue);
  EXPECT_EQ(error([](DecodeAttention& c) { c.workspace = nullptr; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](DecodeAttention& c) { c.k = memory.data() + 1; }), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble::cuda
