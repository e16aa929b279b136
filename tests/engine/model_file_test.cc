#include "engine/model_file.h"

#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/gguf_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using testing::BytesOf;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TinyModel;
using testing::TinyModelOptions;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

GgufWriter Tiny(absl::string_view architecture = "llama") {
  TinyModelOptions options;
  options.architecture = std::string(architecture);
  return TinyModel(options);
}

// A parsed file together with its bytes.
struct Parsed {
  explicit Parsed(const GgufWriter& writer)
      : bytes(writer.Build()), file(GgufFile::Parse(bytes, "m.gguf").value()) {}
  std::vector<uint8_t> bytes;
  GgufFile file;
};

ModelConfig ConfigOf(const GgufWriter& writer) {
  return ReadModelConfig(Parsed(writer).file).value();
}

void ExpectConfigRefused(const GgufWriter& writer, absl::StatusCode code, absl::string_view part) {
  const absl::Status status = ReadModelConfig(Parsed(writer).file).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(part)));
}

void ExpectVocabularyRefused(const GgufWriter& writer, absl::StatusCode code,
                             absl::string_view part) {
  const absl::Status status = ReadTokenizerSpec(Parsed(writer).file).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(part)));
}

TEST(ModelConfigFromGguf, ReadsEveryNumberOfALlama) {
  const ModelConfig config = ConfigOf(Tiny());
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.name, "tiny llama");
  EXPECT_EQ(config.num_layers, 2);
  EXPECT_EQ(config.hidden_size, 128);
  EXPECT_EQ(config.ffn_size, 256);
  EXPECT_EQ(config.num_heads, 4);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(config.rotary_dim, 32);
  EXPECT_EQ(config.vocab_size, testing::kTinyVocab);
  EXPECT_EQ(config.context_length, 256);
  EXPECT_EQ(config.rope_base, 10000.0f);
  EXPECT_EQ(config.rms_epsilon, 1e-5f);
  EXPECT_EQ(config.rope_layout, RopeLayout::kInterleaved);
  EXPECT_EQ(config.rope_scaling, RopeScaling::kNone);
  EXPECT_TRUE(config.tied_head);
  EXPECT_FALSE(config.qkv_bias);
}

TEST(ModelConfigFromGguf, Qwen2HasBiasesAndTheOtherRopeLayout) {
  const ModelConfig config = ConfigOf(Tiny("qwen2"));
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_EQ(config.rope_layout, RopeLayout::kHalf);
}

TEST(ModelConfigFromGguf, AHeadOfItsOwnIsNotTied) {
  TinyModelOptions options;
  options.tied_head = false;
  EXPECT_FALSE(ConfigOf(TinyModel(options)).tied_head);
}

TEST(ModelConfigFromGguf, CountsMayBeOf64Bits) {
  GgufWriter writer = Tiny();
  writer.U64("llama.block_count", 2);
  writer.U64("llama.embedding_length", 128);
  EXPECT_EQ(ConfigOf(writer).num_layers, 2);
}

TEST(ModelConfigFromGguf, AbsentKeysTakeTheFormatsDefaults) {
  GgufWriter writer = Tiny();
  writer.Remove("llama.rope.dimension_count");
  writer.Remove("llama.rope.freq_base");
  writer.Remove("llama.vocab_size");
  writer.Remove("general.name");
  const ModelConfig config = ConfigOf(writer);
  EXPECT_EQ(config.rotary_dim, 32);
  EXPECT_EQ(config.rope_base, 10000.0f);
  EXPECT_EQ(config.vocab_size, testing::kTinyVocab);
  EXPECT_EQ(config.name, "m.gguf") << "the file's own";
  writer.Remove(
      "llama.attention.head_count_kv");  // then as many as heads, and k and v no longer fit
  ExpectConfigRefused(writer, kInvalid,
                      "tensor 'blk.0.attn_k.weight' is [64, 128], the config needs [128, 128]; is "
                      "the file for another");
}

TEST(ModelConfigFromGguf, RequiredKeysAreNamedWhenAbsent) {
  for (const char* key : {"general.architecture", "llama.block_count", "llama.context_length",
                          "llama.embedding_length", "llama.feed_forward_length",
                          "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"}) {
    GgufWriter writer = Tiny();
    writer.Remove(key);
    ExpectConfigRefused(writer, kNotFound, absl::StrCat("key '", key, "' is absent"));
  }
}

TEST(ModelConfigFromGguf, NumbersNoModelHasAreRefused) {
  struct {
    const char* key;
    uint64_t value;
  } const kBad[] = {
      {"llama.block_count", 0},
      {"llama.block_count", 1025},
      {"llama.block_count", 1000},
      {"llama.block_count", 1ull << 32},
      {"llama.context_length", 0},
      {"llama.embedding_length", 0},
      {"llama.embedding_length", (1 << 20) + 1},
      {"llama.feed_forward_length", 0},
      {"llama.attention.head_count", 0},
      {"llama.attention.head_count", 6},
      {"llama.attention.head_count_kv", 0},
      {"llama.attention.head_count_kv", 3},
      {"llama.attention.key_length", 5000},
      {"llama.rope.dimension_count", 31},
      {"llama.rope.dimension_count", 64},
      {"llama.vocab_size", 7},
      {"llama.attention.head_count", (1ull << 63) - 1},
  };
  for (const auto& bad : kBad) {
    GgufWriter writer = Tiny();
    writer.U64(bad.key, bad.value);
    ExpectConfigRefused(writer, kInvalid,
                        absl::StrCat("key '", bad.key, "' is u64 ", bad.value, ", "));
  }
  GgufWriter writer = Tiny();
  writer.U64("llama.block_count", std::numeric_limits<uint64_t>::max());
  ExpectConfigRefused(writer, kDataLoss, "2^63");
  writer.Raw("llama.block_count", 5, BytesOf<int32_t>(-1));
  ExpectConfigRefused(writer, kInvalid, "i32 -1");
  writer.String("llama.block_count", "2");
  ExpectConfigRefused(writer, kDataLoss, "string \"2\", needed an integer");
}

TEST(ModelConfigFromGguf, FloatsThatAreNotNumbersAreRefused) {
  const float kInf = std::numeric_limits<float>::infinity();
  for (const char* key : {"llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon",
                          "llama.rope.scaling.factor"}) {
    for (const float bad : {0.0f, -1.0f, kInf, std::nanf("")}) {
      GgufWriter writer = Tiny();
      writer.F32(key, bad);
      ExpectConfigRefused(writer, kInvalid, absl::StrCat("key '", key, "'"));
    }
  }
  GgufWriter writer = Tiny();
  writer.F32("llama.attention.layer_norm_rms_epsilon", 1.0f);
  ExpectConfigRefused(writer, kInvalid, "needed less than 1");
}

TEST(ModelConfigFromGguf, OtherArchitecturesAreRefusedByName) {
  GgufWriter writer = Tiny();
  writer.String("general.architecture", "mamba");
  ExpectConfigRefused(writer, kUnimplemented, "architecture \"mamba\" is not implemented");
}

// What would be computed wrongly in silence must be refused by name.
TEST(ModelConfigFromGguf, OtherMathsIsRefusedByName) {
  const std::pair<const char*, std::function<void(GgufWriter&, const std::string&)>> kOther[] = {
      {"llama.expert_count", [](GgufWriter& w, const std::string& k) { w.U32(k, 8); }},
      {"llama.attention.sliding_window",
       [](GgufWriter& w, const std::string& k) { w.U32(k, 128); }},
      {"llama.attention.clamp_kqv", [](GgufWriter& w, const std::string& k) { w.F32(k, 8); }},
      {"llama.attention.max_alibi_bias", [](GgufWriter& w, const std::string& k) { w.F32(k, 8); }},
      {"llama.attention.scale", [](GgufWriter& w, const std::string& k) { w.F32(k, 0.1f); }},
      {"llama.attention.causal", [](GgufWriter& w, const std::string& k) { w.Bool(k, false); }},
      {"llama.attention.value_length", [](GgufWriter& w, const std::string& k) { w.U32(k, 16); }},
      {"llama.attn_logit_softcapping", [](GgufWriter& w, const std::string& k) { w.F32(k, 50); }},
      {"llama.logit_scale", [](GgufWriter& w, const std::string& k) { w.F32(k, 0.5f); }},
      {"llama.embedding_scale", [](GgufWriter& w, const std::string& k) { w.F32(k, 12); }},
      {"llama.residual_scale", [](GgufWriter& w, const std::string& k) { w.F32(k, 0.2f); }},
      {"llama.rope.scaling.type", [](GgufWriter& w, const std::string& k) { w.String(k, "yarn"); }},
      {"llama.rope.scaling.attn_factor",
       [](GgufWriter& w, const std::string& k) { w.F32(k, 1.2f); }},
      {"split.count",
       [](GgufWriter& w, const std::string& k) { w.Raw(k, 2, BytesOf<uint16_t>(2)); }},
      {"general.type", [](GgufWriter& w, const std::string& k) { w.String(k, "adapter"); }},
  };
  for (const auto& [key, set] : kOther) {
    GgufWriter writer = Tiny();
    set(writer, key);
    ExpectConfigRefused(writer, kUnimplemented, absl::StrCat("key '", key, "' is "));
  }
}

TEST(ModelConfigFromGguf, ValuesThatChangeNothingAreAccepted) {
  GgufWriter writer = Tiny();
  writer.U32("llama.expert_count", 0);
  writer.U32("llama.attention.sliding_window", 256);  // the context, so nothing is ever outside it
  writer.Bool("llama.attention.causal", true);
  writer.F32("llama.logit_scale", 1.0f);
  writer.U32("llama.attention.value_length", 32);
  writer.String("llama.rope.scaling.type", "none");
  writer.F32("llama.rope.scaling.factor", 4.0f);
  const ModelConfig config = ConfigOf(writer);
  EXPECT_EQ(config.rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(config.rope_factor, 1.0f);
}

TEST(ModelConfigFromGguf, LinearRopeScalingFromBothGenerationsOfKeys) {
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
    GgufWriter writer = Tiny();
    writer.F32(key, 4.0f);
    const ModelConfig config = ConfigOf(writer);
    EXPECT_EQ(config.rope_scaling, RopeScaling::kLinear) << key;
    EXPECT_EQ(config.rope_factor, 4.0f) << key;
  }
}

TEST(ModelConfigFromGguf, Llama3ScalingIsATensorOfDivisors) {
  GgufWriter writer = Tiny();
  std::vector<uint8_t> data;
  for (int i = 0; i < 16; ++i) {
    for (const uint8_t byte : BytesOf<float>(1.0f + static_cast<float>(i))) data.push_back(byte);
  }
  writer.Add("rope_freqs.weight", {16}, GgmlType::kF32, data);
  const ModelConfig config = ConfigOf(writer);
  ASSERT_EQ(config.rope_freq_factors.size(), 16u);
  EXPECT_EQ(config.rope_freq_factors[15], 16.0f);
  const std::vector<uint8_t> zero = BytesOf<float>(0.0f);
  std::copy(zero.begin(), zero.end(), writer.FindTensor("rope_freqs.weight")->data.begin() + 4);
  ExpectConfigRefused(writer, kDataLoss, "needed positive divisors");
}

TEST(ModelConfigFromGguf, EveryTensorMustBeThereWithItsShape) {
  const Parsed tiny(Tiny("qwen2"));
  const std::vector<TensorShape> needed = NeededTensors(ReadModelConfig(tiny.file).value());
  EXPECT_EQ(needed.size(), tiny.file.tensors().size());
  for (const TensorShape& tensor : needed) {
    GgufWriter absent = Tiny("qwen2");
    absent.RemoveTensor(tensor.name);
    EXPECT_FALSE(ReadModelConfig(Parsed(absent).file).ok()) << tensor.name;
    GgufWriter reshaped = Tiny("qwen2");
    reshaped.FindTensor(tensor.name)->dims.push_back(1);
    EXPECT_THAT(std::string(ReadModelConfig(Parsed(reshaped).file).status().message()),
                HasSubstr(tensor.name));
  }
}

TEST(ModelConfigFromGguf, ATensorWithoutAPlaceIsMathsWeWouldNotDo) {
  for (const char* name :
       {"blk.0.attn_output.bias", "blk.0.ffn_gate_exps.weight", "blk.0.attn_q_norm.weight",
        "blk.2.attn_norm.weight", "blk.0.attn_q.weight.lora_a"}) {
    GgufWriter writer = Tiny();
    writer.Add(name, {8}, GgmlType::kF32, std::vector<uint8_t>(32));
    ExpectConfigRefused(writer, kUnimplemented, absl::StrCat("tensor '", name, "' has no place"));
  }
  GgufWriter writer = Tiny();
  writer.Add("blk.0.attn_rot_embd", {8}, GgmlType::kF32,
             std::vector<uint8_t>(32));  // old converters' leftover
  EXPECT_TRUE(ReadModelConfig(Parsed(writer).file).ok());
}

TEST(ModelConfigFromGguf, UnreadableTypesAreRefusedBeforeAnyWeightIsLoaded) {
  TinyModelOptions options;
  options.hidden = 256;
  GgufWriter writer = TinyModel(options);
  GgufWriter::Tensor* tensor = writer.FindTensor("blk.1.ffn_up.weight");
  tensor->type = 21;
  tensor->data.assign(256 * 110, 0);
  ExpectConfigRefused(writer, kUnimplemented, "tensor 'blk.1.ffn_up.weight' is of type IQ3_S");
}

TEST(VocabularyFromGguf, ReadsEveryPart) {
  const TokenizerSpec spec = ReadTokenizerSpec(Parsed(Tiny()).file).value();
  EXPECT_EQ(spec.model, TokenizerModel::kByteBpe);
  EXPECT_EQ(spec.pre, "gpt-2");
  ASSERT_EQ(spec.tokens.size(), static_cast<size_t>(testing::kTinyVocab));
  EXPECT_EQ(spec.tokens['A'], "A");
  EXPECT_EQ(spec.tokens[' '], "Ġ");
  EXPECT_EQ(spec.merges[0], "t h");
  EXPECT_EQ(spec.types[testing::kTinyImEnd], TokenType::kControl);
  EXPECT_EQ(spec.bos_id, testing::kTinyImStart);
  EXPECT_EQ(spec.eos_id, testing::kTinyImEnd);
  EXPECT_EQ(spec.unk_id, testing::kTinyEndOfText);
  EXPECT_EQ(spec.eot_id, -1);
  EXPECT_FALSE(spec.add_bos);
  EXPECT_FALSE(spec.add_space_prefix);
}

GgufWriter SentencePiece() {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  writer.String("tokenizer.ggml.model", "llama");
  writer.Strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a"});
  writer.Floats("tokenizer.ggml.scores", {0, 0, 0, -1});
  return writer;
}

TEST(VocabularyFromGguf, SentencePieceHasItsOwnDefaults) {
  const TokenizerSpec spec = ReadTokenizerSpec(Parsed(SentencePiece()).file).value();
  EXPECT_EQ(spec.model, TokenizerModel::kSentencePiece);
  EXPECT_THAT(spec.scores, ElementsAre(0, 0, 0, -1));
  EXPECT_EQ(spec.bos_id, 1);
  EXPECT_EQ(spec.eos_id, 2);
  EXPECT_EQ(spec.unk_id, 0);
  EXPECT_TRUE(spec.add_bos);
  EXPECT_FALSE(spec.add_eos);
  EXPECT_TRUE(spec.add_space_prefix);
}

TEST(VocabularyFromGguf, ByteBpeNamesNoTokensOfItsOwnAndLlama3AddsBos) {
  GgufWriter writer = Tiny();
  for (const char* key : {"bos_token_id", "eos_token_id", "unknown_token_id", "add_bos_token"}) {
    writer.Remove(absl::StrCat("tokenizer.ggml.", key));
  }
  writer.String("tokenizer.ggml.pre", "llama-bpe");
  TokenizerSpec spec = ReadTokenizerSpec(Parsed(writer).file).value();
  EXPECT_EQ(spec.bos_id, -1);
  EXPECT_EQ(spec.eos_id, -1);
  EXPECT_FALSE(spec.add_bos) << "there is none to add";
  writer.U32("tokenizer.ggml.bos_token_id", 285);
  writer.U32("tokenizer.ggml.eot_token_id", 286);
  writer.U32("tokenizer.ggml.eom_token_id", 287);
  spec = ReadTokenizerSpec(Parsed(writer).file).value();
  EXPECT_TRUE(spec.add_bos);
  EXPECT_EQ(spec.eot_id, 286);
  EXPECT_EQ(spec.eom_id, 287);
}

TEST(VocabularyFromGguf, AbsentAndUnknownKindsAreRefusedByName) {
  GgufWriter writer = Tiny();
  writer.Remove("tokenizer.ggml.pre");
  ExpectVocabularyRefused(writer, kUnimplemented, "key 'tokenizer.ggml.pre' is absent");
  writer.String("tokenizer.ggml.model", "t5");
  ExpectVocabularyRefused(writer, kUnimplemented, "tokenizer model \"t5\" is not implemented");
  writer.Remove("tokenizer.ggml.model");
  ExpectVocabularyRefused(writer, kNotFound, "tokenizer.ggml.model");
  GgufWriter no_scores = SentencePiece();
  no_scores.Remove("tokenizer.ggml.scores");
  ExpectVocabularyRefused(no_scores, kDataLoss, "tokenizer.ggml.scores");
}

TEST(VocabularyFromGguf, ArraysOfOtherLengthsAndTypesAreRefused) {
  GgufWriter writer = Tiny();
  writer.Ints("tokenizer.ggml.token_type", {1, 1});
  ExpectVocabularyRefused(writer, kDataLoss,
                          "has 2 entries, needed one for each of the 288 tokens");
  writer.Floats("tokenizer.ggml.token_type", std::vector<float>(288, 1.0f));
  ExpectVocabularyRefused(writer, kDataLoss, "needed an array of i32 or u32");
  writer.Ints("tokenizer.ggml.token_type", std::vector<int32_t>(288, 7));
  ExpectVocabularyRefused(writer, kDataLoss, "holds 7 for token 0, needed 0 to 6");
  writer.Ints("tokenizer.ggml.token_type", std::vector<int32_t>(288, -1));
  ExpectVocabularyRefused(writer, kDataLoss, "holds -1");
  writer.Remove("tokenizer.ggml.token_type");
  EXPECT_TRUE(ReadTokenizerSpec(Parsed(writer).file).value().types.empty());

  GgufWriter spm = SentencePiece();
  spm.Ints("tokenizer.ggml.scores", {0, 0, 0, 0});
  ExpectVocabularyRefused(spm, kDataLoss, "needed an array of f32");
  spm.Floats("tokenizer.ggml.scores", {0, std::nanf(""), 0, 0});
  ExpectVocabularyRefused(spm, kDataLoss, "holds nan for token 1");
  spm.Strings("tokenizer.ggml.tokens", {});
  ExpectVocabularyRefused(spm, kDataLoss, "has 0 entries");
  spm.Strings("tokenizer.ggml.tokens", {"a", std::string(65537, 'x'), "b", "c"});
  ExpectVocabularyRefused(spm, kDataLoss, "has token 1 of 65537 bytes");
}

TEST(VocabularyFromGguf, TokensMustBeTheEmbeddingsRows) {
  GgufWriter writer = Tiny();
  writer.Strings("tokenizer.ggml.tokens", std::vector<std::string>(287, "x"));
  ExpectVocabularyRefused(writer, kInvalid,
                          "has 287 entries, tensor 'token_embd.weight' has 288 rows");
}

TEST(VocabularyFromGguf, MergesAreTwoParts) {
  for (const char* merge : {"", "ab", "a ", " b", " "}) {
    GgufWriter writer = Tiny();
    writer.Strings("tokenizer.ggml.merges", {"t h", merge});
    ExpectVocabularyRefused(writer, kDataLoss, "has entry 1 of");
  }
  GgufWriter writer = Tiny();
  writer.Remove("tokenizer.ggml.merges");
  ExpectVocabularyRefused(writer, kNotFound, "tokenizer.ggml.merges");
}

TEST(VocabularyFromGguf, IdsOutsideTheVocabularyAreRefusedAndMinusOneIsNone) {
  for (const char* name : {"bos", "eos", "unknown", "padding", "eot", "eom"}) {
    const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
    GgufWriter writer = Tiny();
    writer.U32(key, 288);
    ExpectVocabularyRefused(writer, kDataLoss,
                            absl::StrCat("key '", key, "' is 288, needed 0 to 287"));
    writer.U64(key, 1ull << 40);
    ExpectVocabularyRefused(writer, kDataLoss, key);
    writer.Raw(key, 5, BytesOf<int32_t>(-2));
    ExpectVocabularyRefused(writer, kDataLoss, key);
    writer.U32(key, 0xFFFFFFFF);
    EXPECT_TRUE(ReadTokenizerSpec(Parsed(writer).file).ok()) << key;
  }
  GgufWriter writer = Tiny();
  writer.U32("tokenizer.ggml.eos_token_id", 0xFFFFFFFF);
  writer.Bool("tokenizer.ggml.add_eos_token", true);
  ExpectVocabularyRefused(writer, kDataLoss, "is true, and the file names no such token");
}

TEST(LoadText, ATinyModelsTokenizerAndTemplateWorkTogether) {
  const Parsed tiny(Tiny());
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(tiny.file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), testing::kTinyVocab);
  EXPECT_THAT((*tokenizer)->Encode("Az", {}).value(), ElementsAre('A', 'z'));
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat = LoadChatTemplate(tiny.file, **tokenizer);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_NE(*chat, nullptr);
}

TEST(LoadText, NoTemplateIsNoErrorAndABrokenOneNamesTheFile) {
  GgufWriter writer = Tiny();
  writer.Remove("tokenizer.chat_template");
  const Parsed without(writer);
  const std::unique_ptr<Tokenizer> tokenizer = LoadTokenizer(without.file).value();
  EXPECT_EQ(LoadChatTemplate(without.file, *tokenizer).value(), nullptr);
  writer.String("tokenizer.chat_template", "{% for %}");
  const absl::Status broken = LoadChatTemplate(Parsed(writer).file, *tokenizer).status();
  EXPECT_EQ(broken.code(), kInvalid);
  EXPECT_THAT(std::string(broken.message()), HasSubstr("m.gguf: "));
  writer.String("tokenizer.ggml.pre", "no-such-pre");
  EXPECT_THAT(std::string(LoadTokenizer(Parsed(writer).file).status().message()),
              HasSubstr("no-such-pre"));
}

TEST(RealModel, SmolLm2ReadsAsPublished) {
  const char* path = std::getenv("NIBBLE_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set NIBBLE_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf";
  const absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::StatusOr<ModelConfig> config = ReadModelConfig(*file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_layers, 30);
  EXPECT_EQ(config->hidden_size, 576);
  EXPECT_EQ(config->num_heads, 9);
  EXPECT_EQ(config->num_kv_heads, 3);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->vocab_size, 49152);
  EXPECT_EQ(config->context_length, 8192);
  EXPECT_EQ(config->rope_base, 100000.0f);
  EXPECT_TRUE(config->tied_head);
  const std::unique_ptr<WeightSource> source = MakeGgufSource(*file);
  for (const TensorShape& tensor : NeededTensors(*config)) {
    if (tensor.shape.size() != 2) continue;
    const absl::StatusOr<quant::Matrix> matrix = source->LoadMatrix(
        tensor.name, static_cast<int32_t>(tensor.shape[0]), static_cast<int32_t>(tensor.shape[1]));
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    ASSERT_TRUE(quant::Validate(*matrix).ok()) << tensor.name;
  }
  const TokenizerSpec spec = ReadTokenizerSpec(*file).value();
  EXPECT_EQ(spec.pre, "smollm");
  EXPECT_EQ(spec.tokens[1], "<|im_start|>");
  EXPECT_EQ(spec.eos_id, 2);
}

}  // namespace
}  // namespace nibble
