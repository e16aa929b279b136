// tokenizer.json of each way to cut words against the ids of Hugging Face `tokenizers`
// (tests/oracle/checkpoints/record_tokenizers.py).
#include <filesystem>
#include <fstream>

#include "engine/hf_model.h"
#include "engine/text/tokenizer.h"
#include "gtest/gtest.h"
#include "tests/engine/hf_folder.h"

namespace nibble {
namespace {

using Ids = std::vector<std::vector<int32_t>>;

class TokenizerJson : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerJson, IdsAreThoseOfTheTokenizersLibrary) {
  std::ifstream file(std::string(NIBBLE_RECORDED_TOKENIZERS) + "/" + GetParam() + ".json");
  const nlohmann::ordered_json recorded = nlohmann::ordered_json::parse(file);
  const std::filesystem::path path =
      std::filesystem::path(::testing::TempDir()) / (std::string("nibble_tokenizer_") + GetParam());
  std::filesystem::create_directories(path);
  testing::WriteText(path / "tokenizer.json", recorded["tokenizer"].dump());
  const ModelFolder folder = ModelFolder::Open(path.string()).value();
  const auto spec =
      ReadHfTokenizerSpec(folder, JsonObject(), recorded["vocab_size"].get<int32_t>());
  ASSERT_TRUE(spec.ok()) << spec.status();
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::Create(*spec).value();
  const auto texts = recorded["texts"].get<std::vector<std::string>>();
  const auto ids = recorded["ids"].get<Ids>(), special = recorded["ids_special"].get<Ids>();
  ASSERT_EQ(texts.size(), ids.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer->Encode(texts[i], {}).value(), ids[i]) << texts[i];
    EXPECT_EQ(tokenizer->Encode(texts[i], {.parse_special = true, .add_special = true}).value(),
              special[i])
        << texts[i];
  }
}
INSTANTIATE_TEST_SUITE_P(Words, TokenizerJson,
                         ::testing::Values("gpt_2", "smollm", "llama_bpe", "qwen2"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace nibble
