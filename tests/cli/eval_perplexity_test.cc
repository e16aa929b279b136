#include "cli/eval_perplexity.h"

#include <gtest/gtest.h>

#include <sstream>

namespace nibble {
namespace {

TEST(PerplexityJsonTest, HasTheKeysOfTheContractInOrder) {
  EXPECT_EQ(PerplexityJson({12.5, 2.5, 0.5, 100, 4}).dump(),
            R"({"perplexity":12.5,"perplexity_standard_error":6.25,"nll":2.5,)"
            R"("nll_standard_error":0.5,"tokens":100,"windows":4})");
}

TEST(PerplexityProtocolTest, SaysWhatIsScored) {
  const std::string text = PerplexityFooter();
  for (const char* word : {"BOS", "--window", "--skip", "window / 2 + 1", "natural"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word;
  }
}

TEST(RunPerplexityTest, ATextThatIsNotThereIsNamed) {
  std::istringstream in;
  std::ostringstream out, err;
  PerplexityFlags flags;
  flags.model.model = "m.gguf";
  flags.text.path = "no/such/text.txt";
  EXPECT_EQ(RunPerplexity(flags, Io{in, out, err}), kExitFailure);
  EXPECT_NE(err.str().find("no/such/text.txt"), std::string::npos) << err.str();
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace nibble
