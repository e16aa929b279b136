// Keys written and read again: nothing of a model may be lost on the way, and what would be is
// refused by the name of its field.
#include "engine/gguf_keys.h"

#include "absl/strings/str_cat.h"
#include "engine/gguf_model.h"
#include "engine/model/rope_table.h"
#include "engine/model_file.h"
#include "engine/text/vocabulary.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/hf_folder.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TokenizerSpec Spec() {
  const std::vector<uint8_t> bytes = testing::TinyModel({}).Build();
  return ReadTokenizerSpec(GgufFile::Parse(bytes, "tiny").value()).value();
}

ModelConfig Config() {
  ModelConfig config;
  config.architecture = "llama";
  config.name = "a model";
  config.num_layers = 1;
  config.hidden_size = 64;
  config.ffn_size = 96;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = config.rotary_dim = 32;  // not hidden / heads
  config.vocab_size = testing::kTinyVocab;
  config.context_length = 8192;
  config.rms_epsilon = 1e-6f;
  config.rope_base = 500000.0f;
  config.tied_head = true;
  return config;
}

// A file of these keys and of empty tensors that the config asks for.
GgufFile Written(const ModelConfig& config, const GgufKeys& keys) {
  static int count = 0;
  const std::string path = absl::StrCat(::testing::TempDir(), "/nibble_gguf_keys_", count++);
  std::vector<GgufTensorPlan> plan;
  for (const TensorShape& tensor : NeededTensors(config)) {
    plan.push_back({tensor.name, {tensor.shape.rbegin(), tensor.shape.rend()}, GgmlType::kF32});
  }
  GgufFileWriter writer = GgufFileWriter::Create(path, keys, plan).value();
  EXPECT_TRUE(writer.Finish(keys).ok());
  return GgufFile::Open(path).value();
}

TEST(GgufKeys, TheShapeReadsBackAsItWas) {
  ModelConfig config = Config();
  config.rope_scaling = RopeScaling::kLinear;
  config.rope_factor = 4;
  const GgufFile file = Written(config, GgufKeysOf(config, Spec(), std::nullopt).value());
  const ModelConfig read = ReadModelConfig(file).value();
  EXPECT_EQ(read.name, "a model");
  EXPECT_EQ(read.head_dim, 32);
  EXPECT_EQ(read.num_kv_heads, 2);
  EXPECT_EQ(read.ffn_size, 96);
  EXPECT_EQ(read.context_length, 8192);
  EXPECT_EQ(read.rms_epsilon, 1e-6f);
  EXPECT_EQ(read.vocab_size, config.vocab_size);
  EXPECT_TRUE(read.tied_head);
  EXPECT_EQ(RopeFrequencies(read), RopeFrequencies(config));
}

TEST(GgufKeys, TheVocabularyReadsBackAsItWas) {
  TokenizerSpec spec = Spec();
  spec.normalize_nfc = true;
  spec.pad_id = 3;
  spec.add_bos = true;
  const GgufFile file = Written(Config(), GgufKeysOf(Config(), spec, "{{ messages }}").value());
  const TokenizerSpec read = ReadTokenizerSpec(file).value();
  EXPECT_EQ(read.pre, spec.pre);
  EXPECT_EQ(read.tokens, spec.tokens);
  EXPECT_EQ(read.types, spec.types);
  EXPECT_EQ(read.merges, spec.merges);
  EXPECT_EQ(read.bos_id, spec.bos_id);
  EXPECT_EQ(read.eos_id, spec.eos_id);
  EXPECT_EQ(read.pad_id, 3);
  EXPECT_TRUE(read.add_bos);
  EXPECT_FALSE(read.add_eos);
  EXPECT_TRUE(read.normalize_nfc);
  EXPECT_EQ(file.GetString("tokenizer.chat_template").value(), "{{ messages }}");
}

// llama.cpp has no token without a text.
TEST(GgufKeys, RowsWithoutATokenGetAName) {
  TokenizerSpec spec = Spec();
  spec.tokens[100].clear();
  spec.types[100] = TokenType::kUnused;
  const GgufFile file = Written(Config(), GgufKeysOf(Config(), spec, std::nullopt).value());
  EXPECT_EQ(ReadTokenizerSpec(file).value().tokens[100], "[PAD100]");
}

TEST(GgufKeys, AnEndBesideEosBecomesEndOfTurn) {
  TokenizerSpec spec = Spec();
  spec.end_ids = {spec.eos_id, testing::kTinyEndOfText, 7};  // the second is known by its name
  const GgufFile file = Written(Config(), GgufKeysOf(Config(), spec, std::nullopt).value());
  const TokenizerSpec read = ReadTokenizerSpec(file).value();
  EXPECT_EQ(read.eot_id, 7);
  EXPECT_EQ(Vocabulary::Create(read)->end_of_generation_ids(),
            Vocabulary::Create(spec)->end_of_generation_ids());
}

TEST(GgufKeys, WhatHasNoKeyIsRefusedByItsField) {
  TokenizerSpec spec = Spec();
  spec.end_ids = {7, 8};
  absl::Status status = GgufKeysOf(Config(), spec, std::nullopt).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'eos_token_id' names 2 tokens"));
  spec = Spec();
  spec.ignore_merges = true;
  status = GgufKeysOf(Config(), spec, std::nullopt).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'ignore_merges' is true"));
  spec.ignore_merges = false;
  EXPECT_TRUE(GgufKeysOf(Config(), spec, std::nullopt).ok());
}

TEST(RopeFactors, DivideEveryFrequencyAsLlama3Does) {
  ModelConfig config = Config();
  EXPECT_TRUE(RopeFactors(config).empty());
  config.rope_scaling = RopeScaling::kLlama3;
  config.rope_factor = 8;
  config.rope_low_freq_factor = 1;
  config.rope_high_freq_factor = 4;
  config.rope_original_context = 512;
  ModelConfig divided = Config();
  divided.rope_freq_factors = RopeFactors(config);
  const std::vector<double> wanted = RopeFrequencies(config), found = RopeFrequencies(divided);
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found[i] / wanted[i], 1, 1e-7) << i;
  EXPECT_EQ(divided.rope_freq_factors.front(), 1);
  EXPECT_EQ(divided.rope_freq_factors.back(), 8);
}

}  // namespace
}  // namespace nibble
