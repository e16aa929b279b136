#include "engine/quantize/calibration/layerwise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "engine/quantize/calibration/reference_runner.h"
#include "engine/quantize/calibration/replaced_weights.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "tests/engine/model/tiny_decoder.h"

namespace nibble::quantize {
namespace {

using ::testing::HasSubstr;

class LayerwiseTest : public ::testing::Test {
 protected:
  LayerwiseTest() {
    for (int32_t w = 0; w < 20; ++w) {
      windows_.emplace_back();
      for (int32_t i = 0; i < 32; ++i) windows_.back().push_back((w * 31 + i * i * 7 + 1) % 61);
    }
  }
  absl::StatusOr<std::vector<LinearReport>> Quantize(const char* method, LayerSink& sink,
                                                     int threads = 1,
                                                     LayerwiseOptions options = {}) const {
    options.threads = threads;
    return QuantizeLayers(weights_, config_, *ParseMethod(method), windows_, options, sink);
  }
  double MeanOutputError(const char* method) const {
    ReplacedWeights sink(weights_);
    const auto reports = Quantize(method, sink);
    double sum = 0;
    for (const LinearReport& report : *reports) sum += report.output_error;
    return sum / static_cast<double>(reports->size());
  }
  // Logits after the first window's last token.
  std::vector<float> Logits(const WeightSource& source) const {
    auto runner = MakeReferenceRunner(source, config_, 64, [](int32_t, Linear, MatrixF weight) {
      return MakeDenseOp(std::move(weight));
    });
    std::vector<float> last;
    Batch batch;
    batch.rows.resize(1);
    batch.rows[0].tokens = windows_[0];
    batch.rows[0].num_scheduled = 32;
    EXPECT_TRUE((*runner)
                    ->RunForLogits(batch,
                                   [&](int32_t, int32_t, absl::Span<const float> logits) {
                                     last.assign(logits.begin(), logits.end());
                                   })
                    .ok());
    return last;
  }

  ModelConfig config_ = TinyConfig();
  TinyWeights weights_{config_, 5};
  std::vector<std::vector<int32_t>> windows_;
};

TEST_F(LayerwiseTest, EveryLinearOfEveryLayerIsReplaced) {
  for (const char* method : {"rtn-int4-full-g32", "gptq-int4-full-g32", "awq-clip-int4-asym-g32",
                             "clip-int3-full-g32", "incoherent-gptq-int2-full-g32"}) {
    ReplacedWeights sink(weights_);
    const auto reports = Quantize(method, sink);
    ASSERT_TRUE(reports.ok()) << reports.status();
    ASSERT_EQ(reports->size(), 14u);
    EXPECT_EQ((*reports)[0].name, "blk.0.attn_q.weight");
    EXPECT_EQ((*reports)[13].name, "blk.1.ffn_down.weight");
    for (const LinearReport& report : *reports) {
      EXPECT_GT(report.noise_db, 1) << method;
      EXPECT_EQ(report.output_error >= 0, NeedsCalibration(*ParseMethod(method)));
    }
    EXPECT_NE(Logits(sink), Logits(weights_));
  }
}

TEST_F(LayerwiseTest, MethodsThatLookAtInputsLoseLessOfTheOutputs) {
  // With 8 bits a row there is nothing to clip: what is left is rounding.
  EXPECT_LT(MeanOutputError("gptq-int8-sym-channel"),
            0.9 * MeanOutputError("clip-int8-sym-channel"));
  EXPECT_LT(MeanOutputError("gptq-clip-int3-full-g32"), MeanOutputError("clip-int3-full-g32"));
}

// AWQ and SmoothQuant move scales about; without rounding, the function is the same.
TEST_F(LayerwiseTest, FoldedScalesKeepTheFunction) {
  ReplacedWeights sink(weights_);
  ASSERT_TRUE(Quantize("smoothquant", sink).ok());
  const std::vector<float> before = Logits(weights_), after = Logits(sink);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(before[i], after[i], 2e-3);
  EXPECT_NE(*sink.LoadVector("blk.0.attn_norm.weight", 64),
            *weights_.LoadVector("blk.0.attn_norm.weight", 64));
}

TEST_F(LayerwiseTest, TheFirstLayersFirstSiteSeesWhatTheDefinitionSays) {
  // GPTQ's codes of q in layer 0, from inputs computed here.
  const std::vector<float>& table = weights_.Get("token_embd.weight").values;
  const auto norm = *weights_.LoadVector("blk.0.attn_norm.weight", 64);
  MatrixF hessian = MatrixF::Zero(64, 64);
  for (const auto& window : windows_) {
    MatrixF x(32, 64);
    for (int i = 0; i < 32; ++i) {
      x.row(i) = Eigen::Map<const VectorF>(&table[size_t(window[i]) * 64], 64).transpose();
    }
    const MatrixF input =
        NormRows(x, Eigen::Map<const VectorF>(norm.data(), 64), config_.rms_epsilon);
    hessian += input.transpose() * input;
  }
  const MatrixF q = *LoadDense(weights_, "blk.0.attn_q.weight", 64, 64);
  const auto wanted = QuantizeGptq(q, hessian, *ParseScheme("int4-full-g32"), {});
  ReplacedWeights sink(weights_);
  ASSERT_TRUE(Quantize("gptq-int4-full-g32", sink).ok());
  const MatrixF got = *LoadDense(sink, "blk.0.attn_q.weight", 64, 64);
  EXPECT_LT((got - Dequantize(*wanted)).norm(), 0.02f * got.norm());
}

TEST_F(LayerwiseTest, IsTheSameOnAnyNumberOfThreadsAndForASeed) {
  for (const char* method :
       {"gptq-int4-asym-g32", "awq-clip-int4-asym-g32", "incoherent-clip-int2-full-g32"}) {
    ReplacedWeights one(weights_), four(weights_);
    ASSERT_TRUE(Quantize(method, one, 1).ok());
    ASSERT_TRUE(Quantize(method, four, 4).ok());
    EXPECT_EQ(Logits(one), Logits(four)) << method;
  }
}

TEST_F(LayerwiseTest, StaticRangesAreToldForEverySite) {
  ReplacedWeights sink(weights_);
  ASSERT_TRUE(Quantize("w8a8-static-percentile", sink).ok());
  for (Site site : kSites) EXPECT_GT(sink.input_range(1, site), 0);
  EXPECT_EQ(sink.input_range(2, Site::kDown), 0);
  EXPECT_EQ(Logits(sink), Logits(weights_));
}

// Linears that another type takes keep their values, with what was folded into them.
TEST_F(LayerwiseTest, LinearsWithoutCodesKeepTheirValues) {
  LayerwiseOptions options;
  options.has_codes = [](const std::string& name) {
    return name.find("attn_v") == std::string::npos;
  };
  ReplacedWeights sink(weights_);
  const auto reports = Quantize("gptq-int4-full-g32", sink, 1, options);
  ASSERT_EQ(reports->size(), 12u);
  EXPECT_EQ(*LoadDense(sink, "blk.1.attn_v.weight", 32, 64),
            *LoadDense(weights_, "blk.1.attn_v.weight", 32, 64));
  ASSERT_TRUE(Quantize("awq-int4-full-g32", sink, 1, options).ok());
  const VectorF scales = LoadDense(weights_, "blk.0.attn_v.weight", 32, 64)
                             ->row(0)
                             .cwiseQuotient(LoadDense(sink, "blk.0.attn_v.weight", 32, 64)->row(0));
  const auto before = *weights_.LoadVector("blk.0.attn_norm.weight", 64);
  const auto after = *sink.LoadVector("blk.0.attn_norm.weight", 64);
  for (int i = 0; i < 64; ++i) EXPECT_NEAR(after[i] / before[i], scales[i], 1e-4) << i;
}

TEST_F(LayerwiseTest, StopsWhenToldAndSaysSo) {
  std::atomic<bool> cancelled{false};
  LayerwiseOptions options;
  options.cancelled = &cancelled;
  options.progress = [&](int64_t done, int64_t) { cancelled.store(done == 3); };
  for (const char* method : {"rtn-int4-full-g32", "gptq-int4-full-g32", "awq-int4-full-g32"}) {
    cancelled.store(false);
    ReplacedWeights sink(weights_);
    EXPECT_EQ(Quantize(method, sink, 1, options).status().code(), absl::StatusCode::kCancelled);
  }
}

TEST_F(LayerwiseTest, ErrorsNameWhatIsWrong) {
  ReplacedWeights sink(weights_);
  EXPECT_THAT(Quantize("rtn-int4-full-g48", sink).status().message(),
              HasSubstr("blk.0.attn_q.weight"));
  EXPECT_THAT(Quantize("awq-int4-full-g128", sink).status().message(), HasSubstr("blk.0."));
  windows_[3][5] = 61;
  EXPECT_THAT(Quantize("gptq-int4-full-g32", sink).status().message(), HasSubstr("61"));
  windows_.clear();
  EXPECT_THAT(Quantize("gptq-int4-full-g32", sink).status().message(), HasSubstr("calibration"));
  EXPECT_TRUE(Quantize("rtn-int4-full-g32", sink).ok());
}

// Every weight is finite and what they make is not: no range, scale or Hessian can be made of it,
// and the tensor whose inputs they are is named.
TEST_F(LayerwiseTest, AWeightTooLargeForF32IsRefusedByLayer) {
  for (const float huge : {3e38f, 1e30f}) {  // inputs beyond f32, and inputs whose squares are
    ReplacedWeights damaged(weights_);
    VectorF norm = VectorF::Ones(64);
    norm[5] = huge;
    ASSERT_TRUE(damaged.Vector("blk.1.ffn_norm.weight", norm).ok());
    for (const char* method : {"gptq-int4-full-g32", "clip-int4-full-g32", "awq-int4-full-g32",
                               "smoothquant", "w8a8-static-entropy"}) {
      ReplacedWeights sink(weights_);
      const absl::Status status =
          QuantizeLayers(damaged, config_, *ParseMethod(method), windows_, {}, sink).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << method;
      EXPECT_THAT(status.message(), HasSubstr("'blk.1.ffn_gate.weight'")) << method;
    }
  }
  ReplacedWeights damaged(weights_), sink(weights_);
  MatrixF up = *LoadDense(weights_, "blk.0.ffn_up.weight", 96, 64);
  up(7, 3) = 3e38f;
  ASSERT_TRUE(damaged.Matrix("blk.0.ffn_up.weight", up, nullptr).ok());
  EXPECT_THAT(
      QuantizeLayers(damaged, config_, *ParseMethod("awq-int4-full-g32"), windows_, {}, sink)
          .status()
          .message(),
      HasSubstr("'blk.0.ffn_down.weight'"));
}

// A pruned linear: what it stands for is what it was, and that is no 0 / 0.
TEST_F(LayerwiseTest, ALinearOfZerosHasNoError) {
  ReplacedWeights zeros(weights_);
  ASSERT_TRUE(zeros.Matrix("blk.0.attn_v.weight", MatrixF::Zero(32, 64), nullptr).ok());
  for (const char* method : {"rtn-int4-asym-g32", "gptq-int4-full-g32", "clip-int4-full-g32",
                             "awq-clip-int4-asym-g32"}) {
    ReplacedWeights sink(weights_);
    const auto reports = QuantizeLayers(zeros, config_, *ParseMethod(method), windows_, {}, sink);
    ASSERT_TRUE(reports.ok()) << method << " " << reports.status();
    for (const LinearReport& report : *reports) {
      EXPECT_FALSE(std::isnan(report.output_error)) << method << " " << report.name;
      if (report.name != "blk.0.attn_v.weight") continue;
      EXPECT_EQ(report.noise_db, INFINITY) << method;
      EXPECT_LE(report.output_error, 0) << method;
    }
  }
}

TEST_F(LayerwiseTest, HeadAndEmbeddingOnlyWhereAsked) {
  ReplacedWeights sink(weights_);
  const auto reports = Quantize("rtn-int8-sym-channel+head", sink);
  ASSERT_EQ(reports->size(), 16u);
  EXPECT_EQ((*reports)[15].name, "output.weight");
}

TEST(CutWindowsTest, DropsTheTailAndPutsBos) {
  const std::vector<int32_t> ids = {5, 6, 7, 8, 9, 10, 11};
  EXPECT_EQ(*CutWindows(ids, 3, 1), (std::vector<std::vector<int32_t>>{{1, 6, 7}, {1, 9, 10}}));
  EXPECT_EQ((*CutWindows(ids, 7, -1))[0][0], 5);
  EXPECT_EQ(CutWindows(ids, 8, -1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nibble::quantize
