// What the methods are worth on a trained model: KL(model || quantized) on held-out text, by the
// protocol of docs/quantization-methods.md. 8 of the text's 66 windows; NIBBLE_QUALITY_WINDOWS=66
// scores all, and then the figures are held to the independent bars as well.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>

#include "engine/eval/divergence.h"
#include "engine/model/device_runner.h"
#include "engine/model_file.h"
#include "engine/quantize/calibration/layerwise.h"
#include "engine/quantize/calibration/reference_runner.h"
#include "engine/quantize/calibration/replaced_weights.h"
#include "engine/quantize/training/quantization_aware.h"
#include "tests/engine/quantize/planted_outliers.h"

namespace nibble::quantize {
namespace {

constexpr int32_t kWindow = 512;
constexpr int32_t kAllWindows = 66;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Everything that is loaded once.
class Lab {
 public:
  Lab() : file_(*GgufFile::Open(NIBBLE_TEST_DATA "/tiny/tiny-f16.gguf")) {
    config_ = *ReadModelConfig(file_);
    source_ = MakeGgufSource(file_);
    const std::unique_ptr<Tokenizer> tokenizer = *LoadTokenizer(file_);
    ids_ = *tokenizer->Encode(ReadFile(NIBBLE_TEST_DATA "/eval.txt"), {});
    ids_.insert(ids_.begin(), tokenizer->bos_id());
    const char* wanted = std::getenv("NIBBLE_QUALITY_WINDOWS");
    windows_ = wanted != nullptr ? std::min(std::atoi(wanted), kAllWindows) : 8;
    if (windows_ < kAllWindows) ids_.resize(size_t(windows_) * kWindow);
    options_.window = kWindow;
    options_.bos_id = tokenizer->bos_id();
    std::vector<int32_t> calibration =
        *tokenizer->Encode(ReadFile(NIBBLE_TEST_DATA "/tiny/calib.txt"), {});
    calibration.insert(calibration.begin(), tokenizer->bos_id());
    calibration_ = *CutWindows(calibration, kWindow, tokenizer->bos_id());
    if (windows_ < kAllWindows) calibration_.resize(24);
    backend_ = MakeBackend(CpuActivations::kF32);
    base_ = Runner(*source_);
  }

  const WeightSource& source() const { return *source_; }
  const ModelConfig& config() const { return config_; }
  bool all() const { return windows_ == kAllWindows; }

  // Of a model with a method's weights, against the base. `of`: what is quantized.
  double Kl(const std::string& name, const WeightSource& of) {
    const Method method = *ParseMethod(name);
    LayerwiseOptions options;
    options.threads = 2;
    ReplacedWeights weights(of);
    const auto reports = QuantizeLayers(of, config_, method, calibration_, options, weights);
    EXPECT_TRUE(reports.ok()) << reports.status();
    const double kl = Divergence(*Candidate(method, weights));
    std::printf("%-40s KL %.5f\n", name.c_str(), kl);
    return kl;
  }
  // Of the model after quantization-aware training.
  double TrainedKl(const Scheme& scheme, const TrainingOptions& options) {
    ReplacedWeights weights(*source_);
    const auto reports = TrainQuantized(*source_, config_, scheme, calibration_, options, weights);
    EXPECT_TRUE(reports.ok()) << reports.status();
    const double kl = Divergence(*Runner(weights));
    std::printf("%-40s KL %.5f\n", ("qat-" + SchemeName(scheme)).c_str(), kl);
    return kl;
  }
  // Of a model as it is served: codes of 8 bits with a scale a row, and the kernels' activations.
  double ServedKl(const char* what, const WeightSource& of) {
    ReplacedWeights codes(of);
    LayerwiseOptions options;
    options.threads = 2;
    const auto reports =
        QuantizeLayers(of, config_, *ParseMethod("rtn-int8-sym-channel"), {}, options, codes);
    EXPECT_TRUE(reports.ok()) << reports.status();
    const std::unique_ptr<Backend> backend = MakeBackend(CpuActivations::kInt8);
    const double kl = Divergence(*Runner(codes, *backend));
    std::printf("served, %-32s KL %.5f\n", what, kl);
    return kl;
  }
  // Its scales and norms, before anything is rounded.
  std::unique_ptr<ReplacedWeights> Smoothed(const WeightSource& of) const {
    auto smooth = std::make_unique<ReplacedWeights>(of);
    LayerwiseOptions options;
    options.threads = 2;
    const auto reports =
        QuantizeLayers(of, config_, *ParseMethod("smoothquant"), calibration_, options, *smooth);
    EXPECT_TRUE(reports.ok()) << reports.status();
    return smooth;
  }
  double Kl(const std::string& name) {
    const auto [at, is_new] = known_.try_emplace(name, 0.0);
    if (is_new) at->second = Kl(name, *source_);
    return at->second;
  }

  std::unique_ptr<LogitsRunner> Runner(const WeightSource& weights) {
    return Runner(weights, *backend_);
  }

  double Divergence(LogitsRunner& candidate) {
    return EvaluateDivergence(*base_, candidate, ids_, options_, {})->kl.mean;
  }

 private:
  static std::unique_ptr<Backend> MakeBackend(CpuActivations activations) {
    CpuOptions cpu;
    cpu.activations = activations;
    return *CreateCpuBackend(cpu);
  }
  std::unique_ptr<LogitsRunner> Runner(const WeightSource& weights, Backend& backend) const {
    RunnerOptions options;
    options.max_context = kWindow;
    options.max_sequences = 1;
    return *DeviceRunner::Create(backend, config_, weights, options, {});
  }
  std::unique_ptr<LogitsRunner> Candidate(const Method& method, const ReplacedWeights& weights) {
    if (method.activations == Activations::kF32) return Runner(weights);
    return *MakeReferenceRunner(
        weights, config_, kWindow, [&](int32_t layer, Linear linear, MatrixF weight) {
          if (method.activations == Activations::kOutliersApart) return MakeOutlierOp(weight);
          return MakeW8A8Op(weight, weights.input_range(layer, SiteOf(linear)));
        });
  }

  GgufFile file_;
  ModelConfig config_;
  std::unique_ptr<WeightSource> source_;
  std::vector<int32_t> ids_;
  std::vector<std::vector<int32_t>> calibration_;
  int32_t windows_ = 0;
  WindowOptions options_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LogitsRunner> base_;
  std::map<std::string, double> known_;
};

class QualityTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { lab_ = new Lab; }
  static void TearDownTestSuite() { delete lab_; }
  static Lab* lab_;
};
Lab* QualityTest::lab_ = nullptr;

TEST_F(QualityTest, TheReferenceForwardIsTheModels) {
  const auto reference =
      MakeReferenceRunner(lab_->source(), lab_->config(), kWindow,
                          [](int32_t, Linear, MatrixF weight) { return MakeDenseOp(weight); });
  EXPECT_LT(lab_->Divergence(**reference), 2e-6);  // the other one's cache is f16
}

TEST_F(QualityTest, BetterGridsLoseLess) {
  const char* const ladder[] = {"rtn-int4-sym-channel", "rtn-int4-sym-g128",
                                "rtn-int4-asym-g128",   "rtn-int4-asym-g32",
                                "rtn-e4m3-channel",     "rtn-int8-sym-channel"};
  for (size_t i = 1; i < std::size(ladder); ++i) {
    EXPECT_LT(lab_->Kl(ladder[i]), lab_->Kl(ladder[i - 1])) << ladder[i];
  }
  EXPECT_NEAR(lab_->Kl("rtn-nf4-b64-dq"), lab_->Kl("rtn-nf4-b64"), 0.1 * lab_->Kl("rtn-nf4-b64"));
}

// The paper's promise at 4 bits: about half of rounding's loss.
TEST_F(QualityTest, GptqHalvesWhatRoundingLoses) {
  for (const std::string scheme : {"int4-full-g128", "int4-asym-g64"}) {
    const double rounding = lab_->Kl("rtn-" + scheme);
    EXPECT_LT(lab_->Kl("gptq-" + scheme), 0.55 * rounding);
    EXPECT_LT(lab_->Kl("gptq-actorder-" + scheme), 0.5 * rounding);
    EXPECT_LT(lab_->Kl("gptq-gidx-" + scheme), 0.5 * rounding);
  }
}

TEST_F(QualityTest, ThreeAndTwoBitsNeedMoreThanRounding) {
  for (const std::string scheme : {"int3-full-g128", "int2-full-g64"}) {
    const double rounding = lab_->Kl("rtn-" + scheme);
    EXPECT_LT(lab_->Kl("gptq-" + scheme), 0.7 * rounding);
    EXPECT_LT(lab_->Kl("clip-" + scheme), 0.7 * rounding);
    EXPECT_LT(lab_->Kl("gptq-clip-" + scheme), lab_->Kl("gptq-" + scheme));
  }
}

TEST_F(QualityTest, TrainingRecoversWhatRoundingLost) {
  TrainingOptions options;
  options.steps = 24;
  options.batch = 2;
  options.threads = 2;
  const auto trained = [&](const std::string& scheme, float rate) {
    options.learning_rate = rate;
    return lab_->TrainedKl(*ParseScheme(scheme), options) / lab_->Kl("rtn-" + scheme);
  };
  EXPECT_LT(trained("int3-asym-g128", 2e-4f), 0.75);
  EXPECT_LT(trained("int4-asym-g128", 1e-4f), 0.85);  // finer steps, smaller ones
}

// Outlier channels ruin coarse weights; scales, found by looking at activations, bring them back.
TEST_F(QualityTest, AwqRescuesWeightsOfSalientChannels) {
  const auto planted = testing::PlantOutliers(lab_->source(), lab_->config(), 40, 30);
  EXPECT_LT(lab_->Divergence(*lab_->Runner(*planted)), 1e-5);  // the same function
  const double rounding = lab_->Kl("rtn-int4-asym-g128", *planted);
  EXPECT_GT(rounding, 4 * lab_->Kl("rtn-int4-asym-g128"));
  EXPECT_LT(lab_->Kl("awq-int4-asym-g128", *planted), 0.4 * rounding);
}

// They ruin int8 activations altogether; SmoothQuant and LLM.int8() bring them back.
TEST_F(QualityTest, SmoothQuantAndOutlierDecompositionRescueInt8Activations) {
  const auto planted = testing::PlantOutliers(lab_->source(), lab_->config(), 40, 100);
  const double clean = lab_->Kl("w8a8");
  const double naive = lab_->Kl("w8a8", *planted);
  EXPECT_GT(naive, 20 * clean);
  EXPECT_LT(lab_->Kl("smoothquant", *planted), 0.1 * naive);
  EXPECT_LT(lab_->Kl("llm-int8", *planted), 0.1 * naive);
}

// The kernels that serve have int8 activations with a scale for 32 columns, in four of five of
// which there is an outlier here.
TEST_F(QualityTest, KernelsServeWhatSmoothQuantMadeOfOutliers) {
  const auto planted = testing::PlantOutliers(lab_->source(), lab_->config(), 40, 100);
  const double naive = lab_->ServedKl("outliers", *planted);
  EXPECT_LT(lab_->ServedKl("outliers smoothed", *lab_->Smoothed(*planted)), 0.1 * naive);
}

struct Bar {
  const char* method;
  double kl;      // measured with independent implementations
  double factor;  // of it, that is allowed
};
const Bar kBars[] = {
    {"rtn-int8-sym-channel", 0.00004, 1.2},  // one digit is known
    {"rtn-e4m3-channel", 0.00048, 1.02},
    {"rtn-nf4-b64", 0.00620, 1.02},
    {"rtn-int4-sym-g128", 0.01030, 1.02},
    {"rtn-int4-sym-g64", 0.00861, 1.02},
    {"rtn-int4-sym-g32", 0.00686, 1.02},
    {"rtn-int4-full-g128", 0.00901, 1.02},
    {"rtn-int4-full-g64", 0.00749, 1.02},
    {"rtn-int4-full-g32", 0.00653, 1.02},
    {"rtn-int4-asym-g128", 0.00707, 1.02},
    {"rtn-int4-asym-g64", 0.00558, 1.02},
    {"rtn-int4-asym-g32", 0.00454, 1.02},
    {"gptq-int4-full-g128", 0.00410, 1.03},
    {"gptq-actorder-int4-full-g128", 0.00356, 1.03},
    {"gptq-gidx-int4-full-g128", 0.00355, 1.03},
    {"gptq-int4-asym-g128", 0.00327, 1.03},
    {"gptq-int4-full-g64", 0.00343, 1.03},
    {"gptq-actorder-int4-full-g64", 0.00306, 1.03},
    {"gptq-gidx-int4-full-g64", 0.00306, 1.03},
    {"gptq-int4-asym-g64", 0.00267, 1.03},
    {"awq-int4-asym-g128", 0.00720, 1.03},
    {"awq-clip-int4-asym-g128", 0.00631, 1.03},
    {"awq-clip-int4-full-g128", 0.00791, 1.03},
    {"awq-int4-asym-g64", 0.00573, 1.03},
    {"awq-clip-int4-asym-g64", 0.00528, 1.03},
    {"awq-clip-int4-full-g64", 0.00694, 1.03},
    {"rtn-int8-sym-channel+head", 0.00008, 1.2},
    {"rtn-e4m3-channel+head", 0.00104, 1.02},
    {"rtn-nf4-b64+head", 0.01334, 1.02},
    {"rtn-int4-sym-g128+head", 0.02099, 1.02},
    {"rtn-int4-full-g128+head", 0.01868, 1.02},
    {"rtn-int4-asym-g32+head", 0.00944, 1.02},
};

TEST_F(QualityTest, IsAsGoodAsTheIndependentFigures) {
  if (!lab_->all())
    GTEST_SKIP() << "with NIBBLE_QUALITY_WINDOWS=66: the bars are of the whole text";
  for (const Bar& bar : kBars) {
    const double kl = lab_->Kl(bar.method);
    std::printf("  %.3f of the bar %.5f\n", kl / bar.kl, bar.kl);
    EXPECT_LE(kl, bar.factor * bar.kl) << bar.method;
  }
}

}  // namespace
}  // namespace nibble::quantize
