#include "engine/random_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer.h"

namespace nibble {
namespace {

using testing::HasSubstr;

RandomModel Model(const std::string& name) { return ParseRandomModel(name).value(); }

TEST(RandomModelTest, EveryNameOfAShapeAndAFormatIsAModel) {
  for (const std::string& shape : RandomShapes()) {
    for (const std::string& format : RandomFormats()) {
      if (shape == "smollm2-135m" && format == "int4-g128") continue;  // rows of 576
      const auto model = ParseRandomModel(absl::StrCat("random:", shape, ":", format));
      ASSERT_TRUE(model.ok()) << model.status();
      EXPECT_EQ(model->format.name, format);
      EXPECT_EQ(model->seed, 1u);
    }
  }
  EXPECT_EQ(Model("random:smollm2-135m:int8:77").seed, 77u);
  EXPECT_TRUE(IsRandomModel("random:anything"));
  EXPECT_FALSE(IsRandomModel("models/random:x.gguf"));
}

TEST(RandomModelTest, AWrongNameIsToldWithThoseThereAre) {
  const auto message = [](absl::string_view name) {
    return std::string(ParseRandomModel(name).status().message());
  };
  EXPECT_THAT(message("random:llama-9b:int8"), HasSubstr("the shape is 'llama-9b', needed one of"));
  EXPECT_THAT(message("random:llama-9b:int8"), HasSubstr("llama-3.1-8b"));
  EXPECT_THAT(message("random:llama-3.1-8b:int3"), HasSubstr("the format is 'int3'"));
  EXPECT_THAT(message("random:llama-3.1-8b:int3"), HasSubstr("int4-g128"));
  EXPECT_THAT(message("random:llama-3.1-8b:int8:x"), HasSubstr("the seed is 'x'"));
  EXPECT_THAT(message("random:llama-3.1-8b:int8:-1"), HasSubstr("the seed is '-1'"));
  EXPECT_THAT(
      message("random:smollm2-135m:int4-g128"),
      HasSubstr("smollm2-135m has rows of 576 weights, the groups of int4-g128 are of 128"));
  for (const char* name : {"random:", "random:llama-3.1-8b", "random:llama-3.1-8b:int8:1:2"}) {
    EXPECT_THAT(message(name), HasSubstr("random:SHAPE:FORMAT[:SEED]"));
  }
}

// Published sizes (config.json of each): embeddings once where they are tied.
TEST(RandomModelTest, ShapesHaveTheirParameters) {
  const auto parameters = [](const std::string& shape) {
    int64_t count = 0;
    for (const TensorReport& tensor :
         MakeRandomSource(Model(absl::StrCat("random:", shape, ":bf16")))->Report()) {
      int64_t elements = 1;
      for (int64_t side : tensor.shape) elements *= side;
      count += elements;
    }
    return count;
  };
  EXPECT_EQ(parameters("smollm2-135m"), 134515008);
  EXPECT_EQ(parameters("llama-3.2-1b"), 1235814400);
  EXPECT_EQ(parameters("llama-3.1-8b"), 8030261248);
  EXPECT_EQ(parameters("llama-3.1-70b"), 70553706496);
}

class RandomFormatTest : public testing::TestWithParam<std::string> {
 protected:
  static constexpr int32_t kSide = 2048;  // of llama-3.2-1b's attn_q

  std::unique_ptr<WeightSource> Source(const std::string& seed = "1") const {
    return MakeRandomSource(Model(absl::StrCat("random:llama-3.2-1b:", GetParam(), ":", seed)));
  }
  static quant::Matrix Rows(const WeightSource& source, const std::string& name, RowRange range) {
    return source.LoadRows(name, kSide, kSide, range).value();
  }
};
INSTANTIATE_TEST_SUITE_P(Formats, RandomFormatTest, testing::ValuesIn(RandomFormats()),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// What a backend is handed must be what it accepts, in any cut, and the same in each.
TEST_P(RandomFormatTest, PiecesOfRowsAreValidAndAreTheWhole) {
  const auto source = Source();
  const std::string name = "blk.3.attn_q.weight";
  const quant::Matrix whole = Rows(*source, name, {0, kSide});
  ASSERT_TRUE(quant::Validate(whole).ok()) << quant::Validate(whole);
  for (const RowRange range : {RowRange{0, 128}, RowRange{128, 1920}, RowRange{1920, 128}}) {
    const quant::Matrix piece = Rows(*source, name, range);
    ASSERT_TRUE(quant::Validate(piece).ok()) << quant::Validate(piece);
    std::vector<float> row(kSide), expected(kSide);
    for (int32_t r = 0; r < range.count; ++r) {
      quant::DequantizeRow(piece, r, row.data());
      quant::DequantizeRow(whole, range.first + r, expected.data());
      ASSERT_EQ(row, expected) << r;
    }
  }
}

// Variance 1 / columns: outputs are as large as inputs, so 80 layers neither vanish nor overflow.
TEST_P(RandomFormatTest, WeightsKeepTheSizeOfActivations) {
  const quant::Matrix matrix = Rows(*Source(), "blk.0.attn_q.weight", {0, kSide});
  double sum = 0, squares = 0;
  std::vector<float> row(kSide);
  for (int32_t r = 0; r < kSide; ++r) {
    quant::DequantizeRow(matrix, r, row.data());
    for (const float value : row) {
      sum += value;
      squares += double{value} * value;
    }
  }
  EXPECT_NEAR(squares / kSide, 1.0, 0.02);
  EXPECT_NEAR(sum / kSide / kSide * std::sqrt(kSide), 0.0,
              0.12);  // a code's range has one more below 0
}

TEST_P(RandomFormatTest, TheSeedAndTheNameMakeTheValues) {
  const RowRange one{7, 1};
  const std::string name = "blk.3.attn_q.weight";
  const auto codes = Rows(*Source(), name, one).codes;
  EXPECT_EQ(codes, Rows(*Source(), name, one).codes);
  EXPECT_NE(codes, Rows(*Source("2"), name, one).codes);
  EXPECT_NE(codes, Rows(*Source(), "blk.4.attn_q.weight", one).codes);
  EXPECT_NE(codes, Rows(*Source(), name, {8, 1}).codes);
  EXPECT_EQ(Source()->Identity()->digest, Source()->Identity()->digest);
  EXPECT_FALSE(Source()->Identity()->digest == Source("2")->Identity()->digest);
}

TEST_P(RandomFormatTest, WhatIsNotThereIsSaid) {
  const auto source = Source();
  EXPECT_TRUE(source->Has("output_norm.weight"));
  EXPECT_FALSE(source->Has("output.weight"));  // tied
  EXPECT_EQ(source->LoadVector("output_norm.weight", kSide).value(),
            std::vector<float>(kSide, 1.0f));
  EXPECT_EQ(source->LoadVector("output_norm.weight", kSide + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(source->LoadMatrix("output.weight", kSide, kSide).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(source->LoadMatrix("blk.0.attn_k.weight", kSide, kSide).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Any bytes become tokens and come back.
TEST(RandomVocabularyTest, EncodesEveryByte) {
  const TokenizerSpec spec = RandomVocabulary(Model("random:smollm2-135m:int8"));
  EXPECT_EQ(spec.tokens.size(), 49152u);
  const auto tokenizer = Tokenizer::Create(spec).value();
  const std::string text = "Hello, \xC3\xA9t\xC3\xA9 \xE2\x9C\x93\n\t~";
  const auto ids = tokenizer->Encode(text, {}).value();
  EXPECT_EQ(ids.size(), text.size());
  EXPECT_EQ(tokenizer->Decode(ids, false).value(), text);
}

}  // namespace
}  // namespace nibble
