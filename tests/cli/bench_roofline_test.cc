#include "cli/bench_roofline.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

// Numbers whose digits show where they went.
ModelCost Cost() {
  ModelCost cost;
  cost.layer_bytes = 1000000;
  cost.head_bytes = 200000;
  cost.kv_bytes = 10;
  cost.layer_macs = 1000;
  cost.head_macs = 1;
  cost.attention_macs = 100;
  return cost;
}

TEST(CostOfTest, CountsEveryMatrixOfSmolLm2) {
  ModelConfig config;
  config.num_layers = 30;
  config.hidden_size = 576;
  config.ffn_size = 1536;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.vocab_size = 49152;
  RunnerBytes bytes;
  bytes.layers = 5;
  bytes.head = 6;
  const ModelCost cost = CostOf(config, bytes, 7);
  // 134,515,008 parameters with the tied embedding and 61 norms of 576.
  EXPECT_EQ(cost.layer_macs + cost.head_macs, 134515008 - 61 * 576);
  EXPECT_EQ(cost.head_macs, 49152 * 576);
  EXPECT_EQ(cost.attention_macs, 30 * 9 * 64 * 2);
  EXPECT_EQ(cost.layer_bytes, 5);
  EXPECT_EQ(cost.head_bytes, 6);
  EXPECT_EQ(cost.kv_bytes, 7);
}

TEST(DecodeCostTest, WeightsOnceAStepAndCachesGrowing) {
  const PassCost pass = DecodeCost(Cost(), 2, 5, 3);
  // Positions read by a sequence: 6, 7, 8; written: 1 each.
  EXPECT_EQ(pass.bytes, 3 * 1200000 + 2 * (6 + 7 + 8 + 3) * 10);
  EXPECT_EQ(pass.linear_macs, 2 * 3 * 1001);
  EXPECT_EQ(pass.attention_macs, 2 * (6 + 7 + 8) * 100);
}

TEST(PrefillCostTest, TheHeadCountsWhereATokenIsDrawn) {
  // Two prompts of 3 in steps of 4: (3, 1), (0, 2). Both steps draw a token.
  const PassCost pass = PrefillCost(Cost(), 2, 3, 4);
  EXPECT_EQ(pass.bytes, 2 * 1200000 + (6 + 2 + 5) * 10);
  EXPECT_EQ(pass.linear_macs, 6 * 1000 + 2);
  EXPECT_EQ(pass.attention_macs, 2 * (1 + 2 + 3) * 100);
  // One prompt of 8 in steps of 4: only the second draws.
  EXPECT_EQ(PrefillCost(Cost(), 1, 8, 4).bytes, 2000000 + 200000 + (8 + 12) * 10);
}

TEST(PrefillCostTest, ChunksChangeBytesAndNoMultiplyAdds) {
  const PassCost whole = PrefillCost(Cost(), 1, 64, 64), chunks = PrefillCost(Cost(), 1, 64, 16);
  EXPECT_EQ(whole.linear_macs, chunks.linear_macs);
  EXPECT_EQ(whole.attention_macs, chunks.attention_macs);
  EXPECT_LT(whole.bytes, chunks.bytes);
}

TEST(RooflineOfTest, SharesAreOfTheMeasuredLimits) {
  MachinePeaks peaks;
  peaks.bandwidth_bytes_per_s = 40e9;
  peaks.memory_bytes_per_s = 10e9;
  peaks.int8_macs_per_s = 400e9;
  peaks.f32_macs_per_s = 100e9;
  peaks.attention_macs_per_s = 200e9;
  const PassCost pass{
      .bytes = 20000000000, .linear_macs = 80000000000, .attention_macs = 20000000000};
  const Roofline roofline = RooflineOf(pass, 100, 2.0, peaks, CpuActivations::kInt8);
  EXPECT_DOUBLE_EQ(roofline.gb_per_s, 10);
  EXPECT_DOUBLE_EQ(roofline.bandwidth_share, 0.25);
  EXPECT_DOUBLE_EQ(roofline.gmac_per_s, 50);
  EXPECT_DOUBLE_EQ(roofline.peak_share, (0.2 + 0.1) / 2);
  EXPECT_DOUBLE_EQ(roofline.bytes_per_token, 2e8);
  EXPECT_DOUBLE_EQ(roofline.macs_per_token, 1e9);
  const Roofline exact = RooflineOf(pass, 100, 2.0, peaks, CpuActivations::kF32);
  EXPECT_DOUBLE_EQ(exact.peak_share, (0.8 + 0.1) / 2);
}

}  // namespace
}  // namespace nibble
