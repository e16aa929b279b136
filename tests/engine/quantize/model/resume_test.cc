// Runs that end anywhere, and the runs of the same work that follow: the same bytes as of one that
// was left alone, and nothing left over.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>

#include "absl/strings/match.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/model/work_folder.h"
#include "tests/engine/quantize/model/dying_sinks.h"
#include "tests/engine/quantize/model/tiny_quantization.h"

namespace nibble::quantize {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ResumeTest : public TinyQuantization {
 protected:
  ~ResumeTest() override {
    std::filesystem::remove_all(output_ + ".resume");
    unlink(output_.c_str());
    unlink((output_ + ".partial").c_str());
  }

  // One command: the work folder, the work, and the folder's removal.
  absl::StatusOr<ModelReport> Command(const char* name, Fuse fuse = Fuse(0),
                                      LayerwiseOptions options = {}, bool resume = true) {
    const Method method = ForGguf(ParseMethod(name).value()).value();
    GgufSink sink = Sink(method, overrides_, options.threads);
    const ModelPlan plan = Plan(method, sink);
    notes_.clear();
    WorkFolderOptions work = {.output = output_,
                              .identity = IdentityOf(plan, options, windows_),
                              .num_layers = config_.num_layers,
                              .resume = resume,
                              .note = [this](const std::string& note) { notes_.push_back(note); }};
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<WorkFolder> folder,
                            WorkFolder::Open(std::move(work)));
    found_ = folder->num_finished();
    DyingJournal journal(*folder, fuse);
    DyingSink dying(sink, fuse);
    options.journal = &journal;
    options.scratch_folder = folder->path();
    absl::StatusOr<ModelReport> report =
        QuantizeModel(*tensors_, *weights_, plan, windows_, options, nullptr, dying);
    if (report.ok()) folder->Remove();
    return report;
  }

  // The command in a process of its own that is killed at the call; false: it came to its end.
  bool KilledAt(const char* name, int call) {
    const pid_t child = fork();
    if (child == 0) _exit(Command(name, Fuse(call)).ok() ? 0 : 1);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) != 1);
    return WEXITSTATUS(status) == Fuse::kKilled;
  }

  std::string Uninterrupted(const char* name) {
    EXPECT_TRUE(Run(name, overrides_).ok());
    std::string bytes = Bytes(output_);
    unlink(output_.c_str());
    return bytes;
  }

  std::string Layer(int layer) const { return absl::StrCat(output_, ".resume/layer-000", layer); }
  void ExpectNothingLeft() const {
    EXPECT_FALSE(Exists(output_ + ".resume"));
    EXPECT_FALSE(Exists(output_ + ".partial"));
  }
  // A run that ends with layer 0 finished.
  void LeaveOneLayer(const char* name) {
    std::atomic<bool> cancelled{false};
    LayerwiseOptions options;
    options.cancelled = &cancelled;
    options.progress = [&](int64_t done, int64_t) { cancelled.store(done == kNumLinears + 1); };
    ASSERT_EQ(Command(name, Fuse(0), options).status().code(), absl::StatusCode::kCancelled);
    ASSERT_TRUE(Exists(Layer(0)));
    ASSERT_FALSE(Exists(Layer(1)));
  }

  std::vector<TypeOverride> overrides_;
  int32_t found_ = 0;  // layers that the last command began from
  std::vector<std::string> notes_;
};

TEST_F(ResumeTest, KilledAnywhereTheNextRunGivesTheSameBytes) {
  overrides_ = {{"attn_v", GgmlType::kF16}};  // a linear without codes among the others
  for (const char* name : {"gptq-actorder-int4-asym-g32", "awq-clip-int4-full-g32", "smoothquant",
                           "clip-int5-sym-g32"}) {
    const std::string wanted = Uninterrupted(name);
    int call = 1, resumed = 0;
    const int step = absl::StartsWith(name, "gptq") ? 1 : 3;  // the others' calls are the same ones
    for (; KilledAt(name, call); call += step) {
      // Killed after the last step, the output is there and so is the folder.
      if (Exists(output_)) {
        EXPECT_TRUE(Bytes(output_) == wanted) << name << " " << call;
      }
      ASSERT_TRUE(Command(name).ok()) << name << " " << call;
      resumed += found_ > 0;
      EXPECT_TRUE(Bytes(output_) == wanted) << name << " " << call;
      ExpectNothingLeft();
      unlink(output_.c_str());
    }
    EXPECT_GT(call, 30) << name;
    EXPECT_GT(resumed, 5) << name;
  }
}

// Each run gets as far as the one before it and one call further, and all of them together are one.
TEST_F(ResumeTest, KilledAgainAndAgainItStillEnds) {
  const char* name = "gptq-int4-full-g32";
  const std::string wanted = Uninterrupted(name);
  for (int call = 1; KilledAt(name, call); call += 5) {
  }
  EXPECT_TRUE(Bytes(output_) == wanted);
  ExpectNothingLeft();
}

TEST_F(ResumeTest, TheReportIsThatOfAWholeRun) {
  const char* name = "gptq-int4-full-g32";
  const ModelReport wanted = *Run(name);
  LeaveOneLayer(name);
  const ModelReport found = *Command(name);
  EXPECT_EQ(found_, 1);
  ASSERT_EQ(found.linears.size(), wanted.linears.size());
  for (size_t i = 0; i < wanted.linears.size(); ++i) {
    EXPECT_EQ(found.linears[i].name, wanted.linears[i].name);
    EXPECT_EQ(found.linears[i].output_error, wanted.linears[i].output_error);
  }
  for (size_t t = 0; t < wanted.errors.size(); ++t) {
    EXPECT_EQ(found.errors[t].relative_error, wanted.errors[t].relative_error);
  }
}

TEST_F(ResumeTest, DamagedLayersAreMadeAgain) {
  const char* name = "gptq-int4-asym-g32";
  const std::string wanted = Uninterrupted(name);
  for (int damage = 0; damage < 3; ++damage) {
    LeaveOneLayer(name);
    const auto size = std::filesystem::file_size(Layer(0));
    if (damage == 0) std::filesystem::resize_file(Layer(0), size / 2);
    if (damage == 1) std::filesystem::resize_file(Layer(0), 0);
    if (damage == 2) {
      std::fstream file(Layer(0), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(size / 2));
      file.put('\x5a');
    }
    ASSERT_TRUE(Command(name).ok());
    EXPECT_EQ(found_, 0);
    EXPECT_THAT(notes_, ElementsAre(HasSubstr("layer-0000 is damaged and is made again")));
    EXPECT_TRUE(Bytes(output_) == wanted) << damage;
    ExpectNothingLeft();
  }
}

// What is behind a damaged layer is still right: the same work makes the same layer.
TEST_F(ResumeTest, LayersBehindADamagedOneAreKept) {
  const char* name = "awq-int4-full-g32";
  const std::string wanted = Uninterrupted(name);
  int call = 1;
  while (KilledAt(name, call) && !Exists(Layer(1))) ++call;
  ASSERT_TRUE(Exists(Layer(1)));
  std::filesystem::resize_file(Layer(0), 100);
  ASSERT_TRUE(Command(name).ok());
  EXPECT_EQ(found_, 1);
  EXPECT_TRUE(Bytes(output_) == wanted);
}

TEST_F(ResumeTest, OtherWorkIsRefusedByWhatDiffers) {
  LeaveOneLayer("gptq-int4-asym-g32");
  const auto refusal = [this](const char* name, LayerwiseOptions options = {}) {
    const absl::Status status = Command(name, Fuse(0), options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal("gptq-int4-asym-g64"),
              HasSubstr("whose method is 'gptq-int4-asym-g32', here it is 'gptq-int4-asym-g64'"));
  EXPECT_THAT(refusal("gptq-int4-asym-g64"), HasSubstr("--no-resume"));
  LayerwiseOptions seed;
  seed.seed = 2;
  EXPECT_THAT(refusal("gptq-int4-asym-g32", seed), HasSubstr("whose seed is '1', here it is '2'"));
  windows_.back()[3] += 1;
  EXPECT_THAT(refusal("gptq-int4-asym-g32"), HasSubstr("whose calibration windows is '6, "));
  windows_.back()[3] -= 1;
  overrides_ = {{"attn_v", GgmlType::kF16}};
  EXPECT_THAT(refusal("gptq-int4-asym-g32"), HasSubstr("whose tensors with codes is"));
  EXPECT_TRUE(Exists(Layer(0))) << "what is refused stays";
}

// A method's scheme has f32 scales in one layout and f16 ones in another, under the same name.
TEST_F(ResumeTest, WhatALayoutChangesOfAMethodIsOtherWork) {
  ModelPlan plan;
  plan.method = ParseMethod("gptq-int8-sym-channel").value();
  const WorkIdentity one = IdentityOf(plan, {}, windows_);
  plan.method.scheme.f16_scales = !plan.method.scheme.f16_scales;
  EXPECT_NE(IdentityOf(plan, {}, windows_), one);
}

TEST_F(ResumeTest, WithoutResumingWhatIsThereGoes) {
  const char* name = "clip-int4-full-g32";
  LeaveOneLayer("gptq-int4-asym-g32");
  ASSERT_TRUE(Command(name, Fuse(0), {}, /*resume=*/false).ok());
  EXPECT_EQ(found_, 0);
  ExpectNothingLeft();
  const std::string found = Bytes(output_);
  EXPECT_TRUE(found == Uninterrupted(name));
}

TEST_F(ResumeTest, ADamagedDescriptionBeginsAnew) {
  const char* name = "gptq-int4-asym-g32";
  LeaveOneLayer(name);
  std::filesystem::resize_file(output_ + ".resume/run", 50);
  ASSERT_TRUE(Command(name).ok());
  EXPECT_EQ(found_, 0);
  EXPECT_THAT(notes_, ElementsAre(HasSubstr("run is damaged: beginning anew")));
}

TEST_F(ResumeTest, AFolderOfSomebodyElseIsLeftAlone) {
  std::filesystem::create_directory(output_ + ".resume");
  std::ofstream(output_ + ".resume/thesis.txt") << "mine";
  for (bool resume : {true, false}) {
    const absl::Status status = Command("gptq-int4-asym-g32", Fuse(0), {}, resume).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("holds 'thesis.txt'"));
    EXPECT_EQ(Bytes(output_ + ".resume/thesis.txt"), "mine");
  }
}

TEST_F(ResumeTest, TwoProcessesDoNotShareTheWork) {
  const auto open = [this] {
    return WorkFolder::Open(
        {.output = output_, .identity = {{"method", "x"}}, .num_layers = 2, .note = nullptr});
  };
  const auto first = open();
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(open().status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ResumeTest, ARunThatFinishedNothingLeavesNothing) {
  std::atomic<bool> cancelled{true};
  LayerwiseOptions options;
  options.cancelled = &cancelled;
  EXPECT_FALSE(Command("gptq-int4-asym-g32", Fuse(0), options).ok());
  ExpectNothingLeft();
}

}  // namespace
}  // namespace nibble::quantize
