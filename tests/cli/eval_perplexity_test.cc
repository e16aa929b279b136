#include "cli/eval_perplexity.h"

#include <gtest/gtest.h>

#include <sstream>

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

TEST(PerplexityJsonTest, HasTheKeysOfTheContractInOrder) {
  EXPECT_EQ(PerplexityJson({12.5, 2.5, 100, 4}).dump(),
            R"({"perplexity":12.5,"nll":2.5,"tokens":100,"windows":4})");
}

TEST(PerplexityProtocolTest, SaysWhatIsScored) {
  const std::string text = kPerplexityProtocol;
  for (const char* word : {"BOS", "--window", "--skip", "window / 2 + 1", "natural"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word;
  }
}

TEST(RunPerplexityTest, ATextThatIsNotThereIsNamed) {
  std::istringstream in;
  std::ostringstream out, err;
  PerplexityFlags flags;
  flags.model.model = "m.gguf";
  flags.text = "no/such/text.txt";
  EXPECT_EQ(RunPerplexity(flags, Io{in, out, err}), kExitFailure);
  EXPECT_NE(err.str().find("no/such/text.txt"), std::string::npos) << err.str();
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace nibble
