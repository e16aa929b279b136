#include "cli/tokenize.h"

#include <gtest/gtest.h>

#include <sstream>

#include "tests/engine/fakes/fake_tokenizer.h"

namespace nibble {
namespace {

struct Ran {
  int code;
  std::string out;
  std::string err;
};

Ran Converted(const std::string& input, TokenizeFlags flags) {
  std::istringstream in(input);
  std::ostringstream out, err;
  const FakeTokenizer tokenizer;  // ids are bytes
  const int code = Tokenize(tokenizer, flags, Io{in, out, err});
  return {code, out.str(), err.str()};
}

TokenizeFlags Jsonl(bool decode = false) {
  TokenizeFlags flags;
  flags.jsonl = true;
  flags.decode = decode;
  return flags;
}

TokenizeFlags Decode() {
  TokenizeFlags flags;
  flags.decode = true;
  return flags;
}

TEST(TokenizeTest, TextBecomesOneArray) {
  EXPECT_EQ(Converted("hi\n", {}).out, "[104,105,10]\n");
  EXPECT_EQ(Converted("", {}).out, "[]\n");
}

TEST(TokenizeTest, ControlTokensAreParsedOnlyWhereAskedFor) {
  TokenizeFlags special;
  special.parse_special = true;
  EXPECT_EQ(Converted("<|end|>", special).out, "[258]\n");
  EXPECT_NE(Converted("<|end|>", {}).out, "[258]\n");
}

TEST(TokenizeTest, DecodingGivesTheBytesBack) {
  EXPECT_EQ(Converted("[104, 105, 10]\n", Decode()).out, "hi\n");
  EXPECT_EQ(Converted(Converted("Grüße\n", {}).out, Decode()).out, "Grüße\n");
}

TEST(TokenizeTest, DecodingWritesControlTokensOnlyWhereAskedFor) {
  TokenizeFlags flags = Decode();
  EXPECT_EQ(Converted("[104,258]", flags).out, "h");
  flags.parse_special = true;
  EXPECT_EQ(Converted("[104,258]", flags).out, "h<|end|>");
}

TEST(TokenizeTest, JsonlIsALineForALine) {
  EXPECT_EQ(Converted("\"hi\"\n\"\"\n\"a\\nb\"\n", Jsonl()).out, "[104,105]\n[]\n[97,10,98]\n");
  EXPECT_EQ(Converted("[104,105]\n[]\n[97,10,98]\n", Jsonl(true)).out, "\"hi\"\n\"\"\n\"a\\nb\"\n");
}

TEST(TokenizeTest, AWrongLineIsNamedAndWhatCameBeforeStays) {
  const Ran ran = Converted("\"a\"\nnot json\n", Jsonl());
  EXPECT_EQ(ran.code, kExitFailure);
  EXPECT_EQ(ran.out, "[97]\n");
  EXPECT_NE(ran.err.find("line 2"), std::string::npos) << ran.err;
}

TEST(TokenizeTest, WhatIsNoArrayOfIdsIsRefused) {
  for (const char* input : {"", "7", "{}", "[1,", "[-1]", "[260]", "[1.5]", "[\"a\"]", "[[1]]",
                            "[99999999999999999999]", "\"[1]\""}) {
    const Ran ran = Converted(input, Decode());
    EXPECT_EQ(ran.code, kExitFailure) << input;
    EXPECT_EQ(ran.out, "") << input;
    EXPECT_NE(ran.err.find("needed"), std::string::npos) << ran.err;
  }
}

TEST(TokenizeTest, AModelThatIsNotThereIsNamed) {
  std::istringstream in;
  std::ostringstream out, err;
  TokenizeFlags flags;
  flags.model = "no/such/model.gguf";
  EXPECT_EQ(RunTokenize(flags, Io{in, out, err}), kExitFailure);
  EXPECT_NE(err.str().find("no/such/model.gguf"), std::string::npos) << err.str();
}

}  // namespace
}  // namespace nibble
