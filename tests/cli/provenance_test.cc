#include "cli/provenance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/engine/evaluation_record.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

QuantizeProvenance Quantized() {
  QuantizeProvenance quantized;
  quantized.method = "ggml";
  quantized.type = "q4_k_m";
  quantized.options = "--pure";
  quantized.tool = "nibble 0.1.0";
  quantized.source_sha256 = "5ce";
  quantized.calibration_sha256 = "ca1";
  quantized.tensor_errors = {{"a", 0.25f}, {"b", 0.5f}};
  return quantized;
}

std::string TextOf(const QuantizeProvenance& quantized) {
  std::ostringstream out;
  Lines lines(out);
  PrintProvenance(quantized, lines);
  return out.str();
}

TEST(ProvenanceTest, SaysHowItCameToBe) {
  const std::string text = TextOf(Quantized());
  EXPECT_THAT(text, HasSubstr("q4_k_m (ggml) by nibble 0.1.0, --pure"));
  EXPECT_THAT(text, HasSubstr("5ce"));
  EXPECT_THAT(text, HasSubstr("sha256 ca1"));
  EXPECT_THAT(text, HasSubstr("2 tensors, at most 0.50000 (b)"));
  EXPECT_THAT(text, Not(HasSubstr("importance")));
  EXPECT_THAT(text, Not(HasSubstr("quality")));
  const auto json = ProvenanceJson(Quantized());
  EXPECT_EQ(json["tensor_errors"]["b"], 0.5);
  EXPECT_TRUE(json["evaluation"].is_null());
  EXPECT_TRUE(ProvenanceJson(std::nullopt).is_null());
}

// A model's own texts reach a terminal: none of them may move its cursor or set its title.
TEST(ProvenanceTest, ControlCharactersOfAFileDoNotReachTheTerminal) {
  QuantizeProvenance quantized = Quantized();
  quantized.method = "\x1b]0;title\x07";
  quantized.options = "one\ntwo";
  const std::string text = TextOf(quantized);
  EXPECT_THAT(text, HasSubstr("(?]0;title?)"));
  EXPECT_THAT(text, HasSubstr("one?two"));
}

TEST(ProvenanceTest, SaysHowGoodItIsWhereThatWasRecorded) {
  QuantizeProvenance quantized = Quantized();
  quantized.evaluation = testing::ExampleEvaluation();
  const std::string text = TextOf(quantized);
  EXPECT_THAT(text,
              HasSubstr("KL from its source 0.006900 +- 0.000100 nats a token, 99 % 0.040200; "
                        "same top-1 92.31 %"));
  EXPECT_THAT(text, HasSubstr("37.3150, its source's 37.0732"));
  EXPECT_THAT(text, HasSubstr("on 33726 tokens of sha256 7e7: windows of 512"));
  const auto json = ProvenanceJson(quantized)["evaluation"];
  EXPECT_EQ(json["kl"], 0.0069);
  EXPECT_EQ(json["tokens"], 33726);
}

}  // namespace
}  // namespace nibble
