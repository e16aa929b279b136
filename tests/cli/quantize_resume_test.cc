#include "cli/quantize_resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

using quantize::WorkFolder;
using ::testing::HasSubstr;

class QuantizeResumeTest : public ::testing::Test {
 protected:
  QuantizeResumeTest() {
    flags_.output = absl::StrCat(::testing::TempDir(), "/nibble_quantize_resume_", getpid());
    plan_.config.num_layers = 3;
    plan_.method = *quantize::ParseMethod("gptq-int4-full-g32");
  }
  ~QuantizeResumeTest() override { std::filesystem::remove_all(flags_.output + ".resume"); }

  std::unique_ptr<WorkFolder> Open() {
    err_.str("");
    std::istringstream in;
    const Io io{in, out_, err_};
    auto work = OpenWork(flags_, plan_, options_, windows_, io);
    EXPECT_TRUE(work.ok()) << work.status();
    return *std::move(work);
  }
  static void FinishLayer(WorkFolder& work, int32_t layer) {
    ASSERT_TRUE(work.Begin(layer).ok());
    ASSERT_TRUE(work.Vector("norm", quantize::VectorF::Zero(4)).ok());
    ASSERT_TRUE(work.End({}).ok());
  }

  QuantizeFlags flags_;
  quantize::ModelPlan plan_;
  quantize::LayerwiseOptions options_;
  const std::vector<std::vector<int32_t>> windows_ = {{1, 2, 3}};
  std::ostringstream out_, err_;
};

TEST_F(QuantizeResumeTest, SaysWhereItGoesOn) {
  FinishLayer(*Open(), 0);
  EXPECT_EQ(err_.str(), "");
  const auto work = Open();
  EXPECT_THAT(err_.str(), HasSubstr("nibble: resuming at layer 2 of 3, 1 done in "));
  FinishLayer(*work, 1);
  FinishLayer(*work, 2);
}

TEST_F(QuantizeResumeTest, AfterTheLastLayerTheRestIsLeft) {
  for (int32_t layer = 0; layer < 3; ++layer) FinishLayer(*Open(), layer);
  Open();
  EXPECT_THAT(err_.str(), HasSubstr("resuming at the embedding and the head, 3 done"));
}

TEST_F(QuantizeResumeTest, NoResumeBeginsAnew) {
  FinishLayer(*Open(), 0);
  flags_.no_resume = true;
  EXPECT_EQ(Open()->num_finished(), 0);
  EXPECT_EQ(err_.str(), "");
  EXPECT_FALSE(std::filesystem::exists(flags_.output + ".resume"));
}

TEST_F(QuantizeResumeTest, AMethodThatLooksAtNoTextKeepsNothing) {
  plan_.method = *quantize::ParseMethod("rtn-int4-full-g32");
  EXPECT_EQ(Open(), nullptr);
}

TEST_F(QuantizeResumeTest, AnErrorTellsWhatIsKept) {
  const auto work = Open();
  EXPECT_EQ(WithWhatIsKept(absl::CancelledError("stopped"), *work, 3).message(), "stopped");
  FinishLayer(*work, 0);
  const absl::Status status = WithWhatIsKept(absl::ResourceExhaustedError("full"), *work, 3);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), absl::StrCat("full; 1 of 3 layers are kept in ", flags_.output,
                                           ".resume, the same command goes on from there"));
}

}  // namespace
}  // namespace nibble
