// A model folder against the GGUF file of the same model, and every key of its files that is not
// taken as it stands.
#include "engine/hf_model.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "engine/inspect.h"
#include "engine/model_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/hf_folder.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HfFolder;
using ::testing::IsEmpty;
using testing::TinyFolder;
using testing::TinyModelOptions;
using testing::WriteText;
using Json = nlohmann::ordered_json;

constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TinyModelOptions Options(const char* architecture = "llama", bool tied = false) {
  TinyModelOptions options;
  options.architecture = architecture;
  options.tied_head = tied;
  options.layers = 1;
  options.hidden = options.ffn = 64;
  options.matrix_type = options.embedding_type = GgmlType::kF32;
  return options;
}

// What serving would load: the first error of config, tensors and text.
absl::Status StatusOf(const HfFolder& folder) {
  const std::string path =
      folder.Write(::testing::UnitTest::GetInstance()->current_test_info()->name());
  const absl::StatusOr<std::unique_ptr<ModelFile>> file = ModelFile::Open(path);
  if (!file.ok()) return file.status();
  if (const absl::Status status = (*file)->Config().status(); !status.ok()) return status;
  const auto tokenizer = (*file)->LoadTokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  return (*file)->LoadChatTemplate(**tokenizer).status();
}

void ExpectRefused(const HfFolder& folder, absl::StatusCode code, absl::string_view part) {
  const absl::Status status = StatusOf(folder);
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(part)));
  EXPECT_THAT(std::string(status.message()), HasSubstr("nibble_hf_")) << "names the folder";
}

ModelConfig ConfigOf(const HfFolder& folder) {
  return ModelFile::Open(folder.Write("config")).value()->Config().value();
}

std::unique_ptr<Tokenizer> TokenizerOf(const HfFolder& folder) {
  return ModelFile::Open(folder.Write("tokenizer")).value()->LoadTokenizer().value();
}

class SameModel : public ::testing::TestWithParam<std::tuple<const char*, bool>> {};

// The same matrices to the bit, under the same names: then every logit is the same.
TEST_P(SameModel, AFolderLoadsAsTheGgufFileDoes) {
  const TinyModelOptions options = Options(std::get<0>(GetParam()), std::get<1>(GetParam()));
  const std::vector<uint8_t> bytes = TinyModel(options).Build();
  const GgufFile gguf = GgufFile::Parse(bytes, "m.gguf").value();
  ModelConfig needed = ReadModelConfig(gguf).value();
  const auto needed_source = MakeGgufSource(gguf);
  const auto file = ModelFile::Open(TinyFolder(options).Write("same") + "/").value();
  EXPECT_THAT(file->name(), ::testing::EndsWith("_same"));
  const ModelConfig config = file->Config().value();
  const auto source = file->Source(config);

  EXPECT_EQ(config.architecture, needed.architecture);
  EXPECT_EQ(config.num_layers, needed.num_layers);
  EXPECT_EQ(config.num_kv_heads, needed.num_kv_heads);
  EXPECT_EQ(config.head_dim, needed.head_dim);
  EXPECT_EQ(config.rotary_dim, needed.rotary_dim);
  EXPECT_EQ(config.rms_epsilon, needed.rms_epsilon);
  EXPECT_EQ(config.rope_base, needed.rope_base);
  EXPECT_EQ(config.rope_layout, needed.rope_layout);
  EXPECT_EQ(config.vocab_size, needed.vocab_size);
  EXPECT_EQ(config.context_length, needed.context_length);
  EXPECT_EQ(config.tied_head, needed.tied_head);
  EXPECT_EQ(config.qkv_bias, needed.qkv_bias);
  for (const TensorReport& tensor : source->Report()) {
    SCOPED_TRACE(tensor.name);
    const auto n = static_cast<int32_t>(tensor.shape[0]);
    if (tensor.shape.size() == 1) {
      EXPECT_EQ(source->LoadVector(tensor.name, n).value(),
                needed_source->LoadVector(tensor.name, n).value());
      continue;
    }
    const auto cols = static_cast<int32_t>(tensor.shape[1]);
    EXPECT_EQ(source->LoadMatrix(tensor.name, n, cols)->codes,
              needed_source->LoadMatrix(tensor.name, n, cols)->codes);
  }
  const auto tokenizer = file->LoadTokenizer().value();
  const auto needed_tokenizer = LoadTokenizer(gguf).value();
  const std::string text = "the sand and 12 ways <|im_end|> in\n\xC3\xA9";
  for (const bool special : {false, true}) {
    EXPECT_EQ(tokenizer->Encode(text, {.parse_special = special}).value(),
              needed_tokenizer->Encode(text, {.parse_special = special}).value());
  }
  EXPECT_EQ(file->LoadChatTemplate(*tokenizer).value()->source(),
            LoadChatTemplate(gguf, *needed_tokenizer).value()->source());
}
INSTANTIATE_TEST_SUITE_P(Families, SameModel,
                         ::testing::Combine(::testing::Values("llama", "qwen2"),
                                            ::testing::Bool()));

TEST(HfConfig, RopeScalingsThatAreReadAndThoseThatAreNot) {
  HfFolder folder = TinyFolder(Options());
  EXPECT_EQ(ConfigOf(folder).rope_scaling, RopeScaling::kNone);
  folder.config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(ConfigOf(folder).rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(ConfigOf(folder).rope_factor, 4.0f);
  const Json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 128}};
  folder.config["rope_scaling"] = llama3;
  EXPECT_EQ(ConfigOf(folder).rope_scaling, RopeScaling::kLlama3);
  EXPECT_EQ(ConfigOf(folder).rope_original_context, 128);
  // transformers 5 keeps all of it in one place.
  folder.config.erase("rope_scaling");
  folder.config["rope_parameters"] = llama3;
  folder.config["rope_parameters"]["rope_theta"] = 5e5;
  EXPECT_EQ(ConfigOf(folder).rope_base, 5e5f);
  EXPECT_EQ(ConfigOf(folder).rope_factor, 32.0f);
  for (const char* type : {"yarn", "dynamic", "longrope", "su"}) {
    folder.config["rope_parameters"] = {{"rope_type", type}, {"factor", 2.0}};
    ExpectRefused(folder, kUnimplemented, absl::StrCat("rope_type' is \"", type, "\""));
  }
}

TEST(HfConfig, KeysThatChangeTheMathsAreRefusedByName) {
  const auto with = [](const char* key, const Json& value) {
    HfFolder folder = TinyFolder(Options());
    folder.config[key] = value;
    return folder;
  };
  ExpectRefused(with("architectures", {"GemmaForCausalLM"}), kUnimplemented, "Gemma");
  ExpectRefused(with("architectures", Json::array()), kUnimplemented, "architectures");
  ExpectRefused(with("hidden_act", "gelu"), kUnimplemented, "hidden_act");
  ExpectRefused(with("mlp_bias", true), kUnimplemented, "mlp_bias");
  ExpectRefused(with("partial_rotary_factor", 0.5), kUnimplemented, "partial_rotary_factor");
  ExpectRefused(with("num_local_experts", 8), kUnimplemented, "mixture of experts");
  HfFolder mistral = with("architectures", {"MistralForCausalLM"});
  EXPECT_TRUE(StatusOf(mistral).ok()) << StatusOf(mistral);
  mistral.config["sliding_window"] = 16;
  ExpectRefused(mistral, kUnimplemented, "sliding_window");
  ExpectRefused(with("quantization_config", {{"quant_method", "hqq"}}), kUnimplemented, "hqq");
}

TEST(HfConfig, NumbersOutOfRange) {
  for (const char* key : {"num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size",
                          "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
                          "rms_norm_eps", "rope_theta"}) {
    for (const Json& value : {Json(0), Json(-1), Json("4"), Json(1e300), Json(int64_t{1} << 40)}) {
      HfFolder folder = TinyFolder(Options());
      folder.config[key] = value;
      if (std::string(key) == "rope_theta" && value == int64_t{1} << 40) continue;  // fits
      ExpectRefused(folder, kInvalid, absl::StrCat("'", key, "'"));
    }
  }
  HfFolder folder = TinyFolder(Options());
  folder.config["num_key_value_heads"] = 3;
  ExpectRefused(folder, kInvalid, "needed a divisor of the 4 heads");
  folder = TinyFolder(Options());
  folder.config["num_hidden_layers"] = 1024;
  ExpectRefused(folder, absl::StatusCode::kNotFound, "tensor 'blk.1.attn_norm.weight' is absent");
  folder = TinyFolder(Options());
  folder.config["hidden_size"] = 128;
  ExpectRefused(folder, kInvalid, "the config needs");
}

TEST(HfTensors, OneTooManyOrOneTooFew) {
  HfFolder folder = TinyFolder(Options());
  folder.weights.Add("model.layers.0.self_attn.q_norm.weight", "F32", {1}, {0, 0, 0, 0});
  ExpectRefused(folder, kUnimplemented, "q_norm.weight' has no place");
  folder = TinyFolder(Options());
  folder.weights.Add("model.layers.0.self_attn.o_proj.bias", "F32", {1}, {0, 0, 0, 0});
  ExpectRefused(folder, kUnimplemented, "'blk.0.attn_output.bias' has no place");
  folder = TinyFolder(Options());
  folder.config["tie_word_embeddings"] = true;
  EXPECT_TRUE(StatusOf(folder).ok()) << "a head that is stored though it is tied is not read";
  folder = TinyFolder(Options("llama", /*tied=*/true));
  folder.config["tie_word_embeddings"] = false;
  ExpectRefused(folder, absl::StatusCode::kNotFound, "'output.weight' is absent");
}

TEST(HfTokenizer, EndsOfAGenerationAreThoseOfItsConfig) {
  HfFolder folder = TinyFolder(Options());
  folder.generation_config = {{"eos_token_id", {7, 9}}};
  const auto tokenizer = TokenizerOf(folder);
  const absl::Span<const int32_t> ends = tokenizer->end_of_generation_ids();
  EXPECT_THAT(std::vector<int32_t>(ends.begin(), ends.end()), ::testing::IsSupersetOf({7, 9}));
  folder.generation_config = {{"eos_token_id", 288}};
  ExpectRefused(folder, kInvalid, "eos_token_id");
  folder.generation_config = {{"eos_token_id", {-1}}};
  ExpectRefused(folder, kInvalid, "eos_token_id");
}

TEST(HfTokenizer, RowsBeyondTheTokensAreTokensWithoutText) {
  HfFolder folder = TinyFolder(Options());
  const std::string last = folder.tokenizer["added_tokens"].back()["content"];
  EXPECT_EQ(last, "<|im_end|>");
  for (Json& token : folder.tokenizer["added_tokens"]) {
    if (token["content"] == "<|endoftext|>") token["content"] = "<|other|>";
  }
  folder.tokenizer["model"]["vocab"].erase(folder.tokenizer["model"]["vocab"].begin());
  const auto tokenizer = TokenizerOf(folder);
  EXPECT_EQ(tokenizer->vocab_size(), testing::kTinyVocab);
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{0}, true).value(), "");
}

TEST(HfTokenizer, WhatWouldGiveWrongIdsIsRefusedByName) {
  const auto with = [](const char* key, const Json& value) {
    HfFolder folder = TinyFolder(Options());
    folder.tokenizer[key] = value;
    return folder;
  };
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", "x+"}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const auto sequence = [](const Json& a, const Json& b) {
    return Json{{"type", "Sequence"}, {"pretokenizers", {a, b}}};
  };
  ExpectRefused(with("pre_tokenizer", nullptr), kUnimplemented, "pre_tokenizer");
  ExpectRefused(with("pre_tokenizer", {{"type", "Metaspace"}}), kUnimplemented, "Metaspace");
  ExpectRefused(with("pre_tokenizer", bytes), kUnimplemented, "pre_tokenizer");
  ExpectRefused(with("pre_tokenizer", sequence(split, bytes)), kUnimplemented, "\"x+\"");
  ExpectRefused(with("pre_tokenizer", {{"type", "ByteLevel"}}), kUnimplemented, "add_prefix_space");
  ExpectRefused(with("normalizer", {{"type", "Lowercase"}}), kUnimplemented, "Lowercase");
  ExpectRefused(with("post_processor", {{"type", "BertProcessing"}}), kUnimplemented, "Bert");
  for (const char* key : {"lstrip", "rstrip", "single_word"}) {
    HfFolder folder = TinyFolder(Options());
    folder.tokenizer["added_tokens"][0][key] = true;
    ExpectRefused(folder, kUnimplemented, key);
  }
  HfFolder folder = TinyFolder(Options());
  folder.tokenizer["model"]["type"] = "Unigram";
  ExpectRefused(folder, kUnimplemented, "Unigram");
  folder.tokenizer["model"]["type"] = "BPE";
  folder.tokenizer["model"]["byte_fallback"] = true;
  ExpectRefused(folder, kUnimplemented, "byte_fallback");
}

TEST(HfTokenizer, IdsThatAreTwiceOrOutOfRange) {
  HfFolder folder = TinyFolder(Options());
  folder.tokenizer["model"]["vocab"]["new"] = 5;
  ExpectRefused(folder, absl::StatusCode::kDataLoss, "token 5 is");
  for (const Json& id : {Json(-1), Json(288), Json("5"), Json(1e18)}) {
    folder = TinyFolder(Options());
    folder.tokenizer["model"]["vocab"]["new"] = id;
    ExpectRefused(folder, kInvalid, "vocab.new");
  }
  folder = TinyFolder(Options());
  folder.tokenizer["model"]["merges"].push_back("a");
  ExpectRefused(folder, kInvalid, "merges");
  folder = TinyFolder(Options());
  folder.tokenizer_config["bos_token"] = "<absent>";
  ExpectRefused(folder, kInvalid, "bos_token");
}

TEST(HfTokenizer, ATemplateSaysWhatStandsAroundAText) {
  HfFolder folder = TinyFolder(Options());
  const Json im_start = {{"SpecialToken", {{"id", "<|im_start|>"}}}};
  const Json text = {{"Sequence", {{"id", "A"}}}};
  folder.tokenizer["post_processor"] = {{"type", "TemplateProcessing"},
                                        {"single", Json::array({im_start, text})}};
  const std::vector<int32_t> ids = TokenizerOf(folder)->Encode("a", {.add_special = true}).value();
  EXPECT_THAT(ids, ElementsAre(testing::kTinyImStart, 'a'));
  folder.tokenizer["post_processor"]["single"] = Json::array({im_start, im_start, text});
  ExpectRefused(folder, kUnimplemented, "single");
}

TEST(HfChatTemplate, AFileOfItsOwnComesFirstAndADefaultOfMany) {
  HfFolder folder = TinyFolder(Options());
  folder.tokenizer_config["chat_template"] = {{{"name", "tool"}, {"template", "T"}},
                                              {{"name", "default"}, {"template", "D"}}};
  const fs::path path = folder.Write("template");
  const ModelFolder opened = ModelFolder::Open(path.string()).value();
  EXPECT_EQ(ReadHfChatTemplate(opened).value(), "D");
  WriteText(path / "chat_template.jinja", "J");
  EXPECT_EQ(ReadHfChatTemplate(opened).value(), "J");
  fs::remove(path / "chat_template.jinja");
  fs::remove(path / "tokenizer_config.json");
  EXPECT_FALSE(ReadHfChatTemplate(opened)->has_value());
}

TEST(ModelFileOpen, TellsWhatAPathIsByItsContent) {
  const fs::path path = TinyFolder(Options()).Write("content");
  const auto expect = [](const fs::path& what, absl::StatusCode code, const char* part) {
    const absl::Status status = ModelFile::Open(what.string()).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  };
  expect(path / "model.safetensors", kInvalid, "needed the folder it is in");
  expect(path / "config.json", absl::StatusCode::kDataLoss, "is it a GGUF file?");
  expect(path / "absent", absl::StatusCode::kNotFound, "absent");
  const std::vector<uint8_t> gguf = TinyModel(Options()).Build();
  fs::rename(testing::WriteTempFile("content", gguf), path / "model.bin");
  EXPECT_TRUE(ModelFile::Open((path / "model.bin").string()).ok()) << "a GGUF file by any name";
  fs::rename(path / "model.bin", path / "m.gguf");
  fs::remove(path / "config.json");
  expect(path, kInvalid, "name the .gguf file inside it");
  fs::remove(path / "m.gguf");
  expect(path, kInvalid, "has no config.json, needed a GGUF file or a folder");
  WriteText(path / "config.json", "{}");
  expect(path, absl::StatusCode::kOk, "");
}

TEST(InspectFolder, DescribesWhatIsServableAndListsWhatIsNot) {
  HfFolder folder = TinyFolder(Options());
  InspectReport report = Inspect(folder.Write("inspect"));
  EXPECT_TRUE(report.status.ok()) << report.status;
  EXPECT_THAT(report.unsupported, IsEmpty());
  EXPECT_EQ(report.format, "safetensors, 1 file");
  EXPECT_EQ(report.tokenizer, "byte-level BPE, pre gpt-2, 288 tokens, bos 286, eos 287");
  EXPECT_TRUE(report.has_chat_template);
  EXPECT_EQ(report.types[0].first, "F32");
  EXPECT_GT(report.num_parameters, 0);
  EXPECT_EQ(report.weights_bytes, report.num_parameters * 4);

  folder.weights.Add("lm_head.extra", "F32", {1}, {0, 0, 0, 0});
  folder.tokenizer["normalizer"] = {{"type", "Lowercase"}};
  report = Inspect(folder.Write("inspect"));
  EXPECT_EQ(report.status.code(), kUnimplemented);
  EXPECT_THAT(report.unsupported, Contains(HasSubstr("lm_head.extra")));
  EXPECT_THAT(report.unsupported, Contains(HasSubstr("Lowercase")));
  EXPECT_EQ(report.config.num_layers, 1);
}

// config.json and tokenizer.json with bytes changed and ends cut off: typed errors or a model.
// Nothing of a tensor with an empty side is in the file, whatever its other sides claim: their
// product does not fit 63 bits, which the sanitizer's build would stop at.
TEST(InspectFolder, AnEmptyTensorHasNoElements) {
  HfFolder folder = TinyFolder(Options());
  const InspectReport before = Inspect(folder.Write("inspect_empty"));
  folder.weights.Add("model.layers.0.self_attn.q_proj.bias", "F32",
                     {int64_t{1} << 62, int64_t{1} << 62, 0}, {});
  const InspectReport report = Inspect(folder.Write("inspect_empty"));
  EXPECT_FALSE(report.status.ok());
  EXPECT_EQ(report.num_parameters, before.num_parameters);
}

TEST(HostileFolder, MutantsOfItsJsonAreTypedErrorsOrValid) {
  const fs::path path = TinyFolder(Options()).Write("hostile");
  for (const char* file : {"config.json", "tokenizer.json", "generation_config.json"}) {
    const std::string whole = ModelFolder::Open(path.string())->ReadText(file, 1 << 20).value();
    const size_t step = std::max<size_t>(1, whole.size() / 300);
    for (size_t at = 0; at < whole.size(); at += step) {
      for (const int kind : {0, 1, 2}) {
        std::string mutant = whole;
        if (kind == 0) mutant.resize(at);
        if (kind == 1) mutant[at] = static_cast<char>(mutant[at] ^ 1);
        if (kind == 2) mutant[at] = '9';
        WriteText(path / file, mutant);
        const InspectReport report = Inspect(path.string());
        EXPECT_NE(report.status.code(), absl::StatusCode::kInternal) << report.status;
        EXPECT_NE(report.status.code(), absl::StatusCode::kUnknown) << report.status;
      }
    }
    WriteText(path / file, whole);
  }
  EXPECT_TRUE(Inspect(path.string()).status.ok());
}

}  // namespace
}  // namespace nibble
