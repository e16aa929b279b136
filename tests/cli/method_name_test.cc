#include "cli/method_name.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::HasSubstr;

std::string Name(const char* method, const char* scheme = "", const char* order = "") {
  const auto parsed = ParseMethodFlags(method, scheme, order);
  return parsed.ok() ? parsed->name : std::string(parsed.status().message());
}

TEST(MethodName, WordsTakeSchemeAndOrder) {
  EXPECT_EQ(Name("rtn"), "rtn-int4-full-g32");
  EXPECT_EQ(Name("rtn", "int8-sym-channel"), "rtn-int8-sym-channel");
  EXPECT_EQ(Name("gptq"), "gptq-actorder-int4-full-g32");
  EXPECT_EQ(Name("gptq", "int4-asym-g128", "sequential"), "gptq-int4-asym-g128");
  EXPECT_EQ(Name("gptq", "int4-asym-g128", "static-groups"), "gptq-actorder-int4-asym-g128");
  EXPECT_EQ(Name("gptq", "int4-asym-g128", "act-order"), "gptq-gidx-int4-asym-g128");
  EXPECT_EQ(Name("gptq-clip", "int3-full-g64"), "gptq-actorder-clip-int3-full-g64");
  EXPECT_EQ(Name("awq-clip", "int4-asym-g64"), "awq-clip-int4-asym-g64");
  EXPECT_EQ(Name("clip"), "clip-int4-full-g32");
  EXPECT_EQ(Name("smoothquant"), "smoothquant");
}

TEST(MethodName, WholeNamesAreTakenAsTheyAre) {
  EXPECT_EQ(Name("gptq-actorder-int4-asym-g128"), "gptq-actorder-int4-asym-g128");
  EXPECT_EQ(Name("llm-int8"), "llm-int8");
}

TEST(MethodName, ErrorsNameTheFlagAndWhatWorks) {
  EXPECT_THAT(Name("q4_k"), HasSubstr("--method: method 'q4_k' is not known"));
  EXPECT_THAT(Name("q4_k"), HasSubstr("one word of rtn, gptq"));
  EXPECT_THAT(Name("rtn", "int9-sym-g32"), HasSubstr("--scheme"));
  EXPECT_THAT(Name("gptq", "", "random"),
              HasSubstr("--order: found \"random\", needed sequential"));
  EXPECT_THAT(Name("awq", "", "sequential"), HasSubstr("is GPTQ's, --method awq has none"));
  EXPECT_THAT(Name("smoothquant", "int4-sym-g32"), HasSubstr("int8-sym-channel"));
  EXPECT_THAT(Name("rtn-int4-sym-g32", "int4-sym-g64"), HasSubstr("says it already"));
  EXPECT_THAT(Name("gptq-int4-sym-g32", "", "sequential"), HasSubstr("--order sequential"));
}

TEST(MethodName, TrainingIsRefusedWithTheCommandThatTrains) {
  EXPECT_THAT(Name("qat", "int3-asym-g128"),
              HasSubstr("--methods rtn-int3-asym-g128,qat-int3-asym-g128 --qat-steps 200"));
  EXPECT_THAT(Name("qat"), HasSubstr("--method qat-int4-full-g32: "));
  EXPECT_EQ(Name("qat-int4-full-g32"), Name("qat"));
}

}  // namespace
}  // namespace nibble
