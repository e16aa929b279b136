// The budget's flags and arithmetic; measuring itself is shown on a real model by tests/e2e.
#include "cli/quantize_budget.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

std::string Refusal(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(QuantizeBudgetTest, NothingIsMeasuredUnlessAsked) {
  QuantizeFlags flags;
  EXPECT_FALSE(MeasuresTensors(flags));
  flags.budget_types = "nonsense";
  EXPECT_TRUE(CheckBudgetFlags(flags).ok());
  flags.sensitivity = true;
  EXPECT_TRUE(MeasuresTensors(flags));
  EXPECT_NE(Refusal(CheckBudgetFlags(flags)).find("--budget-types"), std::string::npos);
}

TEST(QuantizeBudgetTest, RefusesFlagsByName) {
  QuantizeFlags flags;
  flags.byte_budget = "86MB";
  EXPECT_TRUE(CheckBudgetFlags(flags).ok());
  flags.pure = true;
  EXPECT_NE(Refusal(CheckBudgetFlags(flags)).find("--pure"), std::string::npos);
  flags.pure = false;
  for (const char* wrong : {"0", "-5", "many", "86 M"}) {
    flags.byte_budget = wrong;
    EXPECT_NE(Refusal(CheckBudgetFlags(flags)).find(wrong), std::string::npos);
  }
  flags.byte_budget = "86MB";
  flags.budget_types = ",";
  EXPECT_NE(Refusal(CheckBudgetFlags(flags)).find("found none"), std::string::npos);
}

// A norm of 1,000 bytes that stays, and two matrices of 256 x 4.
class OverridesWithinTest : public ::testing::Test {
 protected:
  static TensorRecipe Recipe(const char* name, std::vector<int64_t> dims, GgmlType target) {
    TensorRecipe recipe;
    recipe.name = name;
    recipe.dims = std::move(dims);
    recipe.target = target;
    return recipe;
  }

  absl::StatusOr<std::vector<TypeOverride>> Within(const std::string& budget) {
    QuantizeFlags flags;
    flags.byte_budget = budget;
    const auto choices = [](double damage) {
      return std::vector<TypeChoice>{{GgmlType::kQ4_K, 576, damage}, {GgmlType::kQ6_K, 840, 0}};
    };
    return OverridesWithin(flags, recipes_,
                           {{"blk.0.a.weight", choices(1)}, {"blk.0.b.weight", choices(2)}});
  }

  const std::vector<TensorRecipe> recipes_ = {
      Recipe("norm.weight", {250}, GgmlType::kF32),
      Recipe("blk.0.a.weight", {256, 4}, GgmlType::kQ4_K),
      Recipe("blk.0.b.weight", {256, 4}, GgmlType::kQ4_K),
  };
};

TEST_F(OverridesWithinTest, WhatStaysCountsToo) {
  const auto small = Within("2152");
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_EQ(small->at(0).type, GgmlType::kQ4_K);
  EXPECT_EQ(small->at(1).type, GgmlType::kQ4_K);
  const auto larger = Within("2416");
  ASSERT_TRUE(larger.ok());
  EXPECT_EQ(larger->at(0).type, GgmlType::kQ4_K);
  EXPECT_EQ(larger->at(1).type, GgmlType::kQ6_K);  // it saves more for the same bytes
}

TEST_F(OverridesWithinTest, PatternsMatchOneName) {
  const auto overrides = Within("1MB");
  ASSERT_TRUE(overrides.ok());
  EXPECT_EQ(overrides->at(0).pattern, "^blk\\.0\\.a\\.weight$");
}

TEST_F(OverridesWithinTest, SaysHowFarABudgetIsTooSmall) {
  const std::string message = Refusal(Within("2151").status());
  EXPECT_NE(message.find("--byte-budget 2151"), std::string::npos) << message;
  EXPECT_NE(message.find("1000 bytes of tensors that stay"), std::string::npos) << message;
  EXPECT_NE(message.find("need 1152"), std::string::npos) << message;
}

}  // namespace
}  // namespace nibble
