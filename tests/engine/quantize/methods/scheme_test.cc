#include "engine/quantize/methods/scheme.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble::quantize {
namespace {

using ::testing::HasSubstr;

TEST(SchemeTest, NamesComeBackAsTheyWere) {
  for (const char* name :
       {"int4-sym-g128", "int4-full-g64", "int4-asym-g32", "int3-full-g128-mse", "int2-asym-g64",
        "int8-sym-tensor", "int8-sym-channel", "nf4-b64", "nf4-b64-dq", "fp4-b64-mse",
        "e4m3-tensor", "e4m3-block", "e5m2-channel"}) {
    const absl::StatusOr<Scheme> scheme = ParseScheme(name);
    ASSERT_TRUE(scheme.ok()) << scheme.status();
    EXPECT_EQ(SchemeName(*scheme), name);
  }
}

TEST(SchemeTest, WhatIsNotKnownIsQuoted) {
  for (const auto& [name, part] :
       std::vector<std::pair<const char*, const char*>>{{"int9-sym-g128", "int9"},
                                                        {"int4-g128", "g128"},
                                                        {"int4", "''"},
                                                        {"int4-sym-block", "block"},
                                                        {"nf4-g64", "g64"},
                                                        {"int4-sym-g128-dq", "dq"},
                                                        {"int4-sym-g8", "g8"},
                                                        {"q4_0", "q4_0"},
                                                        {"", "''"}}) {
    const absl::StatusOr<Scheme> scheme = ParseScheme(name);
    EXPECT_EQ(scheme.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(scheme.status().message(), HasSubstr(part));
  }
}

double Bits(const char* name) { return BitsPerWeight(*ParseScheme(name), 4096, 4096); }

// The published accounting; a group of 128 with f16 scales costs 0.125 bits a value.
TEST(SchemeTest, CountsBitsPerWeight) {
  EXPECT_DOUBLE_EQ(Bits("int4-sym-g128"), 4.125);
  EXPECT_DOUBLE_EQ(Bits("int4-asym-g128"), 4 + 20.0 / 128);
  EXPECT_DOUBLE_EQ(Bits("int4-asym-g64"), 4.3125);
  EXPECT_DOUBLE_EQ(Bits("int3-full-g64"), 3.25);
  EXPECT_NEAR(Bits("int8-sym-tensor"), 8, 1e-5);
  EXPECT_DOUBLE_EQ(Bits("int8-sym-channel"), 8 + 32.0 / 4096);
  EXPECT_DOUBLE_EQ(Bits("e4m3-block"), 8 + 32.0 / (128 * 128));
  EXPECT_DOUBLE_EQ(BitsPerWeight(*ParseScheme("int8-sym-channel"), 256, 256), 8.125);
}

// Often said: groups of 128 cost 0.5 bits, and double quantization leaves 0.37. It is blocks of 64
// that cost 0.5, and double quantization saves 0.373 of them and leaves 0.127.
TEST(SchemeTest, DoubleQuantizationLeavesAnEighthOfABit) {
  EXPECT_DOUBLE_EQ(Bits("nf4-b64"), 4.5);
  EXPECT_NEAR(Bits("nf4-b64-dq"), 4.127, 5e-5 + 5e-4);
  EXPECT_DOUBLE_EQ(Bits("nf4-b64-dq"), 4 + 8.0 / 64 + 32.0 / (64 * 256));
  EXPECT_DOUBLE_EQ(Bits("nf4-b128"), 4.25);
  EXPECT_NEAR(Bits("nf4-b128-dq") - 4, 0.0635, 5e-5);
}

TEST(SchemeTest, GroupsMustDivideARow) {
  EXPECT_TRUE(CheckShape(*ParseScheme("int4-sym-g128"), 3, 384).ok());
  EXPECT_THAT(CheckShape(*ParseScheme("int4-sym-g128"), 3, 576).message(), HasSubstr("576"));
  EXPECT_TRUE(CheckShape(*ParseScheme("e4m3-block"), 3, 100).ok());
  EXPECT_FALSE(CheckShape(*ParseScheme("int8-sym-tensor"), 0, 100).ok());
}

}  // namespace
}  // namespace nibble::quantize
