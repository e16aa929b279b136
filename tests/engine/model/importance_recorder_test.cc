#include "engine/model/importance_recorder.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "gtest/gtest.h"

namespace nibble {
namespace {

constexpr int32_t kCols = 32;

// A row for each of `rows`, all ones.
std::unique_ptr<PackedMatrix> Ones(Backend& backend, int32_t rows) {
  quant::Matrix matrix;
  matrix.rows = rows;
  matrix.cols = kCols;
  const std::vector<float> values(static_cast<size_t>(rows) * kCols, 1.0f);
  matrix.codes.resize(values.size() * sizeof(float));
  std::memcpy(matrix.codes.data(), values.data(), matrix.codes.size());
  return std::move(backend.Pack(matrix)).value();
}

class ImportanceRecorderTest : public ::testing::Test {
 protected:
  ImportanceRecorderTest() {
    ModelConfig config;
    config.num_layers = 1;
    config.tied_head = true;
    CpuOptions options;
    options.num_threads = 1;
    options.activations = CpuActivations::kF32;
    recorder_ = std::make_unique<ImportanceRecorder>(CreateCpuBackend(options).value(), config);
    for (int32_t i = 0; i < 2 * kCols; ++i) x_[i] = static_cast<float>(i % 7) - 3.0f;
  }

  // One linear over both rows; its first output.
  float Linear(std::vector<int32_t> rows, const float* norm) {
    std::vector<std::unique_ptr<PackedMatrix>> owned;
    std::vector<const PackedMatrix*> weights;
    int32_t out = 0;
    for (const int32_t n : rows) {
      owned.push_back(Ones(*recorder_, n));
      weights.push_back(owned.back().get());
      out += n;
    }
    std::vector<float> y(static_cast<size_t>(2) * out);
    LinearParams linear;
    linear.x = {.data = x_, .rows = 2, .cols = kCols, .stride = kCols};
    linear.norm_weight = norm;
    linear.norm_epsilon = 0.5f;
    linear.weights = weights;
    linear.y = {.data = y.data(), .rows = 2, .cols = out, .stride = out};
    recorder_->Linear(linear);
    EXPECT_TRUE(recorder_->Synchronize().ok());
    return y[0];
  }

  std::unique_ptr<ImportanceRecorder> recorder_;
  alignas(64) float x_[2 * kCols] = {};
};

TEST_F(ImportanceRecorderTest, SquaresAreAddedUnderTheNamesOfTheStepsOrder) {
  float sum = 0;
  for (int32_t k = 0; k < kCols; ++k) sum += x_[k];
  EXPECT_NEAR(Linear({32, 16, 16}, nullptr), sum, 1e-4) << "the linear itself is done";
  Linear({32}, nullptr);
  Linear({16, 16}, nullptr);
  Linear({32}, nullptr);
  Linear({64}, nullptr);  // the head, in two calls
  Linear({64}, nullptr);
  std::vector<std::string> names;
  for (const auto& [name, squares] : recorder_->squares()) {
    names.push_back(name);
    const int64_t calls = name == "token_embd.weight" ? 2 : 1;
    EXPECT_EQ(squares.rows, 2 * calls) << name;
    for (int32_t k = 0; k < kCols; ++k) {
      const double expected = x_[k] * x_[k] + x_[kCols + k] * x_[kCols + k];
      EXPECT_DOUBLE_EQ(squares.sums[k], expected * static_cast<double>(calls)) << name << " " << k;
    }
  }
  EXPECT_THAT(names, ::testing::UnorderedElementsAre(
                         "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight",
                         "blk.0.attn_output.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",
                         "blk.0.ffn_down.weight", "token_embd.weight"));
}

TEST_F(ImportanceRecorderTest, ANormalizingLinearIsSeenAfterTheNorm) {
  float norm[kCols];
  for (int32_t k = 0; k < kCols; ++k) norm[k] = 0.1f * static_cast<float>(k);
  Linear({32, 16, 16}, norm);
  const ColumnSquares& squares = recorder_->squares().at("blk.0.attn_k.weight");
  double expected = 0;
  for (int32_t r = 0; r < 2; ++r) {
    double mean = 0;
    for (int32_t k = 0; k < kCols; ++k) mean += std::pow(x_[r * kCols + k], 2) / kCols;
    expected += std::pow(x_[r * kCols + 5] * norm[5], 2) / (mean + 0.5);
  }
  EXPECT_NEAR(squares.sums[5], expected, 1e-6);
}

}  // namespace
}  // namespace nibble
