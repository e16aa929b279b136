#include "engine/quantize/budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

namespace nibble {
namespace {

TypeChoice Choice(int64_t bytes, double damage) { return {GgmlType::kF16, bytes, damage}; }

std::vector<size_t> Chosen(const std::vector<TensorChoices>& tensors, int64_t budget) {
  auto chosen = SpendBudget(tensors, budget);
  EXPECT_TRUE(chosen.ok()) << chosen.status();
  return chosen.ok() ? *chosen : std::vector<size_t>();
}

TEST(SpendBudgetTest, TheBytesGoWhereTheySaveMost) {
  const std::vector<TensorChoices> tensors = {
      {"robust", {Choice(10, 1), Choice(20, 0.9)}},
      {"delicate", {Choice(10, 8), Choice(20, 2), Choice(30, 1)}},
  };
  EXPECT_EQ(Chosen(tensors, 20), (std::vector<size_t>{0, 0}));
  EXPECT_EQ(Chosen(tensors, 30), (std::vector<size_t>{0, 1}));
  EXPECT_EQ(Chosen(tensors, 40), (std::vector<size_t>{0, 2}));
  EXPECT_EQ(Chosen(tensors, 1000), (std::vector<size_t>{1, 2}));
}

TEST(SpendBudgetTest, AStepThatDoesNotFitLeavesItsBytesToOthers) {
  const std::vector<TensorChoices> tensors = {
      {"large", {Choice(10, 100), Choice(60, 0)}},
      {"small", {Choice(10, 1), Choice(15, 0)}},
  };
  EXPECT_EQ(Chosen(tensors, 30), (std::vector<size_t>{0, 1}));
}

TEST(SpendBudgetTest, TypesThatCostMoreAndHelpLessAreNeverChosen) {
  const std::vector<TensorChoices> tensors = {
      {"t", {Choice(30, 5), Choice(10, 4), Choice(20, 3.9), Choice(25, 0), Choice(10, 9)}}};
  EXPECT_EQ(Chosen(tensors, 24), (std::vector<size_t>{1}));  // 2 is above the hull from 1 to 3
  EXPECT_EQ(Chosen(tensors, 100), (std::vector<size_t>{3}));
}

TEST(SpendBudgetTest, RefusesWhatCannotBe) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto message = [](const std::vector<TensorChoices>& tensors, int64_t budget) {
    const absl::Status status = SpendBudget(tensors, budget).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_NE(message({{"a", {Choice(10, 1)}}, {"b", {Choice(7, 1)}}}, 16).find("need 17"),
            std::string::npos);
  EXPECT_NE(message({{"a", {}}}, 16).find("'a'"), std::string::npos);
  EXPECT_NE(message({{"a", {Choice(1, nan)}}}, 16).find("'a'"), std::string::npos);
  EXPECT_TRUE(Chosen({}, 0).empty());
}

// Against every combination there is.
TEST(SpendBudgetTest, IsWithinOneStepOfTheBest) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    std::vector<TensorChoices> tensors(5);
    int64_t least = 0;
    double largest_step = 0;
    for (TensorChoices& tensor : tensors) {
      int64_t smallest = 1000;
      double most = 0;
      for (int i = 0; i < 4; ++i) {
        tensor.choices.push_back(Choice(1 + random() % 100, (random() % 1000) / 10.0));
        smallest = std::min(smallest, tensor.choices.back().bytes);
        most = std::max(most, tensor.choices.back().damage);
      }
      least += smallest;
      largest_step = std::max(largest_step, most);
    }
    const int64_t budget = least + random() % 200;
    const auto totals = [&](const std::vector<size_t>& chosen) {
      std::pair<int64_t, double> sums;
      for (size_t t = 0; t < chosen.size(); ++t) {
        sums.first += tensors[t].choices[chosen[t]].bytes;
        sums.second += tensors[t].choices[chosen[t]].damage;
      }
      return sums;
    };
    double best = std::numeric_limits<double>::infinity();
    for (int code = 0; code < 1024; ++code) {
      std::vector<size_t> all;
      for (int t = 0; t < 5; ++t) all.push_back(code >> (2 * t) & 3);
      const auto [bytes, damage] = totals(all);
      if (bytes <= budget) best = std::min(best, damage);
    }
    const auto [bytes, damage] = totals(Chosen(tensors, budget));
    EXPECT_LE(bytes, budget) << "seed " << seed;
    EXPECT_LE(damage, best + largest_step) << "seed " << seed;
  }
}

}  // namespace
}  // namespace nibble
