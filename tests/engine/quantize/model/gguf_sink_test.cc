#include "engine/quantize/model/gguf_sink.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble::quantize {
namespace {

using ::testing::HasSubstr;

std::string RefusalOf(const char* name) {
  const absl::Status status = ForGguf(ParseMethod(name).value()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
  return std::string(status.message());
}

TEST(ForGguf, RefusalsSayWhatWouldWork) {
  EXPECT_THAT(RefusalOf("rtn-nf4-b64"), HasSubstr("no ggml type has the codes of nf4-b64"));
  EXPECT_THAT(RefusalOf("rtn-nf4-b64"), HasSubstr("int2..int5-asym"));
  EXPECT_THAT(RefusalOf("rtn-e4m3-channel"), HasSubstr("groups of 32"));
  EXPECT_THAT(RefusalOf("gptq-int8-asym-g32"), HasSubstr("int8-asym-g32"));
  EXPECT_THAT(RefusalOf("gptq-gidx-int4-full-g32"), HasSubstr("gptq-actorder-"));
  EXPECT_THAT(RefusalOf("incoherent-gptq-int4-full-g32"), HasSubstr("without incoherent-"));
  EXPECT_THAT(RefusalOf("smoothquant-static-mse"), HasSubstr("without -static-"));
  EXPECT_THAT(RefusalOf("llm-int8"), HasSubstr("smoothquant"));
}

// So that the file holds the very codes and scales that the method weighed against each other.
TEST(ForGguf, ScalesBecomeThoseOfBlocks) {
  for (const char* name : {"rtn-int8-sym-channel", "gptq-int8-sym-g32", "awq-int4-asym-g128"}) {
    EXPECT_TRUE(ForGguf(ParseMethod(name).value())->scheme.f16_scales) << name;
  }
}

TEST(MixFor, IsNamedAfterTheBlocks) {
  EXPECT_EQ(MixFor(ParseMethod("gptq-int4-full-g128").value()).name, "q4_0");
  EXPECT_EQ(MixFor(ParseMethod("awq-int3-asym-g64").value()).name, "q4_1");
  EXPECT_EQ(MixFor(ParseMethod("clip-int5-asym-g32").value()).name, "q5_1");
  EXPECT_EQ(MixFor(ParseMethod("smoothquant").value()).name, "q8_0");
}

}  // namespace
}  // namespace nibble::quantize
