// A LogitsRunner that answers by a formula of the token and position; what it is asked to run is
// checked as a runner would.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "engine/model/logits_runner.h"

namespace nibble {

inline constexpr int32_t kFormulaVocab = 23;

class FormulaLogits : public LogitsRunner {
 public:
  // `bend` changes the logits.
  explicit FormulaLogits(float bend, int32_t max_batch_tokens = 16,
                         int32_t vocab_size = kFormulaVocab)
      : bend_(bend) {
    limits_.vocab_size = vocab_size;
    limits_.max_context = 64;
    limits_.block_size = 8;
    limits_.num_blocks = 8;
    limits_.max_batch_tokens = max_batch_tokens;
    limits_.max_sequences = 1;
  }

  static float Logit(int32_t token, int32_t position, int32_t word, float bend) {
    const int32_t mixed = (token * 31 + position * 17 + word * 7 + token * word) % 19;
    return 0.3f * static_cast<float>(mixed) + bend * static_cast<float>((word + position) % 5);
  }

  RunnerLimits limits() const override { return limits_; }
  absl::StatusOr<StepResult> Run(const Batch&) override { return absl::UnimplementedError("Run"); }

  absl::Status RunForLogits(const Batch& batch, LogitsVisitor visit) override {
    EXPECT_EQ(batch.rows.size(), 1u);
    const BatchRow& row = batch.rows[0];
    EXPECT_EQ(row.num_scheduled, batch.num_tokens);
    EXPECT_LE(batch.num_tokens, limits_.max_batch_tokens);
    EXPECT_TRUE(row.num_computed == computed_ || row.num_computed == 0) << "a gap";
    computed_ = row.num_computed + row.num_scheduled;
    EXPECT_GE(static_cast<int32_t>(row.block_table.size()) * limits_.block_size, computed_);
    ++num_steps;
    if (num_steps == fail_at) return absl::InternalError("the device is gone");
    std::vector<float> logits(limits_.vocab_size);
    for (int32_t p = std::max(row.num_computed, row.prompt_scored); p < computed_; ++p) {
      for (int32_t w = 0; w < limits_.vocab_size; ++w) {
        logits[w] = Logit(row.tokens[p], p, w, bend_);
      }
      if (p == poisoned_position) logits[3] = poison;
      visit(0, p, logits);
    }
    return absl::OkStatus();
  }

  int num_steps = 0;
  int fail_at = -1;
  int32_t poisoned_position = -1;
  float poison = 0;

 private:
  const float bend_;
  RunnerLimits limits_;
  int32_t computed_ = 0;
};

}  // namespace nibble
