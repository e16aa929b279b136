// Tokenizer against recorded ids: small vocabularies of every kind, and the real one of SmolLM2.
#include <cstdlib>

#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/gguf_vocabulary.h"
#include "tests/engine/text/text_vectors.h"

namespace nibble {
namespace {

void ExpectIds(const Tokenizer& tokenizer, const nlohmann::json& json) {
  const std::vector<std::string> texts = ReadTexts();
  const IdVectors expected = IdVectorsOf(json);
  ASSERT_EQ(texts.size(), expected.plain.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto plain = tokenizer.Encode(texts[i], {.parse_special = false, .add_special = false});
    ASSERT_TRUE(plain.ok()) << plain.status();
    EXPECT_EQ(*plain, expected.plain[i]) << "text " << i << ": '" << texts[i] << "'";
    const auto special = tokenizer.Encode(texts[i], {.parse_special = true, .add_special = false});
    ASSERT_TRUE(special.ok()) << special.status();
    EXPECT_EQ(*special, expected.special[i]) << "special text " << i << ": '" << texts[i] << "'";
    EXPECT_EQ(tokenizer.EncodeRendered(texts[i], "").value(), expected.special[i]);
  }
}

class TokenizerVectors : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerVectors, IdsAreThoseOfLlamaCpp) {
  const nlohmann::json json = ReadVectors(std::string("vocab_") + GetParam() + ".json");
  const auto tokenizer = Tokenizer::Create(SpecOf(json));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectIds(**tokenizer, json);
}

// Where every byte has a token, decoding gives back what was encoded.
TEST_P(TokenizerVectors, DecodingGivesTheTextBack) {
  if (std::string(GetParam()) == "smollm")
    GTEST_SKIP() << "this vocabulary lacks 21 bytes on purpose";
  const auto tokenizer =
      Tokenizer::Create(SpecOf(ReadVectors(std::string("vocab_") + GetParam() + ".json")));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const std::string& text : ReadTexts()) {
    if ((*tokenizer)->strips_first_space() && text.find("▁") != std::string::npos)
      continue;  // reads as a space
    if ((*tokenizer)->strips_first_space() && text.find("<tool>") != std::string::npos)
      continue;  // adds one behind
    const auto ids = (*tokenizer)->Encode(text, {});
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ((*tokenizer)->Decode(*ids, true).value(), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, TokenizerVectors,
                         testing::Values("gpt_2", "smollm", "llama_bpe", "qwen2", "sentencepiece"),
                         [](const auto& info) { return std::string(info.param); });

TEST(TokenizerModelVectors, SmolLm2IdsAreThoseOfLlamaCpp) {
  const char* model = std::getenv("NIBBLE_MODEL");
  if (model == nullptr)
    GTEST_SKIP() << "NIBBLE_MODEL is not set: the real vocabulary is not there to compare";
  const auto tokenizer = Tokenizer::Create(GgufVocabulary::Read(model));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 49152);
  EXPECT_THAT((*tokenizer)->end_of_generation_ids(), testing::ElementsAre(0, 2));
  ExpectIds(**tokenizer, ReadVectors("ids_smollm2.json"));
}

}  // namespace
}  // namespace nibble
