#include "kernels/cpu/isa.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

TEST(IsaTest, AutoIsTheBestAndSaysWhy) {
  const auto choice = ChooseIsa(CpuIsa::kAuto);
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->isa, DetectIsa());
  EXPECT_THAT(choice->why, HasSubstr(std::string(IsaName(DetectIsa()))));
}

TEST(IsaTest, ScalarIsEverywhere) {
  const auto choice = ChooseIsa(CpuIsa::kScalar);
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->isa, CpuIsa::kScalar);
  EXPECT_THAT(choice->why, HasSubstr("scalar was asked for"));
}

TEST(IsaTest, WhatTheMachineLacksIsRefusedWithWhatItHas) {
  for (const CpuIsa isa : {CpuIsa::kAvx2, CpuIsa::kAvx512Vnni}) {
    const auto choice = ChooseIsa(isa);
    if (choice.ok()) {
      EXPECT_EQ(choice->isa, isa);
      continue;
    }
    EXPECT_EQ(choice.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(choice.status().message()),
                HasSubstr(std::string(IsaName(DetectIsa()))));
  }
}

}  // namespace
}  // namespace nibble
