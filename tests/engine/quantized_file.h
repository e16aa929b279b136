// The small trained model in another type of weights, for tests of devices.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/quantize/gguf_quantizer.h"
#include "engine/quantize/source_tensors.h"

namespace nibble {

constexpr char kTinyModel[] = NIBBLE_TEST_DATA "/tiny/tiny-f16.gguf";

// As a mix of llama.cpp's types, in a file that goes with the process.
class QuantizedFile {
 public:
  explicit QuantizedFile(const std::string& mix)
      : path_(std::filesystem::temp_directory_path() /
              absl::StrCat("nibble-cuda-", getpid(), "-", mix, ".gguf")) {
    const GgufFile file = GgufFile::Open(kTinyModel).value();
    RecipeOptions recipe;
    recipe.mix = ParseMix(mix).value();
    QuantizeOptions options;
    options.mix = recipe.mix;
    options.output = path_;
    options.keys = GgufKeys::CopyOf(file);
    const std::unique_ptr<SourceTensors> source = MakeSourceTensors(file);
    EXPECT_TRUE(QuantizeGguf(*source, PlanTypes(*source, recipe).value(), options).ok());
  }
  ~QuantizedFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace nibble
