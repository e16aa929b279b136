#include "cli/calibration_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/engine/fakes/fake_tokenizer.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

TEST(ChooseWindows, AllOrSomeInTheirOrderAndTheSameForASeed) {
  EXPECT_THAT(ChooseWindows(3, 5, 1), ElementsAre(0, 1, 2));
  EXPECT_THAT(ChooseWindows(3, 3, 1), ElementsAre(0, 1, 2));
  const std::vector<int32_t> some = ChooseWindows(100, 10, 7);
  EXPECT_EQ(some.size(), 10u);
  EXPECT_TRUE(std::is_sorted(some.begin(), some.end()));
  EXPECT_EQ(std::adjacent_find(some.begin(), some.end()), some.end());
  EXPECT_EQ(ChooseWindows(100, 10, 7), some);
  EXPECT_NE(ChooseWindows(100, 10, 8), some);
}

ModelConfig Config(int32_t context) {
  ModelConfig config;
  config.context_length = context;
  return config;
}

TEST(ReadCalibration, CutsTheTextAndSaysWhichItWas) {
  const std::string text(1000, 'a');
  const std::string path =
      testing::WriteTempFile("calibration.txt", std::vector<uint8_t>(text.begin(), text.end()));
  const FakeTokenizer tokenizer;
  const CalibrationText read =
      ReadCalibration({.path = path, .windows = 4, .length = 100}, Config(2048), tokenizer).value();
  EXPECT_EQ(read.windows.size(), 4u);
  EXPECT_EQ(read.length, 100);
  for (const auto& window : read.windows) EXPECT_EQ(window.size(), 100u);
  EXPECT_EQ(read.sha256.size(), 64u);
  // No window is longer than the model's context.
  EXPECT_EQ(ReadCalibration({.path = path, .length = 100}, Config(64), tokenizer)->length, 64);
  EXPECT_EQ(
      ReadCalibration({.path = path, .length = 2000}, Config(4096), tokenizer).status(),
      absl::InvalidArgumentError(
          "--calibration: the calibration text has 1001 tokens, one window needs 2000; take a "
          "longer text or a smaller --calibration-length"));
  EXPECT_EQ(ReadCalibration({.path = path + "x"}, Config(64), tokenizer).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(ReadCalibration, WithoutAPathTheSampleIsRead) {
  const FakeTokenizer tokenizer;
  const CalibrationText read =
      ReadCalibration({.windows = 3, .length = 256}, Config(2048), tokenizer).value();
  EXPECT_EQ(read.windows.size(), 3u);
  EXPECT_EQ(read.sha256, "f85e9722502024d829c310e6471933a33a98de9c4e5c385afb73c839b4a59f4c")
      << "tests/data/tiny/README.md";
}

}  // namespace
}  // namespace nibble
