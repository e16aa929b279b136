#include "engine/weights/hf/hf_source.h"

#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"
#include "tests/engine/weights/safetensors_writer.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SafetensorsWriter;

constexpr int32_t kHead = 4, kRows = 2 * kHead, kCols = 32;
constexpr char kQ[] = "model.layers.0.self_attn.q_proj";

std::vector<uint8_t> BytesOfFloats(const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Row r holds r everywhere.
std::vector<float> RowNumbers(int32_t rows, int32_t cols) {
  std::vector<float> values;
  for (int32_t r = 0; r < rows; ++r) {
    values.insert(values.end(), static_cast<size_t>(cols), static_cast<float>(r));
  }
  return values;
}

class Folder {
 public:
  explicit Folder(const SafetensorsWriter& writer, QuantConfig config = {},
                  int32_t head_dim = kHead)
      : bytes_(writer.Build()) {
    std::vector<SafetensorsFile> files;
    files.push_back(SafetensorsFile::Parse(bytes_, "m.safetensors").value());
    set_ = std::make_unique<TensorSet>(TensorSet::Make(std::move(files)).value());
    source_ = MakeHfSource(*set_, config, {.interleave_head_dim = head_dim});
  }
  const HfSource& source() const { return *source_; }

 private:
  std::vector<uint8_t> bytes_;
  std::unique_ptr<TensorSet> set_;
  std::unique_ptr<HfSource> source_;
};

std::vector<float> FirstColumn(const quant::Matrix& matrix) {
  std::vector<float> row(static_cast<size_t>(matrix.cols)), column;
  for (int32_t n = 0; n < matrix.rows; ++n) {
    quant::DequantizeRow(matrix, n, row.data());
    column.push_back(row[0]);
  }
  return column;
}

TEST(HfSource, ModulesHaveTheNamesOfGguf) {
  EXPECT_EQ(GgufNameOf("model.embed_tokens"), "token_embd");
  EXPECT_EQ(GgufNameOf("lm_head"), "output");
  EXPECT_EQ(GgufNameOf("model.norm"), "output_norm");
  EXPECT_EQ(GgufNameOf("model.layers.12.mlp.down_proj"), "blk.12.ffn_down");
  EXPECT_EQ(GgufNameOf("model.layers.0.post_attention_layernorm"), "blk.0.ffn_norm");
  for (const char* other :
       {"model.layers.x.mlp.down_proj", "model.layers.01.mlp.down_proj", "model.layers.0",
        "model.layers.-1.mlp.up_proj", "model.layers.99999999999.mlp.up_proj", "norm",
        "model.layers.0.self_attn.q_norm"}) {
    EXPECT_FALSE(GgufNameOf(other).has_value()) << other;
  }
}

TEST(HfSource, NamesOfGgufLeadBackToTheModules) {
  for (const char* module :
       {"model.embed_tokens", "model.norm", "lm_head", "model.layers.0.input_layernorm",
        "model.layers.12.self_attn.q_proj", "model.layers.3.self_attn.k_proj",
        "model.layers.3.self_attn.v_proj", "model.layers.3.self_attn.o_proj",
        "model.layers.7.post_attention_layernorm", "model.layers.7.mlp.gate_proj",
        "model.layers.7.mlp.up_proj", "model.layers.7.mlp.down_proj"}) {
    EXPECT_EQ(HfModuleOf(*GgufNameOf(module)), module);
  }
  for (const char* other : {"blk.x.attn_q", "blk.01.attn_q", "blk.0", "rope_freqs", "blk.0.up"}) {
    EXPECT_FALSE(HfModuleOf(other).has_value()) << other;
  }
}

TEST(HfSource, RowsOfQAndKComeInterleavedAndTheirBiasesToo) {
  SafetensorsWriter writer;
  const std::vector<uint8_t> rows = BytesOfFloats(RowNumbers(kRows, kCols));
  for (const char* name : {"q", "k", "v"}) {
    const std::string module = absl::StrCat("model.layers.0.self_attn.", name, "_proj");
    writer.Add(module + ".weight", "F32", {kRows, kCols}, rows);
    writer.Add(module + ".bias", "F32", {kRows}, BytesOfFloats(RowNumbers(kRows, 1)));
  }
  const Folder folder(writer);
  const HfSource& source = folder.source();
  const std::vector<float> turned = {0, 2, 1, 3, 4, 6, 5, 7};
  for (const char* name : {"blk.0.attn_q", "blk.0.attn_k"}) {
    const std::string weight = absl::StrCat(name, ".weight"), bias = absl::StrCat(name, ".bias");
    EXPECT_EQ(FirstColumn(source.LoadMatrix(weight, kRows, kCols).value()), turned);
    EXPECT_EQ(source.LoadVector(bias, kRows).value(), turned);
    // Any range of rows is that range of the whole.
    for (int32_t first = 0; first < kRows; ++first) {
      for (int32_t count = 1; count <= kRows - first; ++count) {
        const auto part = source.LoadRows(weight, kRows, kCols, {first, count});
        EXPECT_EQ(FirstColumn(part.value()),
                  std::vector<float>(turned.begin() + first, turned.begin() + first + count));
      }
    }
  }
  EXPECT_EQ(FirstColumn(source.LoadMatrix("blk.0.attn_v.weight", kRows, kCols).value()),
            RowNumbers(kRows, 1));
  EXPECT_EQ(source.LoadVector("blk.0.attn_v.bias", kRows).value(), RowNumbers(kRows, 1));
}

TEST(HfSource, WithoutHeadsRowsStayAsTheyAre) {
  SafetensorsWriter writer;
  writer.Add(absl::StrCat(kQ, ".weight"), "F32", {kRows, kCols},
             BytesOfFloats(RowNumbers(kRows, kCols)));
  const Folder folder(writer, {}, 0);
  EXPECT_EQ(FirstColumn(folder.source().LoadMatrix("blk.0.attn_q.weight", kRows, kCols).value()),
            RowNumbers(kRows, 1));
}

// Scales of 128 x 128 go with heads that fit into 128 rows, and no others.
TEST(HfSource, BlocksOfScalesTurnOnlyWithHeadsThatFitThem) {
  constexpr int32_t kTall = 256 * 3;
  SafetensorsWriter writer;
  writer.Add(absl::StrCat(kQ, ".weight"), "F8_E4M3", {kTall, 128},
             std::vector<uint8_t>(kTall * 128, 0x38));  // all ones
  writer.Add(absl::StrCat(kQ, ".weight_scale_inv"), "F32", {6, 1},
             BytesOfFloats({1, 2, 3, 4, 5, 6}));
  const QuantConfig config = {.method = QuantMethod::kFp8, .name = "fp8"};
  const Folder fits(writer, config, 64);
  const auto matrix = fits.source().LoadRows("blk.0.attn_q.weight", kTall, 128, {128, 256});
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_THAT(matrix->scales, ElementsAre(2, 3));
  for (const int32_t head_dim : {96, 256}) {
    const Folder torn(writer, config, head_dim);
    const absl::Status status =
        torn.source().LoadMatrix("blk.0.attn_q.weight", kTall, 128).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_EQ(torn.source().problems().size(), 1u);
  }
}

TEST(HfSource, WhatHasNoPlaceOrNoLayoutIsAProblemThatNamesIt) {
  SafetensorsWriter writer;
  writer.Add("model.layers.0.block_sparse_moe.gate.weight", "F32", {4}, std::vector<uint8_t>(16));
  writer.Add("model.layers.0.self_attn.k_scale", "F32", {1}, std::vector<uint8_t>(4));
  writer.Add("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, std::vector<uint8_t>(4));
  writer.Add("model.norm.weight", "I32", {4}, std::vector<uint8_t>(16));
  writer.Add("lm_head.qweight", "I32", {4, 4}, std::vector<uint8_t>(64));
  writer.Add("model.embed_tokens.weight", "I16", {4, 4}, std::vector<uint8_t>(32));
  const Folder folder(writer);
  std::vector<std::string> messages;
  for (const HfSource::Problem& problem : folder.source().problems()) {
    messages.emplace_back(problem.status.message());
  }
  EXPECT_THAT(messages,
              ElementsAre(HasSubstr("block_sparse_moe.gate.weight' has no place"),
                          HasSubstr("'lm_head.qweight' is packed, and config.json names no"),
                          HasSubstr("'model.norm.weight' is of type I32"),
                          HasSubstr("'model.embed_tokens.weight' is I16 [4, 4], needed F32")));
  EXPECT_FALSE(folder.source().LoadMatrix("output.weight", 4, 4).ok());
}

TEST(HfSource, ShapesAreCheckedAndAbsenceIsSaid) {
  SafetensorsWriter writer;
  writer.Add("model.norm.weight", "BF16", {4}, std::vector<uint8_t>(8));
  const Folder folder(writer);
  EXPECT_TRUE(folder.source().LoadVector("output_norm.weight", 4).ok());
  EXPECT_EQ(folder.source().LoadVector("output_norm.weight", 5).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(folder.source().LoadVector("output.weight", 4).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(folder.source().Has("output.weight"));
}

TEST(HfSource, AnotherByteAnywhereSampledIsAnotherIdentity) {
  SafetensorsWriter writer;
  writer.Add("model.norm.weight", "BF16", {4}, std::vector<uint8_t>(8));
  const SourceIdentity first = Folder(writer).source().Identity().value();
  EXPECT_EQ(first, Folder(writer).source().Identity().value());
  writer.tensors[0].data[7] = 1;
  EXPECT_NE(first.digest, Folder(writer).source().Identity()->digest);
}

TEST(HfSource, AValueThatIsNotFiniteIsDataLoss) {
  SafetensorsWriter writer;
  writer.Add("model.norm.weight", "BF16", {2}, {0x80, 0x7F, 0, 0});
  writer.Add("lm_head.weight", "F32", {1, 32},
             BytesOfFloats(std::vector<float>(32, std::numeric_limits<float>::infinity())));
  const Folder folder(writer);
  EXPECT_EQ(folder.source().LoadVector("output_norm.weight", 2).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(folder.source().LoadMatrix("output.weight", 1, 32).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace nibble
