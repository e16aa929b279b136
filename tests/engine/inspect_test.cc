#include "engine/inspect.h"

#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using testing::TinyModel;
using testing::TinyModelOptions;
using testing::WriteTempFile;

InspectReport InspectBytes(absl::string_view name, absl::Span<const uint8_t> bytes) {
  return Inspect(WriteTempFile(name, bytes));
}

TEST(Inspect, AServableModelIsDescribedCompletely) {
  const GgufWriter writer = TinyModel({});
  const std::vector<uint8_t> bytes = writer.Build();
  const InspectReport report = InspectBytes("inspect.gguf", bytes);
  EXPECT_TRUE(report.status.ok()) << report.status;
  EXPECT_THAT(report.unsupported, IsEmpty());
  EXPECT_EQ(report.file_bytes, static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(report.format, "GGUF v3");
  EXPECT_EQ(report.config.num_layers, 2);
  EXPECT_EQ(report.kv_bytes_per_token, 2 * 2 * 2 * 32 * 2)
      << "k and v, layers, kv heads, head_dim, f16";
  EXPECT_EQ(report.tokenizer, "byte-level BPE, pre gpt-2, 288 tokens, bos 286, eos 287");
  EXPECT_TRUE(report.has_chat_template);
  EXPECT_EQ(report.tensors.size(), writer.tensors.size());
  EXPECT_THAT(report.types, Contains(Pair("Q4_1", 14)));
  EXPECT_EQ(report.types[0].first, "Q4_1") << "most first";
  EXPECT_THAT(report.metadata, Contains(Pair("llama.block_count", "u32 2")));
}

// It keeps nobody from serving text, so it is no verdict on the file.
TEST(Inspect, ATemplateThatCannotBeRenderedIsListedAndTheModelServable) {
  GgufWriter writer = TinyModel({});
  writer.String("tokenizer.chat_template", "{{ messages | frobnicate }}");
  const InspectReport report = InspectBytes("template.gguf", writer.Build());
  EXPECT_TRUE(report.status.ok()) << report.status;
  EXPECT_TRUE(report.has_chat_template);
  EXPECT_THAT(report.unsupported, ElementsAre(HasSubstr("frobnicate")));
}

TEST(Inspect, BytesAndBitsAddUp) {
  const InspectReport report = InspectBytes("bits.gguf", TinyModel({}).Build());
  int64_t file_bytes = 0, loaded = 0, elements = 0;
  for (const TensorReport& tensor : report.tensors) {
    file_bytes += tensor.file_bytes;
    loaded += tensor.canonical_bytes;
    int64_t n = 1;
    for (const int64_t dim : tensor.shape) n *= dim;
    elements += n;
  }
  EXPECT_EQ(report.weights_bytes, file_bytes);
  EXPECT_EQ(report.loaded_bytes, loaded);
  EXPECT_EQ(report.num_parameters, elements);
  EXPECT_DOUBLE_EQ(report.bits_per_weight,
                   8.0 * static_cast<double>(file_bytes) / static_cast<double>(elements));
}

TEST(Inspect, ConvertedTensorsAreMarked) {
  TinyModelOptions options;
  options.hidden = 256;
  options.matrix_type = GgmlType::kF16;
  const InspectReport report = InspectBytes("converted.gguf", TinyModel(options).Build());
  EXPECT_TRUE(report.status.ok()) << report.status;
  for (const TensorReport& tensor : report.tensors)
    EXPECT_EQ(tensor.converted, tensor.file_type == "F16") << tensor.name;
  EXPECT_GT(report.loaded_bytes, report.weights_bytes);
}

TEST(Inspect, WhatCannotBeServedIsListedAndTheRestIsStillThere) {
  TinyModelOptions options;
  options.hidden = 256;
  GgufWriter writer = TinyModel(options);
  GgufWriter::Tensor* tensor = writer.FindTensor("blk.0.ffn_up.weight");
  tensor->type = 22;
  tensor->data.assign(256 * 82, 0);
  writer.String("tokenizer.ggml.pre", "no-such-pre");
  const InspectReport report = InspectBytes("unsupported.gguf", writer.Build());
  EXPECT_EQ(report.status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(report.unsupported,
              Contains(HasSubstr("tensor 'blk.0.ffn_up.weight' is of type IQ2_S")));
  EXPECT_THAT(report.unsupported, Contains(HasSubstr("1 tensors of type IQ2_S")));
  EXPECT_THAT(report.unsupported, Contains(HasSubstr("no-such-pre")));
  EXPECT_EQ(report.config.hidden_size, 256);
  EXPECT_EQ(report.tensors.size(), writer.tensors.size());
}

TEST(Inspect, AnotherArchitectureStillHasItsTensorsListed) {
  GgufWriter writer = TinyModel({});
  writer.String("general.architecture", "mamba");
  const InspectReport report = InspectBytes("mamba.gguf", writer.Build());
  EXPECT_EQ(report.status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(report.config.architecture, "mamba");
  EXPECT_EQ(report.tensors.size(), writer.tensors.size());
  EXPECT_GT(report.bits_per_weight, 4.0);
}

TEST(Inspect, ACorruptFileIsAReport) {
  const std::vector<uint8_t> whole = TinyModel({}).Build();
  const InspectReport cut =
      InspectBytes("cut.gguf", absl::MakeConstSpan(whole).first(whole.size() / 2));
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(cut.format, "GGUF v3");
  EXPECT_EQ(cut.file_bytes, static_cast<int64_t>(whole.size() / 2));
  EXPECT_THAT(cut.unsupported, Contains(HasSubstr("truncated?")));
  const std::vector<uint8_t> text = {'h', 'e', 'l', 'l', 'o'};
  EXPECT_EQ(InspectBytes("text.gguf", text).status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(InspectBytes("text.gguf", text).format, "");
}

TEST(Inspect, AMissingFileAndADirectoryAreReports) {
  EXPECT_EQ(Inspect("/does/not/exist.gguf").status.code(), absl::StatusCode::kNotFound);
  const InspectReport directory = Inspect(::testing::TempDir());
  EXPECT_EQ(directory.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(directory.file_bytes, 0);
}

TEST(InspectRealModel, SmolLm2IsServable) {
  const char* path = std::getenv("NIBBLE_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set NIBBLE_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf";
  const InspectReport report = Inspect(path);
  EXPECT_TRUE(report.status.ok()) << report.status;
  EXPECT_EQ(report.num_parameters, 134515008);
  EXPECT_EQ(report.kv_bytes_per_token, 23040);
  EXPECT_TRUE(report.has_chat_template);
  EXPECT_THAT(report.tokenizer, HasSubstr("pre smollm, 49152 tokens"));
}

}  // namespace
}  // namespace nibble
