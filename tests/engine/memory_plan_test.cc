#include "engine/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "engine/random_model.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGB = 1'000'000'000;
constexpr int64_t kKiB = 1024, kGiB = int64_t{1} << 30;

WeightFormat Format(absl::string_view name) { return ParseWeightFormat(name).value(); }
ModelConfig Shape(absl::string_view name) { return RandomShape(name).value(); }

// 32 layers of 32 heads of 128, every head with its own k and v: Llama 1 and 2 of 7B.
ModelConfig SevenB() {
  ModelConfig config;
  config.num_layers = 32;
  config.hidden_size = 4096;
  config.ffn_size = 11008;
  config.num_heads = config.num_kv_heads = 32;
  config.head_dim = 128;
  config.vocab_size = 32000;
  return config;
}

// The common claim: a 70B model takes 140 GB in FP16 and 35 GB in 4 bits. GB are 10^9, and the
// 35 GB are codes without a scale.
TEST(MemoryPlanTest, SeventyBillionParametersTake140GbIn16BitsAnd35In4) {
  EXPECT_EQ(PlanWeights(70 * kGB, Format("f16")).file_bytes, 140 * kGB);
  EXPECT_EQ(PlanWeights(70 * kGB, Format("16-bit")).file_bytes, 140 * kGB);
  EXPECT_EQ(PlanWeights(70 * kGB, Format("8-bit")).file_bytes, 70 * kGB);
  EXPECT_EQ(PlanWeights(70 * kGB, Format("4-bit")).file_bytes, 35 * kGB);
  // What 4 bits cost with their scales.
  EXPECT_EQ(PlanWeights(70 * kGB, Format("int4-sym-g128")).file_bytes, 36'093'750'000);
  EXPECT_EQ(PlanWeights(70 * kGB, Format("q4_k")).file_bytes, 39'375'000'000);
}

// The worked example: 32 layers, 32 heads of 128, 16 requests of 4096 tokens, FP16. KB, MB and GB
// there are 2^10, 2^20 and 2^30.
TEST(MemoryPlanTest, TheKvCacheOfTheExampleTakes32GiB) {
  const KvPlan plan = PlanKvCache(SevenB(), DType::kF16, 16, 4096);
  EXPECT_EQ(plan.layer_token_bytes, 16 * kKiB);
  EXPECT_EQ(plan.token_bytes, 512 * kKiB);
  EXPECT_EQ(plan.block_bytes, 16 * 512 * kKiB);
  EXPECT_EQ(plan.blocks_per_sequence, 256);
  EXPECT_EQ(plan.sequence_bytes, 2 * kGiB);
  EXPECT_EQ(16 * plan.sequence_bytes, 32 * kGiB);
}

TEST(MemoryPlanTest, GroupedQueriesDivideTheCacheByHeadsOverKvHeads) {
  ModelConfig grouped = SevenB();
  grouped.num_kv_heads = 8;
  EXPECT_EQ(PlanKvCache(grouped, DType::kF16, 16, 4096).token_bytes, 128 * kKiB);
}

TEST(MemoryPlanTest, OneByteTypesTakeHalfAndTheirScales) {
  const int64_t half = 256 * kKiB;
  for (DType type : {DType::kI8, DType::kF8E4M3}) {
    const int64_t bytes = PlanKvCache(SevenB(), type, 16, 4096).token_bytes;
    EXPECT_GT(bytes, half);
    EXPECT_LT(bytes, half * 105 / 100);
  }
}

TEST(MemoryPlanTest, ALastBlockThatIsPartlyUsedCountsWhole) {
  const KvPlan plan = PlanKvCache(SevenB(), DType::kF16, 16, 4097);
  EXPECT_EQ(plan.blocks_per_sequence, 257);
  EXPECT_EQ(plan.sequence_bytes, 257 * plan.block_bytes);
}

TEST(MemoryPlanTest, FitsWholeSequencesIntoWhatTheWeightsLeave) {
  const KvPlan kv = PlanKvCache(SevenB(), DType::kF16, 16, 4096);  // 2 GiB a sequence
  const FitPlan fit = PlanFit(24 * kGiB, 13 * kGiB, kv);
  EXPECT_EQ(fit.cache_bytes, 11 * kGiB);
  EXPECT_EQ(fit.num_blocks, 1408);
  EXPECT_EQ(fit.sequences, 5);
  EXPECT_EQ(PlanFit(13 * kGiB + 2 * kGiB, 13 * kGiB, kv).sequences, 1);
  EXPECT_EQ(PlanFit(13 * kGiB + 2 * kGiB - 1, 13 * kGiB, kv).sequences, 0);
  const FitPlan none = PlanFit(10 * kGiB, 13 * kGiB, kv);
  EXPECT_EQ(none.cache_bytes, -3 * kGiB);
  EXPECT_EQ(none.num_blocks, 0);
  EXPECT_EQ(none.sequences, 0);
}

// Published sizes; the random models, which are loaded for real, must have the same.
TEST(MemoryPlanTest, CountsTheParametersOfKnownModels) {
  EXPECT_EQ(NumParameters(SevenB()), 6'738'415'616);  // Llama 2 7B
  EXPECT_EQ(NumParameters(Shape("smollm2-135m")), 134'515'008);
  EXPECT_EQ(NumParameters(Shape("llama-3.2-1b")), 1'235'814'400);
  EXPECT_EQ(NumParameters(Shape("llama-3.1-8b")), 8'030'261'248);
  EXPECT_EQ(NumParameters(Shape("llama-3.1-70b")), 70'553'706'496);
  // Qwen2.5-0.5B: 494,032,768, with biases at q, k and v.
  ModelConfig qwen;
  qwen.num_layers = 24;
  qwen.hidden_size = 896;
  qwen.ffn_size = 4864;
  qwen.num_heads = 14;
  qwen.num_kv_heads = 2;
  qwen.head_dim = 64;
  qwen.vocab_size = 151936;
  qwen.tied_head = qwen.qkv_bias = true;
  EXPECT_EQ(NumParameters(qwen), 494'032'768);
}

// The same bytes as the tensors that a real source of that shape and format reports.
TEST(MemoryPlanTest, AgreesWithAModelThatIsMade) {
  const std::pair<const char*, const char*> formats[] = {
      {"bf16", "bf16"}, {"fp8", "e4m3-channel"}, {"fp8-block", "e4m3-block"}};
  for (const auto& [random, planned] : formats) {
    const std::string name = absl::StrCat("random:llama-3.2-1b:", random);
    const RandomModel model = ParseRandomModel(name).value();
    int64_t bytes = 0;
    for (const TensorReport& tensor : MakeRandomSource(model)->Report()) bytes += tensor.file_bytes;
    const WeightsPlan plan = PlanWeights(model.config, Format(planned)).value();
    EXPECT_EQ(plan.loaded_bytes, bytes) << random;
  }
}

TEST(MemoryPlanTest, BitsCountScalesAndNorms) {
  const ModelConfig shape = Shape("llama-3.1-8b");
  const auto bits = [&](absl::string_view name) {
    return PlanWeights(shape, Format(name))->bits_per_weight;
  };
  EXPECT_NEAR(bits("q8_0"), 8.5, 0.002);
  EXPECT_NEAR(bits("q6_k"), 6.5625, 0.002);
  EXPECT_NEAR(bits("q2_k"), 2.625, 0.002);
  EXPECT_NEAR(bits("int4-sym-g128"), 4.125, 0.002);
  EXPECT_NEAR(bits("nf4-b64"), 4.5, 0.002);
  EXPECT_NEAR(bits("nf4-b64-dq"), 4.127, 0.002);
}

TEST(MemoryPlanTest, WhatHasNoKernelIsLoadedWider) {
  const WeightsPlan f16 = PlanWeights(kGB, Format("F16"));
  EXPECT_EQ(f16.file_bytes, 2 * kGB);
  EXPECT_EQ(f16.loaded_bytes, 4 * kGB) << "not every f16 is a bf16";
  const WeightsPlan int3 = PlanWeights(kGB, Format("int3-sym-g128"));
  EXPECT_EQ(int3.file_bytes, kGB * 3125 / 8000);
  EXPECT_EQ(int3.loaded_bytes, kGB * 4125 / 8000);
  EXPECT_EQ(PlanWeights(kGB, Format("q4_k")).loaded_bytes,
            PlanWeights(kGB, Format("q4_k")).file_bytes);
}

TEST(MemoryPlanTest, RowsThatAreNoWholeGroupsAreRefusedByName) {
  const absl::Status status = PlanWeights(Shape("smollm2-135m"), Format("q4_k")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("q4_k has blocks of 256 weights, the shape has rows of 576"));
  EXPECT_EQ(PlanWeights(Shape("smollm2-135m"), Format("int4-sym-g128")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(MemoryPlanTest, FormatsThatAreNoneAreQuoted) {
  for (const char* name : {"", "0-bit", "33-bit", "x-bit", "q4_z", "int9-sym-g128", "iq2_xxs"}) {
    const absl::Status status = ParseWeightFormat(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("found \"", name, "\"")));
  }
}

}  // namespace
}  // namespace nibble
