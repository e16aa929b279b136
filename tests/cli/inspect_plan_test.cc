#include "cli/inspect_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace nibble {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

PlanFlags Flagged() {
  PlanFlags flags;
  flags.plan = true;
  return flags;
}

// The flags of the worked example of a KV cache: 32 layers, 32 heads of 128, 16 times 4096 tokens.
PlanFlags Example() {
  PlanFlags flags = Flagged();
  flags.layers = flags.heads = 32;
  flags.head_dim = 128;
  flags.context = 4096;
  flags.sequences = 16;
  return flags;
}

std::string TextOf(const std::string& model, const PlanFlags& flags) {
  std::ostringstream out;
  PrintPlanText(MakePlan(model, flags).value(), out);
  return out.str();
}

std::string ErrorOf(const std::string& model, const PlanFlags& flags) {
  const absl::Status status = MakePlan(model, flags).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

// What a program reads of the one format or type.
const Json& RowOf(const Json& rows, const char* key, const std::string& name) {
  for (const Json& row : rows) {
    if (row[key] == name) return row;
  }
  ADD_FAILURE() << "no " << name << " in " << rows;
  return rows;
}

TEST(InspectPlanTest, ParametersAloneGiveTheWeights) {
  PlanFlags flags = Flagged();
  flags.parameters = "70b";
  const Json json = PlanJson(MakePlan("", flags).value());
  EXPECT_EQ(json["parameters"], 70'000'000'000);
  EXPECT_EQ(RowOf(json["weights"], "format", "16-bit")["file_bytes"], 140'000'000'000);
  EXPECT_EQ(RowOf(json["weights"], "format", "4-bit")["file_bytes"], 35'000'000'000);
  EXPECT_EQ(json["kv_cache"], Json::array());
  const std::string text = TextOf("", flags);
  EXPECT_THAT(text, HasSubstr("140.00 GB"));
  EXPECT_THAT(text, HasSubstr("35.00 GB"));
}

TEST(InspectPlanTest, HeadsAloneGiveTheCache) {
  const Json json = PlanJson(MakePlan("", Example()).value());
  const Json& f16 = RowOf(json["kv_cache"], "type", "f16");
  EXPECT_EQ(f16["layer_token_bytes"], 16384);
  EXPECT_EQ(f16["token_bytes"], 512 << 10);
  EXPECT_EQ(f16["sequence_bytes"], int64_t{2} << 30);
  EXPECT_EQ(f16["total_bytes"], int64_t{32} << 30);
  EXPECT_EQ(f16["blocks_per_sequence"], 256);
  EXPECT_EQ(json["weights"], Json::array());
  const std::string text = TextOf("", Example());
  EXPECT_THAT(text, HasSubstr("16 KiB"));
  EXPECT_THAT(text, HasSubstr("512 KiB"));
  EXPECT_THAT(text, HasSubstr("2.0 GiB (2.1 GB) in 256 blocks, 32.0 GiB (34.4 GB)"));
}

TEST(InspectPlanTest, AKnownShapeGivesAllAndFits) {
  PlanFlags flags = Flagged();
  flags.memory = "80GB";
  flags.context = 8192;
  flags.formats = "bf16,q4_k";
  const Json json = PlanJson(MakePlan("random:llama-3.1-70b", flags).value());
  EXPECT_EQ(json["parameters"], 70'553'706'496);
  EXPECT_EQ(json["memory_bytes"], 80'000'000'000);
  // 80 layers, 8 kv heads of 128: 327,680 bytes a token, 2.7 GB for 8192 of them.
  const Json& f16 = RowOf(json["kv_cache"], "type", "f16");
  EXPECT_EQ(f16["token_bytes"], 327'680);
  ASSERT_EQ(json["fit"].size(), 2 * json["kv_cache"].size());
  for (const Json& fit : json["fit"]) {
    if (fit["format"] == "bf16") {
      EXPECT_EQ(fit["sequences"], 0);
      EXPECT_LT(fit["cache_bytes"], 0);
    } else if (fit["kv_cache_type"] == "f16") {
      EXPECT_EQ(fit["sequences"], 15);  // (80 - 39.7) GB / 2.684 GB
    }
  }
  EXPECT_THAT(TextOf("random:llama-3.1-70b", flags),
              HasSubstr("sequences of 8192 tokens that fit 74.5 GiB (80.0 GB)"));
}

TEST(InspectPlanTest, FlagsWinOverTheShape) {
  PlanFlags flags = Flagged();
  flags.kv_heads = 32;  // llama-3.1-8b without grouped queries
  const Json json = PlanJson(MakePlan("random:llama-3.1-8b", flags).value());
  EXPECT_EQ(json["shape"]["kv_heads"], 32);
  EXPECT_EQ(RowOf(json["kv_cache"], "type", "f16")["layer_token_bytes"], 16384);
}

TEST(InspectPlanTest, AModelThatIsMadeIsARowOfItsOwn) {
  PlanFlags flags = Flagged();
  flags.formats = "4-bit";
  const Json json = PlanJson(MakePlan("random:smollm2-135m:int8", flags).value());
  ASSERT_EQ(json["weights"].size(), 2u);
  EXPECT_EQ(json["weights"][0]["format"], "as it is");
  EXPECT_GT(json["weights"][0]["loaded_bytes"], 134'515'008);
}

TEST(InspectPlanTest, AFormatThatDoesNotSuitTheShapeIsToldAndTheRestStays) {
  PlanFlags flags = Flagged();
  flags.formats = "q4_k,q8_0";
  flags.memory = "1GiB";
  const Json json = PlanJson(MakePlan("random:smollm2-135m", flags).value());
  EXPECT_THAT(json["weights"][0]["error"], HasSubstr("blocks of 256"));
  EXPECT_GT(json["weights"][1]["file_bytes"], 0);
  EXPECT_THAT(TextOf("random:smollm2-135m", flags),
              HasSubstr("not for this shape: q4_k has blocks of 256"));
}

TEST(InspectPlanTest, WhatIsWrongIsNamedWithItsFlag) {
  EXPECT_THAT(ErrorOf("", Flagged()), HasSubstr("--plan: found no model"));
  EXPECT_THAT(ErrorOf("random:llama-9b", Flagged()), HasSubstr("the shape is 'llama-9b'"));
  PlanFlags flags = Flagged();
  flags.parameters = "many";
  EXPECT_THAT(ErrorOf("", flags), HasSubstr("--parameters: found \"many\""));
  flags = Example();
  flags.memory = "80 apples";
  EXPECT_THAT(ErrorOf("", flags), HasSubstr("--memory: found \"80 apples\""));
  flags = Example();
  flags.formats = "q4_k,q9";
  EXPECT_THAT(ErrorOf("", flags), HasSubstr("--formats: found \"q9\""));
  flags = Example();
  flags.kv_heads = 33;
  EXPECT_THAT(ErrorOf("", flags), HasSubstr("33 kv heads"));
  EXPECT_EQ(MakePlan("no/such.gguf", Flagged()).status().code(), absl::StatusCode::kNotFound);
}

// The largest shape that flags may ask for: the total was a negative number.
TEST(InspectPlanTest, ATotalBeyond64BitsIsRefusedByFlag) {
  PlanFlags flags = Flagged();
  flags.layers = 1024;
  flags.heads = 4096;
  flags.head_dim = 256;
  flags.context = 1 << 27;
  EXPECT_TRUE(MakePlan("", flags).ok());
  flags.sequences = 1 << 20;
  EXPECT_THAT(ErrorOf("", flags), HasSubstr("--sequences: found 1048576, each with "));
}

TEST(InspectPlanTest, ExitCodesTellWrongUsageFromAFileThatIsNotThere) {
  std::istringstream in;
  std::ostringstream out, err;
  const Io io{in, out, err, false, false};
  EXPECT_EQ(RunPlan("", Flagged(), OutputFormat::kText, io), kExitUsage);
  EXPECT_EQ(RunPlan("no/such.gguf", Flagged(), OutputFormat::kText, io), kExitFailure);
  EXPECT_EQ(out.str(), "");
  EXPECT_EQ(RunPlan("", Example(), OutputFormat::kJson, io), kExitOk);
  EXPECT_EQ(Json::parse(out.str())["sequences"], 16);
}

}  // namespace
}  // namespace nibble
