#include "engine/quantize_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "tests/engine/evaluation_record.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using testing::ExampleEvaluation;
using ::testing::HasSubstr;
using Bytes = std::vector<uint8_t>;

// A tiny model that says that it was quantized.
testing::GgufWriter Quantized() {
  testing::GgufWriter writer = testing::TinyModel({});
  writer.String("nibble.quantize.source_sha256", std::string(64, '5'));
  writer.String("nibble.quantize.method", "ggml");
  writer.Strings("nibble.quantize.tensors", {"a", "b"});
  writer.Floats("nibble.quantize.tensor_errors", {0.25f, 0.5f});
  return writer;
}

class QuantizeRecordTest : public ::testing::Test {
 protected:
  QuantizeRecordTest()
      : path_(absl::StrCat(::testing::TempDir(), "quantize_record_",
                           ::testing::UnitTest::GetInstance()->current_test_info()->name())) {}
  ~QuantizeRecordTest() override { std::remove(path_.c_str()); }

  void Write(const testing::GgufWriter& writer) {
    const Bytes bytes = writer.Build();
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  Bytes Read() const {
    std::ifstream file(path_, std::ios::binary);
    return Bytes((std::istreambuf_iterator<char>(file)), {});
  }

  const std::string path_;
};

TEST_F(QuantizeRecordTest, WhatIsRecordedIsRead) {
  Write(Quantized());
  ASSERT_EQ(RecordEvaluation(path_, ExampleEvaluation()), absl::OkStatus());
  const GgufFile file = GgufFile::Open(path_).value();
  const auto quantized = ReadProvenance(file);
  ASSERT_TRUE(quantized.has_value());
  ASSERT_TRUE(quantized->evaluation.has_value());
  EXPECT_EQ(*quantized->evaluation, ExampleEvaluation());
  EXPECT_EQ(quantized->method, "ggml");
  EXPECT_EQ(quantized->tensor_errors[1], (std::pair<std::string, float>{"b", 0.5f}));
}

// A file for its owner's eyes stays one, and what a link names is what is written.
TEST_F(QuantizeRecordTest, PermissionsAndLinksStay) {
  namespace fs = std::filesystem;
  Write(Quantized());
  fs::permissions(path_, fs::perms::owner_read | fs::perms::owner_write);
  const std::string link = path_ + ".link";
  fs::remove(link);
  fs::create_symlink(path_, link);
  ASSERT_EQ(RecordEvaluation(link, ExampleEvaluation()), absl::OkStatus());
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(fs::status(path_).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_TRUE(ReadProvenance(GgufFile::Open(path_).value())->evaluation.has_value());
  fs::permissions(path_, fs::perms::owner_read | fs::perms::group_read);
  ASSERT_EQ(RecordEvaluation(path_, ExampleEvaluation()), absl::OkStatus());
  EXPECT_EQ(fs::status(path_).permissions(), fs::perms::owner_read | fs::perms::group_read);
  fs::remove(link);
}

TEST_F(QuantizeRecordTest, EverythingElseStaysAsItWas) {
  const Bytes before = Quantized().Build();
  Write(Quantized());
  ASSERT_TRUE(RecordEvaluation(path_, ExampleEvaluation()).ok());
  const GgufFile old = GgufFile::Parse(before, "old").value();
  const GgufFile now = GgufFile::Open(path_).value();
  for (const std::string& key : old.Keys()) {
    ASSERT_TRUE(now.Has(key)) << key;
    EXPECT_EQ(now.EncodedValue(key), old.EncodedValue(key)) << key;
  }
  ASSERT_EQ(now.tensors().size(), old.tensors().size());
  for (size_t i = 0; i < old.tensors().size(); ++i) {
    const GgufTensor &a = old.tensors()[i], &b = now.tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.ggml_type, b.ggml_type);
    EXPECT_EQ(a.dims, b.dims);
    EXPECT_EQ(old.Data(a), now.Data(b)) << a.name;
  }
}

TEST_F(QuantizeRecordTest, ASecondRecordReplacesTheFirst) {
  Write(Quantized());
  ASSERT_TRUE(RecordEvaluation(path_, ExampleEvaluation()).ok());
  const size_t size = Read().size();
  EvaluationRecord other = ExampleEvaluation();
  other.kl = 0.25;
  ASSERT_TRUE(RecordEvaluation(path_, other).ok());
  EXPECT_EQ(Read().size(), size);
  EXPECT_EQ(ReadProvenance(GgufFile::Open(path_).value())->evaluation->kl, 0.25);
}

TEST_F(QuantizeRecordTest, AFileWithoutASourceIsLeftAlone) {
  Write(testing::TinyModel({}));
  const Bytes before = Read();
  const absl::Status status = RecordEvaluation(path_, ExampleEvaluation());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nibble.quantize.source_sha256"));
  EXPECT_EQ(Read(), before);
  EXPECT_FALSE(ReadProvenance(GgufFile::Open(path_).value()).has_value());
}

TEST_F(QuantizeRecordTest, ADamagedFileIsLeftAlone) {
  Bytes bytes = Quantized().Build();
  bytes.resize(bytes.size() / 2);
  std::ofstream(path_, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  EXPECT_EQ(RecordEvaluation(path_, ExampleEvaluation()).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read(), bytes);
  EXPECT_EQ(RecordEvaluation(path_ + ".no", ExampleEvaluation()).code(),
            absl::StatusCode::kNotFound);
}

// Nothing depends on these keys, so of another type they count as empty.
TEST_F(QuantizeRecordTest, KeysOfOtherTypesAreEmpty) {
  testing::GgufWriter writer = Quantized();
  writer.U32("nibble.quantize.method", 7);
  writer.Floats("nibble.quantize.tensor_errors", {0.25f});
  writer.String("nibble.quantize.eval.kl", "little");
  const Bytes bytes = writer.Build();
  const auto quantized = ReadProvenance(GgufFile::Parse(bytes, "x").value());
  ASSERT_TRUE(quantized.has_value());
  EXPECT_EQ(quantized->method, "");
  EXPECT_TRUE(quantized->tensor_errors.empty());
  ASSERT_TRUE(quantized->evaluation.has_value());
  EXPECT_EQ(quantized->evaluation->kl, 0);
  EXPECT_EQ(quantized->evaluation->tokens, 0);
}

}  // namespace
}  // namespace nibble
