#include "engine/weights/hf/json.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

JsonObject Parsed(absl::string_view text) { return JsonObject::Parse(text, "c.json", {}).value(); }

void ExpectRefused(absl::string_view text, absl::StatusCode code, absl::string_view part) {
  const absl::Status status = JsonObject::Parse(text, "c.json", {}).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(part)));
  EXPECT_THAT(std::string(status.message()), HasSubstr("c.json: "));
}

TEST(JsonObject, ValuesOfEachKind) {
  const JsonObject json =
      Parsed(R"({"i":3,"f":0.5,"b":true,"s":"x","o":{"k":1},"l":["a","b"],"n":[1,2],"z":null})");
  EXPECT_EQ(json.Int("i", 0, 9).value(), 3);
  EXPECT_EQ(json.Number("f").value(), 0.5);
  EXPECT_EQ(json.Number("i").value(), 3);
  EXPECT_TRUE(json.Bool("b", false).value());
  EXPECT_EQ(json.String("s").value(), "x");
  EXPECT_EQ(json.Object("o")->Int("k", 0, 9).value(), 1);
  EXPECT_THAT(json.Strings("l").value(), ElementsAre("a", "b"));
  EXPECT_THAT(json.Ints("n").value(), ElementsAre(1, 2));
  EXPECT_THAT(json.Numbers("n").value(), ElementsAre(1, 2));
  EXPECT_THAT(Parsed(R"({"n":[0.5,-1]})").Numbers("n").value(), ElementsAre(0.5, -1));
  EXPECT_TRUE(json.Numbers("absent")->empty());
  EXPECT_FALSE(json.Numbers("l").ok());
  EXPECT_FALSE(json.Numbers("i").ok());
  EXPECT_FALSE(json.Has("z")) << "null is absent";
  EXPECT_EQ(json.Int("z", 0, 9, 7).value(), 7);
  EXPECT_TRUE(json.Object("absent")->empty());
}

TEST(JsonObject, PairsAreStringsOrTwoStrings) {
  const JsonObject json = Parsed(R"({"old":["a b"," c d"],"new":[["a","b"]],"bad":["ab"]})");
  EXPECT_THAT(json.Pairs("old").value(), ElementsAre(Pair("a", "b"), Pair(" c", "d")));
  EXPECT_THAT(json.Pairs("new").value(), ElementsAre(Pair("a", "b")));
  EXPECT_FALSE(json.Pairs("bad").ok());
}

TEST(JsonObject, ErrorsNameTheFileThePathTheValueAndWhatIsNeeded) {
  const JsonObject json = Parsed(R"({"o":{"k":-1,"h":18446744073709551615}})");
  const JsonObject inner = json.Object("o").value();
  EXPECT_EQ(inner.Int("k", 0, 9).status().message(),
            "c.json: key 'o.k' is -1, needed a whole number from 0 to 9");
  EXPECT_FALSE(inner.Int("h", 0, 9).ok());
  EXPECT_FALSE(inner.String("k").ok());
  EXPECT_FALSE(inner.Bool("k", true).ok());
  EXPECT_FALSE(json.Int("absent", 0, 9).ok());
  EXPECT_EQ(json.NotImplemented("absent", "no").code(), absl::StatusCode::kUnimplemented);
}

// Keys are the file's, and may be what a terminal would obey.
TEST(JsonObject, AKeyIsMadeFitForAMessage) {
  const JsonObject json = Parsed(R"({"o\u001b[2J\n":{"k":-1}})");
  const absl::Status status = json.Object("o\x1b[2J\n")->Int("k", 0, 9).status();
  EXPECT_EQ(status.message(),
            "c.json: key \"o\\x1b[2J\\n.k\" is -1, needed a whole number from 0 to 9");
}

TEST(JsonObject, WhatIsNoObjectOrTooMuch) {
  using absl::StatusCode;
  ExpectRefused("[]", StatusCode::kDataLoss, "not a JSON object");
  ExpectRefused("", StatusCode::kDataLoss, "not JSON");
  ExpectRefused("{\"a\":1", StatusCode::kDataLoss, "not JSON");
  ExpectRefused("{\"a\":1,\"a\":2}", StatusCode::kDataLoss, "key \"a\" appears twice");
  ExpectRefused("{\"a\":{\"b\":1,\"b\":1}}", StatusCode::kDataLoss, "appears twice");
  ExpectRefused(absl::string_view("{}\0{", 4), StatusCode::kDataLoss, "not JSON");
  ExpectRefused(absl::StrCat("{\"a\":", std::string(100000, '[')), StatusCode::kResourceExhausted,
                "levels");
  std::string many = "{\"a\":[0";
  for (int i = 0; i < 70000; ++i) many += ",0";
  ExpectRefused(many + "]}", StatusCode::kResourceExhausted, "values");
  ExpectRefused(std::string(2 << 20, ' '), StatusCode::kResourceExhausted, "bytes");
}

}  // namespace
}  // namespace nibble
