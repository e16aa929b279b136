#include "cli/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace nibble {
namespace {

using ::testing::HasSubstr;

InspectReport Good() {
  InspectReport report;
  report.path = "m.gguf";
  report.file_bytes = 1000;
  report.format = "GGUF v3";
  report.config.architecture = "llama";
  report.config.num_layers = 2;
  report.config.num_heads = 4;
  report.config.tied_head = true;
  report.num_parameters = 128;
  report.weights_bytes = 96;
  report.loaded_bytes = 112;
  report.bits_per_weight = 6;
  report.types = {{"Q4_1", 1}, {"Q6_K", 1}};
  report.tensors = {{"a", "Q4_1", {2, 32}, 40, "int4 affine g32", 40, false},
                    {"b", "Q6_K", {2, 32}, 56, "int8 g16", 72, true}};
  report.tokenizer = "byte-level BPE, pre smollm";
  report.has_chat_template = true;
  report.kv_bytes_per_token = 64;
  report.metadata = {{"general.name", "string \"tiny\""}};
  return report;
}

TEST(InspectJsonTest, TellsShapesTypesConversionsAndBytes) {
  const nlohmann::ordered_json json = InspectJson(Good());
  EXPECT_EQ(json["ok"], true);
  EXPECT_TRUE(json["error"].is_null());
  EXPECT_EQ(json["architecture"], "llama");
  EXPECT_EQ(json["shape"]["layers"], 2);
  EXPECT_EQ(json["shape"]["tied_head"], true);
  EXPECT_EQ(json["types"][0]["type"], "Q4_1");
  EXPECT_EQ(json["types"][0]["bits_per_weight"], 5.0);
  EXPECT_EQ(json["tensors"][1]["canonical"], "int8 g16");
  EXPECT_EQ(json["tensors"][1]["shape"], nlohmann::ordered_json({2, 32}));
  EXPECT_EQ(json["converted"], nlohmann::ordered_json({"b"}));
  EXPECT_EQ(json["unsupported"], nlohmann::ordered_json::array());
  EXPECT_EQ(json["has_chat_template"], true);
  EXPECT_EQ(json["metadata"]["general.name"], "string \"tiny\"");
}

TEST(InspectJsonTest, ACorruptFileIsAReportWithAnError) {
  InspectReport report;
  report.path = "bad.gguf";
  report.status = absl::DataLossError("tensor 'a' ends at 900, the file at 800");
  const nlohmann::ordered_json json = InspectJson(report);
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["error"]["code"], "DATA_LOSS");
  EXPECT_EQ(json["error"]["message"], "tensor 'a' ends at 900, the file at 800");
  EXPECT_EQ(json["tensors"], nlohmann::ordered_json::array());
}

TEST(InspectTextTest, IsReadableAndEndsWithAVerdict) {
  std::ostringstream out;
  PrintInspectText(Good(), {}, out);
  EXPECT_THAT(out.str(), HasSubstr("GGUF v3"));
  EXPECT_THAT(out.str(), HasSubstr("Q4_1"));
  EXPECT_THAT(out.str(), HasSubstr("5.00 bits a weight"));
  EXPECT_THAT(out.str(), HasSubstr("1 tensors to a wider format"));
  EXPECT_THAT(out.str(), HasSubstr("can be served"));
}

TEST(InspectTextTest, TensorsAndMetadataAreListedWhereAskedFor) {
  std::ostringstream out;
  InspectFlags flags;
  flags.tensors = true;
  flags.metadata = true;
  PrintInspectText(Good(), flags, out);
  EXPECT_THAT(out.str(), HasSubstr("[2, 32]"));
  EXPECT_THAT(out.str(), HasSubstr("general.name = string \"tiny\""));
}

TEST(InspectTextTest, WhatIsUnsupportedIsNamed) {
  InspectReport report = Good();
  report.status = absl::UnimplementedError("architecture 'mamba'");
  report.unsupported = {"architecture mamba: only llama and qwen2 are known"};
  std::ostringstream out;
  PrintInspectText(report, {}, out);
  EXPECT_THAT(out.str(), HasSubstr("only llama and qwen2"));
  EXPECT_THAT(out.str(), HasSubstr("cannot be served: architecture 'mamba'"));
}

TEST(InspectTextTest, ProvenanceThatCannotBeReadIsNamedAndTheModelCanBeServed) {
  InspectReport report = Good();
  EXPECT_FALSE(InspectJson(report).contains("quantized_error"));
  report.quantized_error = "nibble_quantize.json: is not JSON at byte 3";
  std::ostringstream out;
  PrintInspectText(report, {}, out);
  EXPECT_THAT(out.str(), HasSubstr("how is not known: nibble_quantize.json: is not JSON"));
  EXPECT_THAT(out.str(), HasSubstr("can be served"));
  const nlohmann::ordered_json json = InspectJson(report);
  EXPECT_TRUE(json["quantized"].is_null());
  EXPECT_EQ(json["quantized_error"], report.quantized_error);
}

TEST(RunInspectTest, AFileThatIsNotThereIsAReportAndAFailure) {
  std::istringstream in;
  std::ostringstream out, err;
  InspectFlags flags;
  flags.file = "no/such/model.gguf";
  flags.output = OutputFormat::kJson;
  EXPECT_EQ(RunInspect(flags, Io{in, out, err}), kExitFailure);
  EXPECT_EQ(nlohmann::json::parse(out.str())["ok"], false);
  EXPECT_THAT(err.str(), HasSubstr("no/such/model.gguf"));
}

}  // namespace
}  // namespace nibble
