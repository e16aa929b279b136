#include <unistd.h>

#include <tuple>

#include "absl/strings/str_cat.h"
#include "engine/weights/ggml_types.h"
#include "engine/weights/weight_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::RandomBlocks;

class GgufSourceTest : public ::testing::Test {
 protected:
  GgufSourceTest() {
    GgufWriter writer;
    writer.String("general.architecture", "llama");
    writer.Add("q4", {64, 3}, GgmlType::kQ4_1, RandomBlocks(GgmlType::kQ4_1, 192, 1, 1.0f));
    writer.Add("q6", {256, 2}, GgmlType::kQ6_K, RandomBlocks(GgmlType::kQ6_K, 512, 2, 1.0f));
    writer.Add("norm", {5}, GgmlType::kF16, RandomBlocks(GgmlType::kF16, 5, 3, 1.0f));
    writer.Add("q2", {256, 2}, static_cast<GgmlType>(22), std::vector<uint8_t>(164));
    writer.Add("bad", {32, 1}, GgmlType::kQ8_0, std::vector<uint8_t>(34, 0xFF));
    writer.Add("nan", {1}, GgmlType::kF32, std::vector<uint8_t>(4, 0xFF));
    bytes_ = writer.Build();
    file_.emplace(GgufFile::Parse(bytes_, "m.gguf").value());
    source_ = MakeGgufSource(*file_);
  }
  std::vector<uint8_t> bytes_;
  std::optional<GgufFile> file_;
  std::unique_ptr<WeightSource> source_;
};

TEST_F(GgufSourceTest, LoadsAMatrixOfTheShapeThatWasAskedFor) {
  EXPECT_TRUE(source_->Has("q4"));
  EXPECT_FALSE(source_->Has("q5"));
  const absl::StatusOr<quant::Matrix> matrix = source_->LoadMatrix("q4", 3, 64);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_EQ(matrix->rows, 3);
  EXPECT_EQ(matrix->cols, 64);
  EXPECT_TRUE(quant::Validate(*matrix).ok());
}

// Bits of a range are those of the whole: a matrix may be loaded in pieces.
TEST_F(GgufSourceTest, RowsAreThoseOfTheWholeMatrix) {
  for (const auto& [name, rows, cols] : {std::tuple("q4", 3, 64), std::tuple("q6", 2, 256)}) {
    const quant::Matrix whole = source_->LoadMatrix(name, rows, cols).value();
    quant::Matrix joined = source_->LoadRows(name, rows, cols, {0, 1}).value();
    const quant::Matrix rest = source_->LoadRows(name, rows, cols, {1, rows - 1}).value();
    EXPECT_TRUE(quant::Validate(rest).ok());
    joined.codes.insert(joined.codes.end(), rest.codes.begin(), rest.codes.end());
    joined.scales.insert(joined.scales.end(), rest.scales.begin(), rest.scales.end());
    joined.offsets.insert(joined.offsets.end(), rest.offsets.begin(), rest.offsets.end());
    EXPECT_EQ(joined.codes, whole.codes);
    EXPECT_EQ(joined.scales, whole.scales);
    EXPECT_EQ(joined.offsets, whole.offsets);
  }
}

// A download that is restarted in place truncates the file under its readers: no signal, a Status.
TEST_F(GgufSourceTest, AFileTruncatedAfterItWasOpenedIsDataLoss) {
  const std::string path = testing::WriteTempFile("truncated.gguf", bytes_);
  const GgufFile file = GgufFile::Open(path).value();
  const std::unique_ptr<WeightSource> source = MakeGgufSource(file);
  ASSERT_TRUE(source->LoadMatrix("q6", 2, 256).ok());
  const auto start = static_cast<off_t>(file.Preamble().size());
  ASSERT_EQ(truncate(path.c_str(), start + 10), 0);
  for (const absl::Status& status :
       {source->LoadMatrix("q4", 3, 64).status(), source->LoadMatrix("q6", 2, 256).status(),
        source->LoadVector("norm", 5).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("was it changed since?"));
  }
}

TEST_F(GgufSourceTest, LoadsAVectorInF32WhateverItIsStoredIn) {
  const absl::StatusOr<std::vector<float>> norm = source_->LoadVector("norm", 5);
  ASSERT_TRUE(norm.ok()) << norm.status();
  std::vector<float> expected(5);
  DequantizeBlocks(GgmlType::kF16, file_->Data(*file_->Find("norm")), 5, expected.data());
  EXPECT_EQ(*norm, expected);
}

TEST_F(GgufSourceTest, AnotherShapeNamesBothAndAsksTheQuestion) {
  const absl::Status status = source_->LoadMatrix("q4", 64, 3).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      status.message(),
      "m.gguf: tensor 'q4' is [3, 64], the config needs [64, 3]; is the file for another model?");
  EXPECT_EQ(source_->LoadVector("q4", 192).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(source_->LoadMatrix("norm", 1, 5).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(source_->LoadMatrix("absent", 1, 5).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GgufSourceTest, ATypeWithoutAReaderIsRefusedByName) {
  const absl::Status status = source_->LoadMatrix("q2", 2, 256).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'q2' is of type IQ2_S"));
}

TEST_F(GgufSourceTest, NumbersThatAreNotFiniteAreDataLossWithTheTensorsName) {
  const absl::Status matrix = source_->LoadMatrix("bad", 1, 32).status();
  EXPECT_EQ(matrix.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(matrix.message()),
              HasSubstr("m.gguf: tensor 'bad': block 0 has a scale"));
  EXPECT_EQ(source_->LoadVector("nan", 1).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GgufSourceTest, TheReportSaysWhatIsConvertedAndWhatItCosts) {
  const std::vector<TensorReport> report = source_->Report();
  ASSERT_EQ(report.size(), 6u);
  EXPECT_EQ(report[0].file_type, "Q4_1");
  EXPECT_THAT(report[0].shape, ElementsAre(3, 64));
  EXPECT_EQ(report[0].file_bytes, 120);
  EXPECT_EQ(report[0].canonical_bytes, 120) << "f16 scale and offset a group, as in the file";
  EXPECT_FALSE(report[0].converted);
  EXPECT_EQ(report[1].canonical, "q6_k");
  EXPECT_EQ(report[1].canonical_bytes, report[1].file_bytes);
  EXPECT_FALSE(report[1].converted);
  EXPECT_EQ(report[2].canonical, "f32");
  EXPECT_EQ(report[2].canonical_bytes, 20);
  EXPECT_TRUE(report[2].converted) << "an f16 vector is held in f32";
  EXPECT_EQ(report[3].file_type, "IQ2_S");
  EXPECT_EQ(report[3].canonical, "") << "unreadable";
}

// The report is an estimate made without loading; it must be what loading gives.
TEST_F(GgufSourceTest, ReportedBytesAreThoseOfTheLoadedMatrix) {
  const quant::Matrix q4 = source_->LoadMatrix("q4", 3, 64).value();
  const int64_t scale_bytes = quant::ScalesFitF16(q4) ? 2 : 4;
  const auto loaded =
      static_cast<int64_t>(q4.codes.size() + (q4.scales.size() + q4.offsets.size()) * scale_bytes);
  EXPECT_EQ(source_->Report()[0].canonical_bytes, loaded);
}

}  // namespace
}  // namespace nibble
