#include "cli/eval_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/engine/fakes/fake_tokenizer.h"

namespace nibble {
namespace {

TEST(FirstScoredTest, IsANumberOrTheSecondHalf) {
  EXPECT_EQ(*FirstScored("1", 512), 1);
  EXPECT_EQ(*FirstScored("511", 512), 511);
  EXPECT_EQ(*FirstScored("half", 512), 257) << "llama.cpp scores targets 257..511";
  EXPECT_EQ(*FirstScored("half", 3), 2);
}

TEST(FirstScoredTest, RefusesWhatScoresNothing) {
  for (const char* skip : {"0", "-1", "512", "x", "", "1.5", "third"}) {
    EXPECT_EQ(FirstScored(skip, 512).status().code(), absl::StatusCode::kInvalidArgument) << skip;
  }
}

TextFlags Flags(const std::string& path, Bos bos) {
  TextFlags flags;
  flags.path = path;
  flags.window = 4;
  flags.skip = "half";
  flags.bos = bos;
  return flags;
}

TEST(CheckTextFlagsTest, NamesWhatIsMissingOrOutOfRange) {
  EXPECT_TRUE(CheckTextFlags(Flags("t.txt", Bos::kAuto)).ok());
  EXPECT_THAT(std::string(CheckTextFlags(Flags("", Bos::kAuto)).message()),
              testing::HasSubstr("--text"));
  TextFlags flags = Flags("t.txt", Bos::kAuto);
  flags.skip = "4";
  EXPECT_THAT(std::string(CheckTextFlags(flags).message()), testing::HasSubstr("1 to 3 or half"));
}

TEST(ReadTextTest, GivesTheBytesAndNamesWhatIsEmpty) {
  const std::string path = testing::TempDir() + "eval_text_test.txt";
  std::ofstream(path, std::ios::binary) << "one\r\ntwo";
  EXPECT_EQ(*ReadText(Flags(path, Bos::kAuto)), "one\r\ntwo");
  std::ofstream(path, std::ios::trunc) << "";
  EXPECT_EQ(ReadText(Flags(path, Bos::kAuto)).status().code(), absl::StatusCode::kNotFound);
}

TEST(ReadTextTest, NamesTheFlagThatNamedTheFile) {
  EXPECT_THAT(std::string(ReadTextFile("--calibration", "no/such.txt").status().message()),
              testing::HasSubstr("--calibration \"no/such.txt\": found nothing"));
}

// The runner's own words are of max_context, and of a 0 that --window does not take.
TEST(CheckWindowFitsTest, NamesTheFlagAndTheModelsContext) {
  ModelConfig config;
  config.context_length = 4;
  TextFlags flags = Flags("t.txt", Bos::kAuto);
  EXPECT_TRUE(CheckWindowFits(flags, config).ok());
  flags.window = 5;
  EXPECT_EQ(CheckWindowFits(flags, config),
            absl::InvalidArgumentError("--window: found 5, needed at most 4, the model's context"));
}

TEST(TokenizeTextTest, PutsABosFirstAndTellsTheWindowsOfIt) {
  const FakeTokenizer tokenizer;
  const EvalText never = TokenizeText(Flags("", Bos::kNever), "hi<s>", tokenizer).value();
  EXPECT_THAT(never.ids, testing::ElementsAre('h', 'i', '<', 's', '>')) << "text, never control";
  EXPECT_EQ(never.windows.bos_id, -1);
  EXPECT_EQ(never.windows.window, 4);
  EXPECT_EQ(never.windows.skip, 3);
  const EvalText always = TokenizeText(Flags("", Bos::kAlways), "hi", tokenizer).value();
  EXPECT_THAT(always.ids, testing::ElementsAre(FakeTokenizer::kBos, 'h', 'i'));
  EXPECT_EQ(always.windows.bos_id, FakeTokenizer::kBos);
}

TEST(OneWindowRunnerTest, SizesTheCacheForOneWindowInWholeBlocks) {
  ModelConfig config;
  config.num_layers = 3;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  ModelFlags model;
  model.runner.block_size = 16;
  const RunnerOptions options = OneWindowRunner(model, 100, config);
  EXPECT_EQ(options.max_context, 100);
  EXPECT_EQ(options.max_sequences, 1);
  EXPECT_EQ(options.kv_cache_bytes, 112 * 2 * 2 * 3 * 2 * 8) << "k and v, f16";
}

}  // namespace
}  // namespace nibble
