// Every variant of quantization that is not read is refused by its name.
#include "engine/weights/hf/quantization.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<QuantConfig> Read(absl::string_view text) {
  return ReadQuantConfig(JsonObject::Parse(text, "config.json", {}).value());
}

void ExpectUnimplemented(absl::string_view text, absl::string_view part) {
  const absl::Status status = Read(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << text << ": " << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(part)));
}

TEST(QuantConfig, MethodsThatAreRead) {
  const QuantConfig v1 = Read(R"({"quant_method":"gptq","bits":4,"group_size":128})").value();
  EXPECT_EQ(v1.method, QuantMethod::kGptq);
  EXPECT_TRUE(v1.stored_zeros_less_one) << "v1 is what a file without a format is";
  EXPECT_FALSE(Read(R"({"quant_method":"gptq","bits":3,"checkpoint_format":"gptq_v2"})")
                   ->stored_zeros_less_one);
  EXPECT_EQ(Read(R"({"bits":4})")->method, QuantMethod::kGptq) << "old files name no method";
  EXPECT_EQ(Read(R"({"quant_method":"awq","bits":4,"version":"GEMM"})")->method, QuantMethod::kAwq);
  EXPECT_EQ(Read(R"({"quant_method":"bitsandbytes","load_in_4bit":true})")->method,
            QuantMethod::kBitsAndBytes);
  EXPECT_EQ(Read(R"({"quant_method":"fp8","weight_block_size":[128,128]})")->method,
            QuantMethod::kFp8);
  EXPECT_EQ(Read(R"({"quant_method":"compressed-tensors","format":"pack-quantized",
                     "config_groups":{"group_0":{"weights":{"num_bits":4}}}})")
                ->method,
            QuantMethod::kCompressedTensors);
}

TEST(QuantConfig, MethodsThatAreNot) {
  for (const char* method : {"hqq", "quanto", "eetq", "aqlm", "torchao", "mxfp4", "modelopt"}) {
    ExpectUnimplemented(std::string(R"({"quant_method":")") + method + "\"}", method);
  }
}

TEST(QuantConfig, VariantsThatAreNot) {
  ExpectUnimplemented(R"({"quant_method":"gptq","bits":5})", "'bits' is 5");
  ExpectUnimplemented(R"({"quant_method":"gptq","bits":4,"checkpoint_format":"marlin"})", "marlin");
  ExpectUnimplemented(R"({"quant_method":"gptq","bits":3,"checkpoint_format":"gptq_p"})", "gptq_p");
  ExpectUnimplemented(R"({"quant_method":"gptq","bits":4,"pack_dtype":"int16"})", "int16");
  ExpectUnimplemented(R"({"quant_method":"gptq","bits":4,"is_marlin_format":true})", "marlin");
  ExpectUnimplemented(R"({"quant_method":"awq","bits":4,"version":"gemv"})", "gemv");
  ExpectUnimplemented(R"({"quant_method":"awq","bits":4,"version":"gemv_fast"})", "gemv_fast");
  ExpectUnimplemented(R"({"quant_method":"awq","bits":8})", "'bits' is 8");
  ExpectUnimplemented(R"({"quant_method":"compressed-tensors","format":"marlin-24"})", "marlin-24");
  ExpectUnimplemented(R"({"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized"})",
                      "nvfp4-pack-quantized");
  ExpectUnimplemented(R"({"quant_method":"compressed-tensors","format":"dense",
                          "sparsity_config":{"format":"sparse-24-bitmask"}})",
                      "sparse-24-bitmask");
  ExpectUnimplemented(R"({"quant_method":"compressed-tensors","format":"pack-quantized",
                          "transform_config":{"config_groups":{"u":{}}}})",
                      "transform_config");
  ExpectUnimplemented(R"({"quant_method":"compressed-tensors","format":"mixed-precision",
                          "config_groups":{"g":{"format":"mxfp4-pack-quantized"}}})",
                      "mxfp4-pack-quantized");
  ExpectUnimplemented(R"({"quant_method":"compressed-tensors","format":"float-quantized",
                          "config_groups":{"g":{"weights":{"block_structure":[64,64]}}}})",
                      "block_structure");
  ExpectUnimplemented(R"({"quant_method":"fp8","weight_block_size":[64,64]})", "[64,64]");
  ExpectUnimplemented(R"({"quant_method":"fp8","fmt":"e3m4"})", "e3m4");
}

}  // namespace
}  // namespace nibble
