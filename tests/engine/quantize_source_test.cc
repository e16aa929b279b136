// A folder in Hugging Face's layout becomes the GGUF file that its own GGUF twin becomes.
#include "engine/quantize_source.h"

#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "engine/gguf_model.h"
#include "engine/quantize/gguf_quantizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/hf_folder.h"

namespace nibble {
namespace {

using testing::TinyModelOptions;

TinyModelOptions Options(const char* architecture) {
  TinyModelOptions options;
  options.architecture = architecture;
  options.tied_head = false;
  options.layers = 2;
  options.hidden = options.ffn = 64;
  options.matrix_type = options.embedding_type = GgmlType::kF32;
  return options;
}

std::string OutputPath(absl::string_view name) {
  const std::string path =
      absl::StrCat(::testing::TempDir(), "/nibble_quantize_source_", getpid(), "_", name);
  unlink(path.c_str());
  return path;
}

GgufFile Quantized(const std::string& model, const std::string& type, const std::string& output) {
  const QuantizeSource source = QuantizeSource::Open(model).value();
  QuantizeOptions options;
  RecipeOptions recipe;
  recipe.mix = options.mix = ParseMix(type).value();
  options.output = output;
  options.num_threads = 2;
  options.keys = source.Keys().value();
  options.provenance.source_sha256 = source.Sha256().value();
  const auto recipes = PlanTypes(source.tensors(), recipe).value();
  EXPECT_TRUE(QuantizeGguf(source.tensors(), recipes, options).ok());
  return GgufFile::Open(output).value();
}

class FolderAndFile : public ::testing::TestWithParam<const char*> {};

TEST_P(FolderAndFile, BecomeTheSameTensors) {
  const TinyModelOptions options = Options(GetParam());
  const std::string file = testing::WriteTempFile(absl::StrCat("source_", GetParam(), ".gguf"),
                                                  testing::TinyModel(options).Build());
  const std::string folder = testing::TinyFolder(options).Write(GetParam());
  for (const char* type : {"f32", "q8_0", "q4_k_m"}) {
    const GgufFile from_file = Quantized(file, type, OutputPath("file"));
    const GgufFile from_folder = Quantized(folder, type, OutputPath("folder"));
    ASSERT_TRUE(ReadModelConfig(from_folder).ok());
    ASSERT_EQ(from_folder.tensors().size(), from_file.tensors().size());
    for (const GgufTensor& wanted : from_file.tensors()) {
      const GgufTensor* found = from_folder.Find(wanted.name);
      ASSERT_NE(found, nullptr) << wanted.name;
      EXPECT_EQ(found->ggml_type, wanted.ggml_type) << wanted.name;
      EXPECT_EQ(from_folder.Data(*found), from_file.Data(wanted)) << wanted.name;
    }
    EXPECT_EQ(ReadTokenizerSpec(from_folder).value().tokens,
              ReadTokenizerSpec(from_file).value().tokens);
  }
}
INSTANTIATE_TEST_SUITE_P(Architectures, FolderAndFile, ::testing::Values("llama", "qwen2"));

TEST(QuantizeSource, AFoldersHashIsThatOfItsFilesHashes) {
  const testing::HfFolder made = testing::TinyFolder(Options("llama"));
  const std::string folder = made.Write("hash");
  std::string lines;
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors",
                           "tokenizer.json", "tokenizer_config.json"}) {
    absl::StrAppend(&lines, FileSha256(absl::StrCat(folder, "/", name)).value(), "  ", name, "\n");
  }
  testing::WriteText(folder + "/README.md", "not a part of the model");
  const std::string hash = QuantizeSource::Open(folder)->Sha256().value();
  EXPECT_EQ(hash, Hex(Sha256(std::vector<uint8_t>(lines.begin(), lines.end()))));
  testing::WriteText(folder + "/config.json", made.config.dump() + "\n");
  EXPECT_NE(QuantizeSource::Open(folder)->Sha256().value(), hash);
  testing::WriteText(folder + "/config.json", made.config.dump(2));
  const std::string before = QuantizeSource::Open(folder)->Sha256().value();
  testing::WriteText(folder + "/quantize_config.json", R"({"bits":4,"group_size":64})");
  EXPECT_NE(QuantizeSource::Open(folder)->Sha256().value(), before)
      << "what its numbers stand for, where GPTQ kept it once";
}

// Its 16-bit numbers are copied, not rounded again.
TEST(QuantizeSource, ARandomModelIsASourceToo) {
  const std::string name = "random:smollm2-135m:bf16";
  const absl::StatusOr<QuantizeSource> source = QuantizeSource::Open(name);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->tensors().tensors()[0].ggml_type, static_cast<int32_t>(GgmlType::kBF16));
  EXPECT_TRUE(source->Keys().ok()) << source->Keys().status();
}

TEST(QuantizeSource, AFieldThatGgufHasNoKeyForIsNamedWithItsFolder) {
  testing::HfFolder folder = testing::TinyFolder(Options("llama"));
  folder.tokenizer["model"]["ignore_merges"] = true;
  const std::string path = folder.Write("merges");
  const absl::Status status = QuantizeSource::Open(path)->Keys().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()),
              ::testing::HasSubstr(path + "/tokenizer.json: 'ignore_merges'"));
}

}  // namespace
}  // namespace nibble
