#include "engine/quantize/methods/method.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace nibble::quantize {
namespace {

using ::testing::HasSubstr;

TEST(MethodTest, NamesSayEverything) {
  Method method = *ParseMethod("gptq-actorder-clip-int4-full-g128");
  EXPECT_EQ(method.algorithm, Algorithm::kGptq);
  EXPECT_EQ(method.order, ColumnOrder::kByActivation);
  EXPECT_TRUE(method.clip);
  EXPECT_EQ(method.scheme, *ParseScheme("int4-full-g128"));

  method = *ParseMethod("incoherent-gptq-int2-asym-g64");
  EXPECT_TRUE(method.incoherent);
  EXPECT_EQ(method.order, ColumnOrder::kAsStored);

  method = *ParseMethod("rtn-nf4-b64-dq+head");
  EXPECT_TRUE(method.head);
  EXPECT_TRUE(method.scheme.double_quantized);
  EXPECT_FALSE(NeedsCalibration(method));

  method = *ParseMethod("awq-clip-int4-asym-g128");
  EXPECT_EQ(method.algorithm, Algorithm::kAwq);
  EXPECT_TRUE(method.clip);
  EXPECT_TRUE(NeedsCalibration(method));

  method = *ParseMethod("smoothquant-static-percentile");
  EXPECT_EQ(method.algorithm, Algorithm::kSmoothQuant);
  EXPECT_EQ(method.activations, Activations::kInt8);
  EXPECT_EQ(method.static_range, RangeRule::kPercentile);

  EXPECT_EQ(ParseMethod("llm-int8")->activations, Activations::kOutliersApart);
  EXPECT_FALSE(NeedsCalibration(*ParseMethod("llm-int8")));
  EXPECT_FALSE(NeedsCalibration(*ParseMethod("w8a8")));
  EXPECT_TRUE(NeedsCalibration(*ParseMethod("w8a8-static-mse")));
}

TEST(MethodTest, RefusalsSayWhatIsWrong) {
  for (const auto& [name, part] : std::vector<std::pair<const char*, const char*>>{
           {"", "there is rtn-"},
           {"int4-sym-g128", "there is rtn-"},
           {"rtn-int4", "''"},
           {"gptq-int8-sym-tensor", "within a row"},
           {"clip-e4m3-block", "within a row"},
           {"gptq-nf4-b64-dq", "double"},
           {"gptq-gidx-clip-int4-full-g128", "gidx"},
           {"incoherent-awq-int4-asym-g128", "rotation"},
           {"gptq-int4-full-g128+head", "+head"},
           {"w8a8-dynamic", "w8a8-dynamic"},
           {"w8a8-static-kl", "'kl'"},
           {"awq-actorder-int4-asym-g128", "actorder"}}) {
    const absl::StatusOr<Method> method = ParseMethod(name);
    EXPECT_EQ(method.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(method.status().message(), HasSubstr(part));
  }
}

}  // namespace
}  // namespace nibble::quantize
