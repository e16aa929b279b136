#include "engine/quantize/gguf_quantizer.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "engine/weights/ggml_types.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

testing::GgufWriter Source() {
  testing::TinyModelOptions options;
  options.hidden = 256;
  options.matrix_type = options.embedding_type = GgmlType::kF16;
  testing::GgufWriter writer = testing::TinyModel(options);
  writer.U32("general.file_type", 1);
  return writer;
}

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

class GgufQuantizer : public ::testing::Test {
 protected:
  GgufQuantizer()
      : path_(testing::WriteTempFile("quantizer_source.gguf", Source().Build())),
        output_(::testing::TempDir() + "/nibble_quantizer_out_" + std::to_string(getpid())),
        file_(GgufFile::Open(path_).value()) {
    unlink(output_.c_str());
    options_.output = output_;
    options_.provenance.tool = "nibble test";
    options_.provenance.options = "--pure";
  }

  absl::StatusOr<QuantizeReport> Run(absl::string_view type) {
    RecipeOptions recipe;
    recipe.mix = options_.mix = ParseMix(type).value();
    const std::unique_ptr<SourceTensors> source = MakeSourceTensors(file_);
    recipes_ = PlanTypes(*source, recipe).value();
    options_.keys = GgufKeys::CopyOf(file_);
    options_.provenance.source_sha256 = FileSha256(path_).value();
    return QuantizeGguf(*source, recipes_, options_);
  }

  const std::string path_, output_;
  const GgufFile file_;
  std::vector<TensorRecipe> recipes_;
  QuantizeOptions options_;
};

std::vector<float> Values(const GgufFile& file, const std::string& name) {
  const GgufTensor* tensor = file.Find(name);
  std::vector<float> values(static_cast<size_t>(tensor->num_elements));
  DequantizeBlocks(static_cast<GgmlType>(tensor->ggml_type), file.Data(*tensor),
                   tensor->num_elements, values.data());
  return values;
}

TEST_F(GgufQuantizer, TheFileHoldsWhatTheReportSays) {
  const absl::StatusOr<QuantizeReport> report = Run("q4_k_m");
  ASSERT_TRUE(report.ok()) << report.status();
  const GgufFile written = GgufFile::Open(output_).value();
  EXPECT_EQ(written.size_bytes(), report->output_bytes);
  ASSERT_EQ(written.tensors().size(), file_.tensors().size());
  for (const TensorOutcome& tensor : report->tensors) {
    const GgufTensor* found = written.Find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(found->ggml_type, static_cast<int32_t>(tensor.target));
    EXPECT_EQ(found->size_bytes, tensor.target_bytes);
    EXPECT_EQ(found->dims, file_.Find(tensor.name)->dims);
    const std::vector<float> x = Values(file_, tensor.name), y = Values(written, tensor.name);
    double error = 0, signal = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += std::pow(static_cast<double>(x[i]) - y[i], 2);
      signal += std::pow(static_cast<double>(x[i]), 2);
    }
    EXPECT_NEAR(tensor.relative_error, std::sqrt(error / signal), 1e-6) << tensor.name;
    if (tensor.source == tensor.target) {
      EXPECT_EQ(x, y);
    } else {
      EXPECT_LT(tensor.relative_error, 0.08) << tensor.name;
    }
  }
}

TEST_F(GgufQuantizer, KeysAreKeptAndProvenanceAdded) {
  ASSERT_TRUE(Run("q5_0").ok());
  const GgufFile written = GgufFile::Open(output_).value();
  for (const std::string& key : file_.Keys()) {
    if (key == "general.file_type") continue;
    EXPECT_EQ(written.Describe(key), file_.Describe(key)) << key;
  }
  EXPECT_EQ(written.GetInt("general.file_type").value(), 8);
  EXPECT_EQ(written.GetInt("general.quantization_version").value(), 2);
  EXPECT_EQ(written.GetString("nibble.quantize.type").value(), "q5_0");
  EXPECT_EQ(written.GetString("nibble.quantize.method").value(), "ggml");
  EXPECT_EQ(written.GetString("nibble.quantize.options").value(), "--pure");
  EXPECT_EQ(written.GetString("nibble.quantize.tool").value(), "nibble test");
  EXPECT_EQ(written.GetString("nibble.quantize.source_sha256").value(), *FileSha256(path_));
  EXPECT_EQ(written.GetStrings("nibble.quantize.tensors").value().size(),
            written.GetFloats("nibble.quantize.tensor_errors").value().size());
}

TEST_F(GgufQuantizer, AnyNumberOfThreadsWritesTheSameBytes) {
  for (const char* type : {"q4_k_m", "iq4_xs", "mxfp4"}) {
    options_.num_threads = 1;
    ASSERT_TRUE(Run(type).ok());
    const std::string one = Bytes(output_);
    options_.num_threads = 5;
    ASSERT_TRUE(Run(type).ok());
    EXPECT_TRUE(one == Bytes(output_)) << type;
  }
}

TEST_F(GgufQuantizer, ProgressEndsWithEverything) {
  int64_t last = 0, end = 0;
  options_.num_threads = 3;
  options_.progress = [&](int64_t done, int64_t total) {
    EXPECT_GT(done, last);
    last = done;
    end = total;
  };
  ASSERT_TRUE(Run("q8_0").ok());
  EXPECT_EQ(last, end);
}

TEST_F(GgufQuantizer, WhatIsStoppedLeavesNothing) {
  const std::atomic<bool> cancelled{true};
  options_.cancelled = &cancelled;
  EXPECT_EQ(Run("q8_0").status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(Exists(output_));
  EXPECT_FALSE(Exists(output_ + ".partial"));
}

TEST_F(GgufQuantizer, ImportanceOfAnotherModelIsRefused) {
  Importance importance;
  ASSERT_TRUE(importance.Set("blk.0.ffn_up.weight", std::vector<float>(77, 1.0f), 1).ok());
  options_.importance = &importance;
  const absl::Status status = Run("q4_0").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has 77 columns, the tensor 256"));
}

TEST_F(GgufQuantizer, ImportanceChangesTheTensorItIsOf) {
  ASSERT_TRUE(Run("q4_0").ok());
  const GgufFile plain = GgufFile::Open(output_).value();
  Importance importance;
  std::vector<float> columns(256, 0.01f);
  for (size_t k = 0; k < columns.size(); k += 5) columns[k] = 1.0f;
  ASSERT_TRUE(importance.Set("blk.0.ffn_up.weight", columns, 1).ok());
  options_.importance = &importance;
  options_.provenance.importance_sha256 = "abc";
  options_.output += ".weighted";
  ASSERT_TRUE(Run("q4_0").ok());
  const GgufFile weighted = GgufFile::Open(options_.output).value();
  EXPECT_EQ(weighted.GetString("nibble.quantize.importance_sha256").value(), "abc");
  const auto error = [&](const GgufFile& file) {
    const std::vector<float> x = Values(file_, "blk.0.ffn_up.weight");
    const std::vector<float> y = Values(file, "blk.0.ffn_up.weight");
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      sum += columns[i % 256] * std::pow(static_cast<double>(x[i]) - y[i], 2);
    }
    return sum;
  };
  EXPECT_LT(error(weighted), 0.95 * error(plain));
  EXPECT_EQ(Values(plain, "blk.1.ffn_up.weight"), Values(weighted, "blk.1.ffn_up.weight"));
}

TEST(GgufQuantizerSources, AWeightThatIsNotFiniteNamesItsTensor) {
  testing::GgufWriter writer = Source();
  writer.FindTensor("blk.1.ffn_up.weight")->data[1] = 0x7C;  // an f16 infinity or NaN
  writer.FindTensor("blk.1.ffn_up.weight")->data[0] = 0x00;
  const std::string path = testing::WriteTempFile("quantizer_nan.gguf", writer.Build());
  const GgufFile file = GgufFile::Open(path).value();
  RecipeOptions recipe;
  QuantizeOptions options;
  recipe.mix = options.mix = ParseMix("q8_0").value();
  options.output = ::testing::TempDir() + "/nibble_quantizer_nan_out_" + std::to_string(getpid());
  options.keys = GgufKeys::CopyOf(file);
  const std::unique_ptr<SourceTensors> source = MakeSourceTensors(file);
  const absl::Status status =
      QuantizeGguf(*source, PlanTypes(*source, recipe).value(), options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'blk.1.ffn_up.weight'"));
  EXPECT_FALSE(Exists(options.output));
}

}  // namespace
}  // namespace nibble
