#include "engine/quantize/calibration/sample.h"

#include <gtest/gtest.h>

namespace nibble::quantize {
namespace {

TEST(CalibrationSampleTest, IsTheWholeFile) {
  const absl::string_view text = CalibrationSample();
  EXPECT_EQ(text.size(), 200000u);
  EXPECT_EQ(text.find('\0'), absl::string_view::npos);
  EXPECT_EQ(text.substr(text.size() - 4), "sene");
}

}  // namespace
}  // namespace nibble::quantize
