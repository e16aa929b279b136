// A tiny model through methods into GGUF files, and what comes back out of them.
#include "engine/quantize/model/quantize_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "engine/quantize/calibration/replaced_weights.h"
#include "tests/engine/quantize/model/tiny_quantization.h"

namespace nibble::quantize {
namespace {

using ::testing::HasSubstr;

class QuantizeModelTest : public TinyQuantization {};

// The file's values are those that the method chose, the norms those that it folded into, and
// config and vocabulary the source's.
TEST_F(QuantizeModelTest, TheFileHoldsWhatTheMethodChose) {
  for (const char* name : {"rtn-int4-full-g32", "gptq-actorder-int4-full-g64",
                           "awq-clip-int8-sym-channel", "clip-int5-sym-g32"}) {
    ASSERT_TRUE(Run(name).ok()) << name;
    const GgufFile written = GgufFile::Open(output_).value();
    ASSERT_TRUE(ReadModelConfig(written).ok()) << name;
    const std::unique_ptr<WeightSource> found = MakeGgufSource(written);
    ReplacedWeights wanted(*weights_);
    ASSERT_TRUE(
        QuantizeLayers(*weights_, config_, *ForGguf(*ParseMethod(name)), windows_, {}, wanted)
            .ok());
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      for (int i = 0; i < kNumLinears; ++i) {
        const auto linear = static_cast<Linear>(i);
        const auto [rows, cols] = ShapeOf(config_, linear);
        const std::string tensor = LinearName(layer, linear);
        EXPECT_EQ(*LoadDense(*found, tensor, rows, cols), *LoadDense(wanted, tensor, rows, cols))
            << name << " " << tensor;
      }
      const std::string norm = NormName(layer, Site::kAttention);
      EXPECT_EQ(*found->LoadVector(norm, config_.hidden_size),
                *wanted.LoadVector(norm, config_.hidden_size));
    }
  }
}

TEST_F(QuantizeModelTest, EmbeddingAndHeadAreOfTheMix) {
  ASSERT_TRUE(Run("rtn-int4-asym-g32").ok());
  const GgufFile written = GgufFile::Open(output_).value();
  const auto type = [&](const char* name) {
    return static_cast<GgmlType>(written.Find(name)->ggml_type);
  };
  EXPECT_EQ(type("blk.0.attn_q.weight"), GgmlType::kQ4_1);
  EXPECT_EQ(type("token_embd.weight"), GgmlType::kQ4_1);
  EXPECT_EQ(type("output.weight"), GgmlType::kQ8_0) << "rows of 128 have no room for Q6_K";
  EXPECT_EQ(type("output_norm.weight"), GgmlType::kF32);
}

TEST_F(QuantizeModelTest, ATensorsTypeTakesItFromTheMethod) {
  ASSERT_TRUE(Run("gptq-int4-full-g32", {{"attn_v", GgmlType::kF16}}).ok());
  const GgufFile written = GgufFile::Open(output_).value();
  const GgufTensor* value = written.Find("blk.1.attn_v.weight");
  ASSERT_EQ(static_cast<GgmlType>(value->ggml_type), GgmlType::kF16);
  EXPECT_EQ(written.Data(*value), file_->Data(*file_->Find("blk.1.attn_v.weight")));
  const auto changed = written.GetStrings("nibble.quantize.tensors").value();
  EXPECT_THAT(changed, ::testing::Not(::testing::Contains("blk.1.attn_v.weight")));
  EXPECT_THAT(changed, ::testing::Contains("blk.1.attn_q.weight"));
}

TEST_F(QuantizeModelTest, TheFileTellsTheErrorsThatTheReportTells) {
  const ModelReport report = Run("rtn-int4-full-g32").value();
  const GgufFile written = GgufFile::Open(output_).value();
  EXPECT_EQ(written.GetString("nibble.quantize.method").value(), "rtn-int4-full-g32");
  EXPECT_EQ(written.GetString("nibble.quantize.type").value(), "q4_0");
  EXPECT_EQ(written.GetString("nibble.quantize.options").value(), "--x");
  std::map<std::string, float> told;
  const auto names = written.GetStrings("nibble.quantize.tensors").value();
  const auto errors = written.GetFloats("nibble.quantize.tensor_errors").value();
  for (size_t i = 0; i < names.size(); ++i) told[names[i]] = errors[i];
  const std::unique_ptr<WeightSource> found = MakeGgufSource(written);
  for (const TensorError& error : report.errors) {
    const auto it = told.find(error.name);
    EXPECT_EQ(it == told.end() ? 0 : it->second, static_cast<float>(error.relative_error));
    if (error.name != "token_embd.weight" && error.name != "blk.0.ffn_up.weight") continue;
    const GgufTensor* tensor = file_->Find(error.name);
    const auto rows = static_cast<int32_t>(tensor->dims[1]);
    const auto cols = static_cast<int32_t>(tensor->dims[0]);
    const MatrixF x = *LoadDense(*weights_, error.name, rows, cols);
    const MatrixF y = *LoadDense(*found, error.name, rows, cols);
    EXPECT_NEAR(error.relative_error, (x - y).norm() / x.norm(), 1e-5) << error.name;
  }
}

testing::GgufWriter QuantizedModel() {
  testing::TinyModelOptions options;
  options.matrix_type = options.embedding_type = GgmlType::kQ8_0;
  options.tied_head = false;
  return testing::TinyModel(options);
}

// What the mix leaves at the source's type is not encoded a second time, which would lose a second
// time; nor does the method's look at it.
TEST_F(QuantizeModelTest, WhatStaysKeepsItsBytes) {
  Read(QuantizedModel().Build());
  for (const char* name : {"rtn-int4-asym-g32", "gptq-int4-asym-g32"}) {
    const ModelReport report = Run(name, {{"attn_v", GgmlType::kQ8_0}}).value();
    const GgufFile written = GgufFile::Open(output_).value();
    const auto changed = written.GetStrings("nibble.quantize.tensors").value();
    for (const char* kept : {"output.weight", "blk.1.attn_v.weight", "blk.0.attn_norm.weight"}) {
      const GgufTensor* tensor = written.Find(kept);
      EXPECT_EQ(tensor->ggml_type, file_->Find(kept)->ggml_type) << kept;
      EXPECT_EQ(written.Data(*tensor), file_->Data(*file_->Find(kept))) << name << " " << kept;
      EXPECT_THAT(changed, ::testing::Not(::testing::Contains(kept)));
    }
    for (const TensorError& error : report.errors) {
      if (error.name != "output.weight") continue;
      EXPECT_EQ(error.relative_error, 0) << name;
    }
  }
}

// Of the type it had, but other values: it comes by its new ones, and its error is told.
TEST_F(QuantizeModelTest, WhatAMethodScalesDoesNotKeepItsBytes) {
  Read(QuantizedModel().Build());
  for (const char* name : {"awq-int4-asym-g32", "smoothquant"}) {
    ASSERT_TRUE(Run(name, {{"attn_v", GgmlType::kQ8_0}}).ok()) << name;
    const GgufFile written = GgufFile::Open(output_).value();
    const char* value = "blk.1.attn_v.weight";
    EXPECT_NE(written.Data(*written.Find(value)), file_->Data(*file_->Find(value))) << name;
    EXPECT_THAT(written.GetStrings("nibble.quantize.tensors").value(), ::testing::Contains(value));
  }
}

// A tensor that serving ignores, of a type that is not read: copied, as ggml's types copy it.
TEST_F(QuantizeModelTest, NumbersOfOtherTypesAreCopied) {
  constexpr auto kI32 = static_cast<GgmlType>(26);
  testing::GgufWriter writer = QuantizedModel();
  writer.Add("blk.0.attn_rot_embd", {8}, kI32, std::vector<uint8_t>(32, 0x80));
  Read(writer.Build());
  ASSERT_TRUE(Run("rtn-int4-full-g32").ok());
  const GgufFile written = GgufFile::Open(output_).value();
  const GgufTensor* copied = written.Find("blk.0.attn_rot_embd");
  ASSERT_NE(copied, nullptr);
  EXPECT_EQ(written.Data(*copied), file_->Data(*file_->Find("blk.0.attn_rot_embd")));
}

TEST_F(QuantizeModelTest, AnOffsetBeyondF16NamesItsTensor) {
  testing::TinyModelOptions options;
  options.matrix_type = GgmlType::kF32;
  testing::GgufWriter writer = testing::TinyModel(options);
  const float low = -70000;
  std::memcpy(writer.FindTensor("blk.1.ffn_up.weight")->data.data(), &low, sizeof(low));
  Read(writer.Build());
  const absl::Status status = Run("rtn-int4-asym-g32").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'blk.1.ffn_up.weight'"));
  EXPECT_FALSE(Exists(output_));
}

// 0 / 0 in a folder's nibble_quantize.json would be a null that its reader refuses.
TEST_F(QuantizeModelTest, ALinearOfZerosHasTheErrorZero) {
  testing::TinyModelOptions options;
  options.matrix_type = options.embedding_type = GgmlType::kF16;
  testing::GgufWriter writer = testing::TinyModel(options);
  std::vector<uint8_t>& up = writer.FindTensor("blk.0.ffn_up.weight")->data;
  std::fill(up.begin(), up.end(), uint8_t{0});
  Read(writer.Build());
  const ModelReport report = Run("rtn-int4-asym-g32").value();
  for (const TensorError& error : report.errors) {
    EXPECT_GE(error.relative_error, 0) << error.name;
    if (error.name != "blk.0.ffn_up.weight") continue;
    EXPECT_EQ(error.relative_error, 0);
  }
}

TEST_F(QuantizeModelTest, TheBytesAreTheSameOnAnyNumberOfThreads) {
  for (const char* name : {"gptq-clip-int4-asym-g32", "awq-int4-full-g32", "smoothquant"}) {
    LayerwiseOptions options;
    ASSERT_TRUE(Run(name, {}, options).ok());
    const std::string one = Bytes(output_);
    options.threads = 5;
    ASSERT_TRUE(Run(name, {}, options).ok());
    EXPECT_EQ(Bytes(output_), one) << name;
  }
}

TEST_F(QuantizeModelTest, NothingStaysOfOneThatIsStopped) {
  std::atomic<bool> cancelled{false};
  LayerwiseOptions options;
  options.cancelled = &cancelled;
  options.progress = [&](int64_t done, int64_t total) { cancelled.store(done == total); };
  EXPECT_EQ(Run("rtn-int4-full-g32", {}, options).status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(Exists(output_));
  EXPECT_FALSE(Exists(output_ + ".partial"));
}

TEST_F(QuantizeModelTest, AWeightThatIsNotFiniteNamesItsTensor) {
  for (const char* name : {"token_embd.weight", "blk.1.ffn_up.weight"}) {
    testing::TinyModelOptions options;
    options.matrix_type = options.embedding_type = GgmlType::kF16;
    testing::GgufWriter writer = testing::TinyModel(options);
    writer.FindTensor(name)->data[1] = 0x7C;
    writer.FindTensor(name)->data[0] = 0x00;
    const std::vector<uint8_t> bytes = writer.Build();
    const GgufFile file = GgufFile::Parse(bytes, "broken").value();
    const Method method = ForGguf(ParseMethod("rtn-int4-full-g32").value()).value();
    RecipeOptions recipe;
    recipe.mix = MixFor(method);
    const auto tensors = MakeSourceTensors(file);
    GgufSink sink({.output = output_,
                   .keys = GgufKeys::CopyOf(file),
                   .mix = recipe.mix,
                   .method = method,
                   .recipes = PlanTypes(*tensors, recipe).value()});
    const ModelPlan plan = PlanModel(*tensors, config_, method, sink);
    const absl::Status status =
        QuantizeModel(*tensors, *MakeGgufSource(file), plan, {}, {}, nullptr, sink).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_FALSE(Exists(output_));
  }
}

}  // namespace
}  // namespace nibble::quantize
