// A model of two layers with random weights, a text, and all that quantizes it into a file.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/gguf_model.h"
#include "engine/model_file.h"
#include "engine/quantize/model/gguf_sink.h"
#include "engine/quantize/model/quantize_model.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble::quantize {

inline std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

class TinyQuantization : public ::testing::Test {
 protected:
  TinyQuantization() {
    testing::TinyModelOptions options;
    options.matrix_type = options.embedding_type = GgmlType::kF16;
    options.tied_head = false;
    Read(testing::TinyModel(options).Build());
    output_ = absl::StrCat(::testing::TempDir(), "/nibble_quantize_model_", getpid(), ".gguf");
    unlink(output_.c_str());
    for (int32_t w = 0; w < 6; ++w) {
      windows_.emplace_back();
      for (int32_t i = 0; i < 24; ++i) windows_.back().push_back((w * 31 + i * i * 7 + 1) % 250);
    }
  }

  // The model to quantize.
  void Read(std::vector<uint8_t> bytes) {
    bytes_ = std::move(bytes);
    file_ = std::make_unique<GgufFile>(GgufFile::Parse(bytes_, "tiny").value());
    config_ = ReadModelConfig(*file_).value();
    weights_ = MakeGgufSource(*file_);
    tensors_ = MakeSourceTensors(*file_);
  }

  GgufSink Sink(const Method& method, std::vector<TypeOverride> overrides, int threads) const {
    RecipeOptions recipe;
    recipe.mix = MixFor(method);
    recipe.overrides = std::move(overrides);
    return GgufSink({.output = output_,
                     .keys = GgufKeys::CopyOf(*file_),
                     .mix = recipe.mix,
                     .method = method,
                     .recipes = PlanTypes(*tensors_, recipe).value(),
                     .threads = threads});
  }

  ModelPlan Plan(const Method& method, const ModelSink& sink) const {
    ModelPlan plan = PlanModel(*tensors_, config_, method, sink);
    plan.provenance = {.source_sha256 = "abc", .options = "--x", .tool = "nibble test"};
    return plan;
  }

  absl::StatusOr<ModelReport> Run(const char* name, std::vector<TypeOverride> overrides = {},
                                  LayerwiseOptions options = {}) const {
    const Method method = ForGguf(ParseMethod(name).value()).value();
    GgufSink sink = Sink(method, std::move(overrides), options.threads);
    const ModelPlan plan = Plan(method, sink);
    return QuantizeModel(*tensors_, *weights_, plan, windows_, std::move(options), nullptr, sink);
  }

  std::vector<uint8_t> bytes_;
  std::unique_ptr<GgufFile> file_;
  ModelConfig config_;
  std::unique_ptr<WeightSource> weights_;
  std::unique_ptr<SourceTensors> tensors_;
  std::string output_;
  std::vector<std::vector<int32_t>> windows_;
};

}  // namespace nibble::quantize
