// What is packed is read again to the bit, for every layout x scheme x shape; what a layout cannot
// hold is refused by name.
#include "engine/quantize/folder/matrix_packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "engine/quantize/methods/round_to_nearest.h"
#include "tests/engine/quantize/folder/packed_module.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

using ::testing::HasSubstr;

struct Shape {
  int32_t rows, cols;
};

struct Case {
  HfLayout layout;
  const char* method;
  const char* type;  // as the reader calls it
  std::vector<Shape> shapes;
};

void ExpectSameValues(const quant::Matrix& matrix, const MatrixF& values) {
  ASSERT_EQ(quant::Validate(matrix), absl::OkStatus());
  ASSERT_EQ(matrix.rows, values.rows());
  ASSERT_EQ(matrix.cols, values.cols());
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  for (int32_t n = 0; n < matrix.rows; ++n) {
    quant::DequantizeRow(matrix, n, row.data());
    for (int32_t k = 0; k < matrix.cols; ++k) {
      ASSERT_EQ(row[k], values(n, k)) << "row " << n << " column " << k;
    }
  }
}

// A group without weights, one of a single sign, and one with a large outlier: scales of 0, zero
// points at the ends of the codes.
MatrixF AwkwardWeights(Shape shape, uint32_t seed) {
  MatrixF weight = testing::NormalWeights(shape.rows, shape.cols, seed);
  const int32_t run = std::min(shape.cols, 16);
  weight.block(0, 0, 1, shape.cols).setZero();
  weight.block(shape.rows - 1, 0, 1, shape.cols) =
      weight.block(shape.rows - 1, 0, 1, shape.cols).cwiseAbs();
  weight.block(shape.rows / 2, 0, 1, shape.cols) =
      -weight.block(shape.rows / 2, 0, 1, shape.cols).cwiseAbs();
  weight(shape.rows / 3, run / 2) = 3.0f;
  return weight;
}

std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  std::string name = info.param.method;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class Packing : public ::testing::TestWithParam<Case> {};

TEST_P(Packing, WhatIsWrittenIsReadToTheBit) {
  const Method method = *InLayout(GetParam().layout, *ParseMethod(GetParam().method));
  const auto packing = MakePacking(GetParam().layout, method);
  ASSERT_TRUE(packing.ok()) << packing.status();
  uint32_t seed = 1;
  for (const Shape shape : GetParam().shapes) {
    SCOPED_TRACE(absl::StrCat(shape.rows, " x ", shape.cols, ", seed ", seed));
    ASSERT_EQ((*packing)->CheckShape(shape.rows, shape.cols), absl::OkStatus());
    const QuantizedWeight weight = RoundToNearest(AwkwardWeights(shape, seed++), method.scheme, 1);
    const auto file = testing::PackedModule(**packing, weight);
    ASSERT_TRUE(file.ok()) << file.status();
    const testing::ReadModule read = testing::Read(*file, (*packing)->Config({"lm_head"}));
    ASSERT_TRUE(read.layout.ok()) << read.layout.status();
    EXPECT_EQ((*read.layout)->type(), GetParam().type);
    ExpectSameValues((*read.layout)->Load(0, shape.rows).value(), Dequantize(weight));
  }
}

const std::vector<Shape> kWords = {{32, 64}, {64, 192}, {96, 128}, {160, 448}};
const std::vector<Shape> kThirds = {{32, 384}, {96, 128}, {224, 640}};  // whole groups of 128
const std::vector<Shape> kOdd = {{3, 128}, {1, 128}, {77, 192}, {130, 320}};
const std::vector<Shape> kAny = {{3, 7}, {1, 1}, {130, 250}, {257, 129}, {128, 128}};

INSTANTIATE_TEST_SUITE_P(
    Gptq, Packing,
    ::testing::Values(
        Case{HfLayout::kGptq, "rtn-int2-full-g64", "GPTQ int2 g64", kWords},
        Case{HfLayout::kGptq, "rtn-int3-sym-g32", "GPTQ int3 g32", kWords},
        Case{HfLayout::kGptq, "rtn-int3-full-g128", "GPTQ int3 g128", kThirds},
        Case{HfLayout::kGptq, "rtn-int4-sym-g128", "GPTQ int4 g128", kThirds},
        Case{HfLayout::kGptq, "rtn-int4-full-g16", "GPTQ int4 g16", kWords},
        Case{HfLayout::kGptq, "rtn-int8-sym-g64", "GPTQ int8 g64", kWords},
        Case{HfLayout::kGptqV2, "rtn-int2-asym-g32", "GPTQ int2 g32", kWords},
        Case{HfLayout::kGptqV2, "rtn-int3-asym-g64", "GPTQ int3 g64", kWords},
        Case{HfLayout::kGptqV2, "rtn-int4-asym-g64", "GPTQ int4 g64", kWords},
        Case{HfLayout::kGptqV2, "rtn-int4-full-g64", "GPTQ int4 g64", kWords},
        Case{HfLayout::kGptqV2, "rtn-int8-asym-g32", "GPTQ int8 g32", kWords},
        Case{HfLayout::kGptqV2, "rtn-int4-asym-channel", "GPTQ int4 g448", {{160, 448}}},
        Case{HfLayout::kGptq, "rtn-int8-full-channel", "GPTQ int8 g64", {{32, 64}}}),
    CaseName);
INSTANTIATE_TEST_SUITE_P(
    Awq, Packing,
    ::testing::Values(
        Case{HfLayout::kAwq, "rtn-int4-asym-g64", "AWQ int4 g64", {{8, 64}, {72, 128}, {136, 448}}},
        Case{HfLayout::kAwq, "rtn-int4-full-g128", "AWQ int4 g128", kThirds},
        Case{HfLayout::kAwq, "rtn-int4-asym-channel", "AWQ int4 g50", {{16, 50}}}),
    CaseName);
INSTANTIATE_TEST_SUITE_P(
    CompressedTensors, Packing,
    ::testing::Values(
        Case{HfLayout::kCompressedTensors, "rtn-int4-sym-g64", "packed int4 g64", kOdd},
        Case{HfLayout::kCompressedTensors, "rtn-int4-asym-g64", "packed int4 g64 zero-point", kOdd},
        Case{HfLayout::kCompressedTensors, "rtn-int2-asym-g32", "packed int2 g32 zero-point", kOdd},
        Case{HfLayout::kCompressedTensors, "rtn-int8-full-g32", "packed int8 g32", kOdd},
        Case{HfLayout::kCompressedTensors,
             "rtn-int8-sym-channel",
             "packed int8 row",
             {{3, 8}, {5, 300}}},
        Case{HfLayout::kCompressedTensors,
             "rtn-int4-full-channel",
             "packed int4 row",
             {{3, 8}, {5, 304}}},
        Case{HfLayout::kCompressedTensors, "w8a8", "int8 row", {{3, 7}, {130, 250}, {2, 129}}},
        Case{HfLayout::kCompressedTensors,
             "rtn-int8-sym-tensor",
             "int8 tensor",
             {{3, 7}, {130, 250}, {257, 129}}},
        Case{HfLayout::kCompressedTensors,
             "rtn-int8-asym-tensor",
             "int8 tensor zero-point",
             {{3, 7}, {130, 250}, {257, 129}}},
        Case{HfLayout::kCompressedTensors, "rtn-e4m3-tensor", "FP8 e4m3 tensor", kAny},
        Case{HfLayout::kCompressedTensors,
             "rtn-e4m3-channel",
             "FP8 e4m3 row",
             {{3, 7}, {130, 250}, {2, 129}}},
        Case{HfLayout::kCompressedTensors,
             "rtn-e4m3-block",
             "FP8 e4m3 128x128",
             {{130, 250}, {257, 129}}}),
    CaseName);
INSTANTIATE_TEST_SUITE_P(
    BitsAndBytes, Packing,
    ::testing::Values(Case{HfLayout::kBitsAndBytes, "rtn-nf4-b64", "NF4 b64", kOdd},
                      Case{HfLayout::kBitsAndBytes, "rtn-nf4-b64-dq", "NF4 b64 double", kOdd},
                      Case{HfLayout::kBitsAndBytes, "rtn-nf4-b32-dq", "NF4 b32 double", kOdd},
                      Case{HfLayout::kBitsAndBytes, "rtn-fp4-b64", "FP4 b64", kOdd},
                      Case{HfLayout::kBitsAndBytes, "rtn-fp4-b128-dq", "FP4 b128 double", kThirds},
                      Case{HfLayout::kBitsAndBytes, "llm-int8", "LLM.int8", kAny}),
    CaseName);
INSTANTIATE_TEST_SUITE_P(
    Fp8, Packing,
    ::testing::Values(Case{HfLayout::kFp8,
                           "rtn-e4m3-block",
                           "FP8 e4m3 128x128",
                           {{130, 250}, {257, 129}, {384, 256}}},
                      Case{HfLayout::kFp8, "rtn-e5m2-block", "FP8 e5m2 128x128", {{130, 250}}},
                      Case{HfLayout::kFp8, "rtn-e4m3-tensor", "FP8 e4m3 tensor", kAny},
                      Case{HfLayout::kFp8, "rtn-e5m2-tensor", "FP8 e5m2 tensor", kAny}),
    CaseName);

// Columns of which each goes to a group of its own choice, as GPTQ orders them without static
// groups.
QuantizedWeight Shuffled(const Scheme& scheme, Shape shape, uint32_t seed) {
  QuantizedWeight weight = RoundToNearest(AwkwardWeights(shape, seed), scheme, 1);
  weight.group_of_column.resize(static_cast<size_t>(shape.cols));
  for (int32_t k = 0; k < shape.cols; ++k) weight.group_of_column[k] = k / weight.tile.cols;
  std::shuffle(weight.group_of_column.begin(), weight.group_of_column.end(), std::mt19937(seed));
  return weight;
}

TEST(ColumnsOutOfOrder, KeepTheirGroups) {
  for (const auto& [layout, name] : std::vector<std::pair<HfLayout, const char*>>{
           {HfLayout::kGptq, "gptq-gidx-int4-full-g32"},
           {HfLayout::kGptqV2, "gptq-gidx-int3-asym-g64"},
           {HfLayout::kGptqV2, "gptq-gidx-int8-asym-g32"}}) {
    SCOPED_TRACE(name);
    const Method method = *InLayout(layout, *ParseMethod(name));
    const auto packing = MakePacking(layout, method).value();
    const QuantizedWeight weight = Shuffled(method.scheme, {64, 192}, 5);
    const auto read = testing::Read(*testing::PackedModule(*packing, weight), packing->Config({}));
    ASSERT_TRUE(read.layout.ok()) << read.layout.status();
    EXPECT_THAT((*read.layout)->type(), HasSubstr("act-order"));
    ExpectSameValues((*read.layout)->Load(0, 64).value(), Dequantize(weight));
  }
}

// Where an asymmetric scheme has no zero point of 0, GPTQ v1 holds it; where it has one, readers
// would differ on what it means.
TEST(GptqV1, HoldsZeroPointsOfOneAndMore) {
  const Method method = *ParseMethod("rtn-int4-asym-g32");
  const auto packing = MakePacking(HfLayout::kGptq, method).value();
  QuantizedWeight weight = RoundToNearest(testing::NormalWeights(32, 64, 1), method.scheme, 1);
  const auto read = testing::Read(*testing::PackedModule(*packing, weight), packing->Config({}));
  ExpectSameValues((*read.layout)->Load(0, 32).value(), Dequantize(weight));
  weight.params[2 * 5 + 1].zero = 0;
  const absl::Status refused = packing->Pack(weight).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("zero point 0 of row 5, group 1"));
  EXPECT_THAT(refused.message(), HasSubstr("gptq-v2"));
  weight.params[2 * 5 + 1].scale = 0;  // nothing depends on this one
  EXPECT_TRUE(packing->Pack(weight).ok());
}

// Names the scale, its place and the layout.
TEST(Scales, ThatAreNoF16AreRefused) {
  const Method method = *ParseMethod("rtn-int8-sym-g32");  // its scheme has f32 scales
  const QuantizedWeight weight =
      RoundToNearest(testing::NormalWeights(32, 64, 1), method.scheme, 1);
  for (const HfLayout layout : {HfLayout::kGptq, HfLayout::kCompressedTensors}) {
    const absl::Status refused = MakePacking(layout, method).value()->Pack(weight).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(refused.message(), HasSubstr("of row 0, group 0 is no f16"));
    EXPECT_THAT(refused.message(), HasSubstr(std::string(LayoutName(layout))));
    EXPECT_TRUE(InLayout(layout, method)->scheme.f16_scales);
  }
}

TEST(LlmInt8, AScaleThatIsNo127thPartIsRefused) {
  const auto packing = MakePacking(HfLayout::kBitsAndBytes, *ParseMethod("llm-int8")).value();
  QuantizedWeight weight = MakeQuantizedWeight(*ParseScheme("int8-sym-channel"), 1, 4);
  int held = 0, refused = 0;
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(0.001f, 0.1f);
  for (int i = 0; i < 2000; ++i) {
    const float maximum = uniform(random);
    weight.params[0].scale = maximum / 127.0f;  // as absmax gives it: always held
    EXPECT_TRUE(packing->Pack(weight).ok()) << maximum;
    weight.params[0].scale = uniform(random);  // anything: most
    const auto packed = packing->Pack(weight);
    ++(packed.ok() ? held : refused);
    EXPECT_TRUE(packed.ok() || packed.status().code() == absl::StatusCode::kInvalidArgument);
  }
  EXPECT_GT(held, 1000);
  EXPECT_GT(refused, 0);
}

TEST(Layouts, AMatrixThatDoesNotFillItsWordsIsRefused) {
  const auto check = [](HfLayout layout, const char* method, Shape shape) {
    return MakePacking(layout, *ParseMethod(method)).value()->CheckShape(shape.rows, shape.cols);
  };
  EXPECT_THAT(check(HfLayout::kGptq, "rtn-int4-full-g16", {32, 48}).message(),
              HasSubstr("[32, 48], the layout gptq packs"));
  EXPECT_FALSE(check(HfLayout::kGptqV2, "rtn-int3-asym-g32", {8, 64}).ok());
  EXPECT_TRUE(check(HfLayout::kGptqV2, "rtn-int4-asym-g32", {8, 64}).ok());
  EXPECT_FALSE(check(HfLayout::kAwq, "rtn-int4-asym-g32", {12, 64}).ok());
  EXPECT_FALSE(check(HfLayout::kCompressedTensors, "rtn-int4-sym-channel", {12, 30}).ok());
}

TEST(Layouts, AMethodThatOneDoesNotHoldIsRefusedWithWhatDoes) {
  const auto refusal = [](HfLayout layout, const char* method) {
    const auto packing = MakePacking(layout, *ParseMethod(method));
    EXPECT_EQ(packing.status().code(), absl::StatusCode::kInvalidArgument) << method;
    EXPECT_EQ(InLayout(layout, *ParseMethod(method)).status(), packing.status());
    return std::string(packing.status().message());
  };
  EXPECT_THAT(refusal(HfLayout::kAwq, "rtn-int8-sym-g64"), HasSubstr("compressed-tensors"));
  EXPECT_THAT(refusal(HfLayout::kGptq, "rtn-nf4-b64"), HasSubstr("is bitsandbytes"));
  EXPECT_THAT(refusal(HfLayout::kGptq, "gptq-int5-sym-g64"), HasSubstr("2, 3, 4 or 8 bits"));
  EXPECT_THAT(refusal(HfLayout::kAwq, "gptq-gidx-int4-asym-g64"), HasSubstr("gptq-v2"));
  EXPECT_THAT(refusal(HfLayout::kCompressedTensors, "gptq-gidx-int4-full-g64"),
              HasSubstr("columns in the order of their groups"));
  EXPECT_THAT(refusal(HfLayout::kBitsAndBytes, "rtn-nf4-b48"), HasSubstr("32, 64"));
  EXPECT_THAT(refusal(HfLayout::kFp8, "rtn-e4m3-channel"), HasSubstr("is compressed-tensors"));
  EXPECT_THAT(refusal(HfLayout::kCompressedTensors, "rtn-e5m2-block"), HasSubstr("is fp8"));
  EXPECT_THAT(refusal(HfLayout::kGptq, "incoherent-rtn-int4-full-g64"), HasSubstr("plain"));
  EXPECT_THAT(refusal(HfLayout::kGptq, "rtn-int4-full-g64+head"), HasSubstr("embedding"));
  EXPECT_THAT(refusal(HfLayout::kGptq, "smoothquant"), HasSubstr("compressed-tensors"));
  EXPECT_THAT(refusal(HfLayout::kCompressedTensors, "w8a8-static-mse"), HasSubstr("static"));
  EXPECT_THAT(refusal(HfLayout::kCompressedTensors, "llm-int8"), HasSubstr("bitsandbytes"));
  EXPECT_THAT(refusal(HfLayout::kGptq, "rtn-int4-full-g24"), HasSubstr("multiple of 16"));
}

TEST(Layouts, TheUsualOneHoldsTheMethod) {
  const std::pair<const char*, HfLayout> kUsual[] = {
      {"gptq-int4-full-g128", HfLayout::kGptq},
      {"gptq-gidx-int4-asym-g128", HfLayout::kGptqV2},
      {"awq-clip-int4-asym-g128", HfLayout::kAwq},
      {"rtn-int3-sym-g64", HfLayout::kGptq},
      {"rtn-int4-asym-g64", HfLayout::kCompressedTensors},
      {"smoothquant", HfLayout::kCompressedTensors},
      {"rtn-e4m3-channel", HfLayout::kCompressedTensors},
      {"rtn-e4m3-block", HfLayout::kFp8},
      {"rtn-nf4-b64-dq", HfLayout::kBitsAndBytes},
      {"llm-int8", HfLayout::kBitsAndBytes},
      {"incoherent-rtn-int4-full-g64", HfLayout::kPlain}};
  for (const auto& [name, layout] : kUsual) {
    const Method method = *ParseMethod(name);
    EXPECT_EQ(LayoutName(UsualLayout(method)), LayoutName(layout)) << name;
    EXPECT_TRUE(MakePacking(layout, method).ok()) << name;
  }
}

TEST(Layouts, HaveNames) {
  for (int i = 0; i <= static_cast<int>(HfLayout::kFp8); ++i) {
    const auto layout = static_cast<HfLayout>(i);
    EXPECT_EQ(*ParseHfLayout(LayoutName(layout)), layout);
  }
  EXPECT_THAT(ParseHfLayout("exl2").status().message(), HasSubstr("'exl2' is not known; there is"));
}

}  // namespace
}  // namespace nibble::quantize
