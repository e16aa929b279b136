#include "engine/quantize/provenance.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

GgufFile Written(const GgufKeys& keys) {
  const std::string path =
      absl::StrCat(::testing::TempDir(), "/nibble_provenance_", getpid(), ".gguf");
  GgufFileWriter writer = GgufFileWriter::Create(path, keys, {}).value();
  EXPECT_TRUE(writer.Finish(keys).ok());
  return GgufFile::Open(path).value();
}

TEST(Provenance, ReplacesWhatAnEarlierOneTold) {
  GgufKeys keys;
  keys.SetString("nibble.quantize.importance_sha256", "of another time");
  keys.SetU32("general.file_type", 1);
  keys.SetString("general.name", "mine");
  const std::vector<std::string> tensors = {"a", "b"};
  const std::vector<float> errors = {0.5f, 0.25f};
  SetProvenance({.source_sha256 = "s", .method = "m", .options = "o", .tool = "t"},
                ParseMix("q4_1").value(), tensors, errors, keys);
  const GgufFile file = Written(keys);
  EXPECT_EQ(file.GetString("general.name").value(), "mine");
  EXPECT_EQ(file.GetInt("general.file_type").value(), 3);
  EXPECT_EQ(file.GetString("nibble.quantize.type").value(), "q4_1");
  EXPECT_EQ(file.GetString("nibble.quantize.method").value(), "m");
  EXPECT_FALSE(file.Has("nibble.quantize.importance_sha256"));
  EXPECT_FALSE(file.Has("nibble.quantize.calibration_sha256"));
  EXPECT_EQ(file.GetStrings("nibble.quantize.tensors").value(), tensors);
  EXPECT_EQ(file.GetFloats("nibble.quantize.tensor_errors").value(), errors);
}

// A file's front is written twice: first with room for the errors, then with them.
TEST(Provenance, TheErrorsDoNotChangeTheSize) {
  const std::vector<std::string> tensors = {"a"};
  GgufKeys before, after;
  const MixInfo mix = ParseMix("q8_0").value();
  SetProvenance({}, mix, tensors, std::vector<float>{0}, before);
  SetProvenance({}, mix, tensors, std::vector<float>{0.123f}, after);
  EXPECT_EQ(before.Encoded().size(), after.Encoded().size());
}

}  // namespace
}  // namespace nibble
