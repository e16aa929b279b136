#include "kernels/cpu/step_ops.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "tests/kernels/cpu/op_fixture.h"

namespace nibble::cpu {
namespace {

// Never looked into.
const PackedMatrix* Weight(int number) {
  return reinterpret_cast<const PackedMatrix*>(number * 64);
}

TEST(StepOpsTest, ListsOfWeightsNeedNotOutliveTheCall) {
  StepOps step;
  for (int round = 0; round < 2; ++round) {
    step.Clear();
    for (int i = 0; i < 50; ++i) {
      std::vector<const PackedMatrix*> weights;
      for (int w = 0; w <= i % 3; ++w) weights.push_back(Weight(1 + 3 * i + w));
      step.Add(LinearParams{.weights = weights});
      step.Add(LayerCount{});
    }
    const absl::Span<const StepOp> ops = step.Take();
    ASSERT_EQ(ops.size(), 100u);
    for (int i = 0; i < 50; ++i) {
      const auto& weights = std::get<LinearParams>(ops[2 * i]).weights;
      ASSERT_EQ(weights.size(), static_cast<size_t>(1 + i % 3));
      for (int w = 0; w <= i % 3; ++w) EXPECT_EQ(weights[w], Weight(1 + 3 * i + w));
    }
  }
}

TEST(StepOpsTest, RowsAreThoseThatAnOpCanBeCutBetween) {
  std::vector<float> x(40);
  const Tensor rows = nibble::RowsOf(x, 5, 8);
  EXPECT_EQ(RowsOf(EmbedParams{.out = rows}), 5);
  EXPECT_EQ(RowsOf(RmsNormParams{.x = rows}), 5);
  EXPECT_EQ(RowsOf(LinearParams{.x = rows}), 5);
  EXPECT_EQ(RowsOf(RopeStoreKvParams{.qkv = rows}), 5);
  EXPECT_EQ(RowsOf(AttentionParams{.q = rows}), 5);
  EXPECT_EQ(RowsOf(GatedActivationParams{.out = rows}), 5);
  EXPECT_EQ(RowsOf(GatherRowsParams{.out = rows}), -1);
  EXPECT_EQ(RowsOf(SampleParams{.logits = rows}), -1);
  EXPECT_EQ(RowsOf(LayerCount{}), 0);
}

// Rows 2 and 3 of 5.
TEST(StepOpsTest, ASliceHasItsRowsOnly) {
  std::vector<float> x(40), y(20);
  const std::vector<int32_t> numbers(5);
  const Tensor in = nibble::RowsOf(x, 5, 8), out = nibble::RowsOf(y, 5, 4);
  const auto is_cut = [](const Tensor& slice, const Tensor& whole) {
    EXPECT_EQ(slice.data, whole.f32_row(2));
    EXPECT_EQ(slice.rows, 2);
    EXPECT_EQ(slice.cols, whole.cols);
    EXPECT_EQ(slice.stride, whole.stride);
  };
  const EmbedParams embed = RowSlice(EmbedParams{.ids = numbers.data(), .out = out}, 2, 4);
  EXPECT_EQ(embed.ids, numbers.data() + 2);
  is_cut(embed.out, out);
  const RmsNormParams norm = RowSlice(RmsNormParams{.x = in, .out = out}, 2, 4);
  is_cut(norm.x, in);
  is_cut(norm.out, out);
  EXPECT_FALSE(norm.residual) << "none stays none";
  is_cut(RowSlice(RmsNormParams{.x = in, .residual = in, .out = out}, 2, 4).residual, in);
  const LinearParams linear = RowSlice(LinearParams{.x = in, .y = out}, 2, 4);
  is_cut(linear.x, in);
  is_cut(linear.y, out);
  const RopeStoreKvParams rope = RowSlice(
      RopeStoreKvParams{.qkv = in, .positions = numbers.data(), .slots = numbers.data() + 1}, 2, 4);
  is_cut(rope.qkv, in);
  EXPECT_EQ(rope.positions, numbers.data() + 2);
  EXPECT_EQ(rope.slots, numbers.data() + 3);
  const GatedActivationParams gated =
      RowSlice(GatedActivationParams{.gate_up = in, .out = out}, 2, 4);
  is_cut(gated.gate_up, in);
  is_cut(gated.out, out);
}

TEST(StepOpsTest, AttentionOfALaneHasTheLanesSequences) {
  std::vector<float> x(40), y(20);
  const Tensor in = nibble::RowsOf(x, 5, 8), out = nibble::RowsOf(y, 5, 4);
  const std::vector<int32_t> tables(12);
  Lane lane{.begin = 2, .end = 4, .first_sequence = 1};
  lane.cu_seqlens = {0, 1, 2};
  lane.context_lens = {7, 9};
  const AttentionParams own = RowSlice(
      AttentionParams{
          .q = in, .num_seqs = 4, .max_blocks = 3, .block_table = tables.data(), .out = out},
      lane);
  EXPECT_EQ(own.q.data, in.f32_row(2));
  EXPECT_EQ(own.q.rows, 2);
  EXPECT_EQ(own.out.data, out.f32_row(2));
  EXPECT_EQ(own.num_seqs, 2);
  EXPECT_EQ(own.cu_seqlens_q, lane.cu_seqlens.data());
  EXPECT_EQ(own.context_lens, lane.context_lens.data());
  EXPECT_EQ(own.block_table, tables.data() + 3);
}

}  // namespace
}  // namespace nibble::cpu
