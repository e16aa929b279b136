#include "engine/folder_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "engine/inspect.h"
#include "tests/engine/evaluation_record.h"
#include "tests/engine/hf_folder.h"

namespace nibble {
namespace {

using testing::ExampleEvaluation;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr char kTold[] = R"({
  "nibble.quantize.source_sha256": "5ce", "nibble.quantize.method": "gptq-int4-asym-g64",
  "nibble.quantize.layout": "gptq-v2", "nibble.quantize.options": "--seed 1",
  "nibble.quantize.calibration_sha256": "ca1", "nibble.quantize.tool": "nibble 0.1.0",
  "nibble.quantize.tensors": ["a", "b"], "nibble.quantize.tensor_errors": [0.25, 0.5],
  "somebody.else": {"deep": [1, null]}})";

class FolderRecordTest : public ::testing::Test {
 protected:
  FolderRecordTest()
      : folder_(testing::TinyFolder({}).Write(absl::StrCat(
            "folder_record_", ::testing::UnitTest::GetInstance()->current_test_info()->name()))) {}

  fs::path Path() const { return fs::path(folder_) / kProvenanceJson; }
  absl::StatusOr<std::optional<QuantizeProvenance>> Read() const {
    return ProvenanceOf(*ModelFile::Open(folder_).value());
  }
  std::string Text() const {
    std::ifstream file(Path());
    return std::string((std::istreambuf_iterator<char>(file)), {});
  }

  const std::string folder_;
};

TEST_F(FolderRecordTest, WhatTheFolderTellsIsRead) {
  EXPECT_FALSE(Read()->has_value()) << "there is no such file";
  testing::WriteText(Path(), kTold);
  const QuantizeProvenance told = Read()->value();
  EXPECT_EQ(told.source_sha256, "5ce");
  EXPECT_EQ(told.method, "gptq-int4-asym-g64");
  EXPECT_EQ(told.type, "gptq-v2");
  EXPECT_EQ(told.options, "--seed 1");
  EXPECT_EQ(told.calibration_sha256, "ca1");
  EXPECT_EQ(told.importance_sha256, "");
  EXPECT_EQ(told.tool, "nibble 0.1.0");
  EXPECT_EQ(told.tensor_errors[1], (std::pair<std::string, float>{"b", 0.5f}));
  EXPECT_FALSE(told.evaluation.has_value());
  EXPECT_EQ(Inspect(folder_).quantized->method, told.method);
  testing::WriteText(Path(), R"({"nibble.quantize.method": "x"})");
  EXPECT_FALSE(Read()->has_value()) << "it names no source";
}

TEST_F(FolderRecordTest, WhatIsRecordedIsReadAndTheRestIsKept) {
  testing::WriteText(Path(), kTold);
  EvaluationRecord first = ExampleEvaluation();
  first.kl = 0.25;
  ASSERT_EQ(RecordFolderEvaluation(folder_, first), absl::OkStatus());
  ASSERT_EQ(RecordFolderEvaluation(folder_, ExampleEvaluation()), absl::OkStatus());
  EXPECT_EQ(Read()->value().evaluation, ExampleEvaluation());
  EXPECT_EQ(Read()->value().tensor_errors.size(), 2u);
  EXPECT_EQ(nlohmann::json::parse(Text())["somebody.else"]["deep"].size(), 2u);
  EXPECT_FALSE(fs::exists(absl::StrCat(Path().string(), ".partial")));
}

TEST_F(FolderRecordTest, PermissionsStay) {
  testing::WriteText(Path(), kTold);
  fs::permissions(Path(), fs::perms::owner_read | fs::perms::owner_write);
  ASSERT_EQ(RecordFolderEvaluation(folder_, ExampleEvaluation()), absl::OkStatus());
  EXPECT_EQ(fs::status(Path()).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(FolderRecordTest, AFolderWithoutASourceIsLeftAlone) {
  EXPECT_EQ(RecordFolderEvaluation(folder_, ExampleEvaluation()).code(),
            absl::StatusCode::kNotFound);
  testing::WriteText(Path(), "{}");
  const absl::Status status = RecordFolderEvaluation(folder_, ExampleEvaluation());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nibble.quantize.source_sha256"));
  EXPECT_EQ(Text(), "{}");
}

// The file may come from anybody: each spoilt value is an error that names its key, and the model
// is inspected, and found fit to be served, all the same.
TEST_F(FolderRecordTest, HostileFilesAreTypedErrorsAndNoMore) {
  const std::string source = R"({"nibble.quantize.source_sha256":"5ce")";
  const std::string long_text(JsonLimits().bytes, ' ');
  const struct {
    std::string text;
    absl::StatusCode code;
    std::string part;
  } cases[] = {
      {"", absl::StatusCode::kDataLoss, "is empty"},
      {"{", absl::StatusCode::kDataLoss, "is not JSON"},
      {"[]", absl::StatusCode::kDataLoss, "is not a JSON object"},
      {source + "}" + long_text, absl::StatusCode::kResourceExhausted, "at most 1048576"},
      {R"({"nibble.quantize.source_sha256":7})", absl::StatusCode::kInvalidArgument,
       "'nibble.quantize.source_sha256' is 7, needed a string"},
      {source + R"(,"nibble.quantize.method":["\u001b[31m"]})", absl::StatusCode::kInvalidArgument,
       "needed a string"},
      {source + R"(,"nibble.quantize.tensors":["a"]})", absl::StatusCode::kInvalidArgument,
       "needed a number for each of 1 tensors"},
      {source + R"(,"nibble.quantize.tensors":["a"],"nibble.quantize.tensor_errors":[1e300]})",
       absl::StatusCode::kInvalidArgument, "entry 0 of it is no error"},
      {source + R"(,"nibble.quantize.tensors":["a"],"nibble.quantize.tensor_errors":[-1]})",
       absl::StatusCode::kInvalidArgument, "entry 0 of it is no error"},
      {source + R"(,"nibble.quantize.tensors":["a"],"nibble.quantize.tensor_errors":["x"]})",
       absl::StatusCode::kInvalidArgument, "needed an array of numbers"},
      {source + R"(,"nibble.quantize.eval.kl":1e999})", absl::StatusCode::kDataLoss, "is not JSON"},
      {source + R"(,"nibble.quantize.eval.kl":"little"})", absl::StatusCode::kInvalidArgument,
       "needed a number"},
      {source + R"(,"nibble.quantize.eval.kl":0,"nibble.quantize.eval.tokens":-1})",
       absl::StatusCode::kInvalidArgument, "needed a whole number from 0"},
  };
  for (const auto& hostile : cases) {
    testing::WriteText(Path(), hostile.text);
    const absl::Status status = Read().status();
    EXPECT_EQ(status.code(), hostile.code) << status << " for " << hostile.text.substr(0, 200);
    EXPECT_THAT(std::string(status.message()), HasSubstr(hostile.part));
    const InspectReport report = Inspect(folder_);
    EXPECT_EQ(report.status, absl::OkStatus());
    EXPECT_FALSE(report.quantized.has_value());
    EXPECT_THAT(report.quantized_error, HasSubstr(hostile.part));
    EXPECT_FALSE(RecordFolderEvaluation(folder_, ExampleEvaluation()).ok());
  }
}

TEST_F(FolderRecordTest, ALinkOutOfTheFolderIsNotFollowed) {
  const fs::path secret = fs::path(folder_).parent_path() / "folder_record_secret.json";
  testing::WriteText(secret, kTold);
  fs::create_symlink(secret, Path());
  EXPECT_EQ(Read().status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(RecordFolderEvaluation(folder_, ExampleEvaluation()).code(),
            absl::StatusCode::kPermissionDenied);
  fs::remove(secret);
}

}  // namespace
}  // namespace nibble
