// What a folder is written with is what it is read as.
#include "engine/hf_folder_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "engine/hf_model.h"
#include "engine/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/engine/hf_folder.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::string FreshFolder(absl::string_view name) {
  const fs::path path =
      fs::path(::testing::TempDir()) / absl::StrCat("nibble_files_", getpid(), "_", name);
  fs::remove_all(path);
  fs::create_directories(path);
  return path.string();
}

void ExpectSame(const TokenizerSpec& read, const TokenizerSpec& written) {
  EXPECT_EQ(read.pre, written.pre);
  EXPECT_EQ(read.tokens, written.tokens);
  EXPECT_EQ(read.types, written.types);
  EXPECT_EQ(read.merges, written.merges);
  EXPECT_EQ(read.bos_id, written.bos_id);
  EXPECT_EQ(read.eos_id, written.eos_id);
  EXPECT_EQ(read.pad_id, written.pad_id);
  EXPECT_EQ(read.add_bos, written.add_bos);
  EXPECT_EQ(read.add_eos, written.add_eos);
  EXPECT_EQ(read.normalize_nfc, written.normalize_nfc);
}

// Writes the files of `spec` and reads them.
TokenizerSpec RoundTrip(const TokenizerSpec& spec, absl::string_view name,
                        const std::optional<std::string>& chat_template) {
  const std::string path = FreshFolder(name);
  const auto files = HfTokenizerFiles(spec, 512, chat_template);
  EXPECT_TRUE(files.ok()) << files.status();
  for (const auto& [file, text] : *files) testing::WriteText(fs::path(path) / file, text);
  const ModelFolder folder = ModelFolder::Open(path).value();
  EXPECT_EQ(ReadHfChatTemplate(folder).value(), chat_template);
  auto read = ReadHfTokenizerSpec(folder, JsonObject(), static_cast<int32_t>(spec.tokens.size()));
  EXPECT_TRUE(read.ok()) << read.status();
  return *std::move(read);
}

// Every way to cut words that the reader knows, on vocabularies whose ids of texts are recorded
// from Hugging Face `tokenizers`.
class TokenizerFiles : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerFiles, AreReadAsTheTokenizerTheyWereMadeOf) {
  std::ifstream file(std::string(NIBBLE_RECORDED_TOKENIZERS) + "/" + GetParam() + ".json");
  const nlohmann::ordered_json recorded = nlohmann::ordered_json::parse(file);
  const std::string path = FreshFolder(absl::StrCat("given_", GetParam()));
  testing::WriteText(fs::path(path) / "tokenizer.json", recorded["tokenizer"].dump());
  TokenizerSpec spec = ReadHfTokenizerSpec(ModelFolder::Open(path).value(), JsonObject(),
                                           recorded["vocab_size"].get<int32_t>())
                           .value();
  const TokenizerSpec read = RoundTrip(spec, GetParam(), std::nullopt);
  ExpectSame(read, spec);
  EXPECT_EQ(read.ignore_merges, spec.ignore_merges);
  const auto tokenizer = Tokenizer::Create(read).value();
  const auto texts = recorded["texts"].get<std::vector<std::string>>();
  const auto ids = recorded["ids"].get<std::vector<std::vector<int32_t>>>();
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(tokenizer->Encode(texts[i], {}).value(), ids[i]) << texts[i];
  }
}
INSTANTIATE_TEST_SUITE_P(Words, TokenizerFiles,
                         ::testing::Values("gpt_2", "smollm", "llama_bpe", "qwen2"),
                         [](const auto& info) { return std::string(info.param); });

TEST(HfFolderFiles, SpecialTokensAndEndsAreKept) {
  TokenizerSpec spec;
  spec.pre = "qwen2";
  spec.tokens = {"a", "b", "ab", "<s>", "</s>", "<pad>", "<eot>", "<tool>", "[unused]"};
  spec.types.assign(spec.tokens.size(), TokenType::kNormal);
  spec.types[3] = spec.types[4] = spec.types[5] = spec.types[6] = TokenType::kControl;
  spec.types[7] = TokenType::kUserDefined;
  spec.merges = {"a b"};
  spec.bos_id = 3;
  spec.eos_id = 4;
  spec.pad_id = 5;
  spec.eot_id = 6;
  spec.add_bos = spec.add_eos = spec.normalize_nfc = true;
  const std::string chat = "{{ bos_token }}\"\u00e9\n";
  const TokenizerSpec read = RoundTrip(spec, "special", chat);
  spec.tokens.pop_back();
  spec.tokens.emplace_back();
  spec.types.back() = TokenType::kUnused;
  TokenizerSpec without_text = read;
  without_text.tokens.back().clear();
  without_text.types.back() = TokenType::kUnused;
  ExpectSame(without_text, spec);
  EXPECT_THAT(read.end_ids, ::testing::ElementsAre(4, 6));
}

// Hugging Face's `tokenizers` gave <|endoftext|>, id 0, the id of the last word: an added token
// that the vocabulary lacks is numbered anew.
TEST(HfFolderFiles, EveryAddedTokenIsInTheVocabularyUnderItsId) {
  TokenizerSpec spec;
  spec.pre = "gpt-2";
  spec.tokens = {"<s>", "<tool>", "a", "b", "[unused]"};
  spec.types = {TokenType::kControl, TokenType::kUserDefined, TokenType::kNormal,
                TokenType::kNormal, TokenType::kUnused};
  const auto files = HfTokenizerFiles(spec, 1, {}).value();
  ASSERT_EQ(files[0].first, "tokenizer.json");
  const auto json = nlohmann::json::parse(files[0].second);
  EXPECT_EQ(json["model"]["vocab"],
            nlohmann::json({{"<s>", 0}, {"<tool>", 1}, {"a", 2}, {"b", 3}}));
  ASSERT_EQ(json["added_tokens"].size(), 2u);
  for (const auto& token : json["added_tokens"]) {
    EXPECT_EQ(json["model"]["vocab"][token["content"].get<std::string>()], token["id"]);
  }
}

TEST(HfFolderFiles, WhatTokenizerJsonDoesNotHoldIsRefused) {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kSentencePiece;
  EXPECT_THAT(HfTokenizerFiles(spec, 1, {}).status().message(), HasSubstr("SentencePiece"));
  spec.model = TokenizerModel::kByteBpe;
  spec.pre = "tekken";
  const absl::Status refused = HfTokenizerFiles(spec, 1, {}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(refused.message(), HasSubstr("'tekken'"));
}

ModelConfig SomeConfig() {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 3;
  config.hidden_size = 96;
  config.ffn_size = 200;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = config.rotary_dim = 32;  // heads * head_dim is not hidden_size
  config.vocab_size = 9;
  config.context_length = config.rope_original_context = 4096;
  config.rms_epsilon = 1e-5f;
  config.rope_base = 123456.7f;
  return config;
}

ModelConfig ReadBack(const ModelConfig& config) {
  const std::string text = HfConfigJson(config, TokenizerSpec()).value();
  ModelConfig read;
  const absl::Status status =
      ReadHfConfig(JsonObject::Parse(text, "config.json", {}).value(), "m", read);
  EXPECT_TRUE(status.ok()) << status;
  return read;
}

void ExpectSame(const ModelConfig& read, const ModelConfig& written) {
  EXPECT_EQ(read.architecture, written.architecture);
  EXPECT_EQ(read.num_layers, written.num_layers);
  EXPECT_EQ(read.hidden_size, written.hidden_size);
  EXPECT_EQ(read.ffn_size, written.ffn_size);
  EXPECT_EQ(read.num_heads, written.num_heads);
  EXPECT_EQ(read.num_kv_heads, written.num_kv_heads);
  EXPECT_EQ(read.head_dim, written.head_dim);
  EXPECT_EQ(read.rotary_dim, written.rotary_dim);
  EXPECT_EQ(read.vocab_size, written.vocab_size);
  EXPECT_EQ(read.context_length, written.context_length);
  EXPECT_EQ(read.rms_epsilon, written.rms_epsilon);
  EXPECT_EQ(read.rope_base, written.rope_base);
  EXPECT_EQ(read.rope_layout, written.rope_layout);
  EXPECT_EQ(read.rope_scaling, written.rope_scaling);
  EXPECT_EQ(read.rope_factor, written.rope_factor);
  EXPECT_EQ(read.tied_head, written.tied_head);
}

TEST(HfFolderFiles, TheConfigIsReadAsTheShapeItWasMadeOf) {
  ModelConfig config = SomeConfig();
  ExpectSame(ReadBack(config), config);
  config.tied_head = true;
  config.rope_scaling = RopeScaling::kLinear;
  config.rope_factor = 2.5f;
  ExpectSame(ReadBack(config), config);
  config.rope_scaling = RopeScaling::kLlama3;
  config.rope_low_freq_factor = 1.25f;
  config.rope_high_freq_factor = 4.5f;
  config.rope_original_context = 1024;
  const ModelConfig read = ReadBack(config);
  ExpectSame(read, config);
  EXPECT_EQ(read.rope_low_freq_factor, config.rope_low_freq_factor);
  EXPECT_EQ(read.rope_high_freq_factor, config.rope_high_freq_factor);
  EXPECT_EQ(read.rope_original_context, config.rope_original_context);
  config = SomeConfig();
  config.architecture = "qwen2";
  config.rope_layout = RopeLayout::kHalf;
  config.qkv_bias = true;
  ExpectSame(ReadBack(config), config);
}

TEST(HfFolderFiles, AShapeThatTheConfigHasNoKeyForIsRefused) {
  ModelConfig config = SomeConfig();
  config.qkv_bias = true;
  EXPECT_THAT(HfConfigJson(config, {}).status().message(), HasSubstr("biases"));
  config = SomeConfig();
  config.rope_freq_factors = {1, 2};
  EXPECT_EQ(HfConfigJson(config, {}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(HfConfigJson(config, {}).status().message(), HasSubstr("rope_freqs.weight"));
}

TEST(HfFolderFiles, NumbersAreShort) {
  EXPECT_THAT(*HfConfigJson(SomeConfig(), {}), HasSubstr("\"rms_norm_eps\": 1e-05"));
}

TEST(HfFolderFiles, AFoldersOwnAreTakenAsTheyAre) {
  testing::HfFolder folder = testing::TinyFolder({});
  folder.config["quantization_config"] = nullptr;
  const std::string path = folder.Write("own");
  testing::WriteText(fs::path(path) / "chat_template.jinja", "{{ messages }}");
  testing::WriteText(fs::path(path) / "notes.txt", "mine");
  const auto files = HfFolderFilesOf(*ModelFile::Open(path).value());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->config_json, folder.config.dump());
  std::map<std::string, std::string> found(files->files.begin(), files->files.end());
  EXPECT_EQ(found.size(), 4u);
  EXPECT_EQ(found["tokenizer.json"], folder.tokenizer.dump());
  EXPECT_EQ(found["chat_template.jinja"], "{{ messages }}");
  EXPECT_EQ(found.count("notes.txt"), 0u);
}

}  // namespace
}  // namespace nibble
