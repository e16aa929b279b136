#include "engine/quantize/model/layer_record.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/methods/gptq.h"
#include "engine/quantize/methods/round_to_nearest.h"

namespace nibble::quantize {
namespace {

MatrixF Waves(int64_t rows, int64_t cols) {
  MatrixF values(rows, cols);
  for (int64_t i = 0; i < values.size(); ++i) {
    values.data()[i] = std::sin(static_cast<float>(i) * 0.37f) + 0.1f;
  }
  return values;
}

class LayerRecordTest : public ::testing::Test {
 protected:
  LayerRecordTest()
      : path_(absl::StrCat(::testing::TempDir(), "/nibble_layer_record_", getpid())) {}
  ~LayerRecordTest() override { unlink(path_.c_str()); }

  absl::Status WriteAll() {
    NIBBLE_ASSIGN_OR_RETURN(const auto writer, LayerRecordWriter::Create(path_));
    NIBBLE_RETURN_IF_ERROR(writer->Matrix("a.weight", weight_, &codes_));
    NIBBLE_RETURN_IF_ERROR(writer->Matrix("b.weight", weight_, nullptr));
    NIBBLE_RETURN_IF_ERROR(writer->Vector("norm.weight", VectorF::LinSpaced(7, -1, 1)));
    NIBBLE_RETURN_IF_ERROR(writer->Range(Site::kDown, 3.5f));
    return writer->Finish({{"a.weight", 12, 4.5, 20.25, 0.125}});
  }
  std::string Bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Put(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }

  const std::string path_;
  const MatrixF weight_ = Waves(6, 64);
  const QuantizedWeight codes_ = RoundToNearest(weight_, *ParseScheme("int4-asym-g32"), 1);
};

TEST_F(LayerRecordTest, GivesBackWhatItWasTold) {
  ASSERT_TRUE(WriteAll().ok());
  EXPECT_TRUE(CheckLayerRecord(path_).ok());
  const LayerResult result = *ReadLayerRecord(path_);
  ASSERT_EQ(result.matrices.size(), 2u);
  EXPECT_EQ(result.matrices[0].name, "a.weight");
  EXPECT_EQ(result.matrices[0].values.size(), 0);
  EXPECT_EQ(Dequantize(*result.matrices[0].weight), Dequantize(codes_));
  EXPECT_FALSE(result.matrices[1].weight.has_value());
  EXPECT_EQ(result.matrices[1].values, weight_);
  ASSERT_EQ(result.vectors.size(), 1u);
  EXPECT_EQ(result.vectors[0].first, "norm.weight");
  EXPECT_EQ(result.vectors[0].second, VectorF(VectorF::LinSpaced(7, -1, 1)));
  ASSERT_EQ(result.ranges.size(), 1u);
  EXPECT_EQ(result.ranges[0].site, Site::kDown);
  EXPECT_EQ(result.ranges[0].max, 3.5f);
  ASSERT_EQ(result.reports.size(), 1u);
  EXPECT_EQ(result.reports[0].name, "a.weight");
  EXPECT_EQ(result.reports[0].elements, 12);
  EXPECT_EQ(result.reports[0].noise_db, 20.25);
  EXPECT_EQ(result.reports[0].output_error, 0.125);
}

TEST_F(LayerRecordTest, KeepsTheCodesOfEveryScheme) {
  const MatrixF weight = Waves(128, 128);
  for (const char* name : {"int2-full-g32", "int4-sym-g64", "int8-sym-channel", "int8-asym-g32",
                           "int5-asym-g32", "nf4-b64-dq", "fp4-b64", "e4m3-block", "e5m2-tensor"}) {
    const QuantizedWeight codes = RoundToNearest(weight, *ParseScheme(name), 1);
    auto writer = *LayerRecordWriter::Create(path_);
    ASSERT_TRUE(writer->Matrix("m", weight, &codes).ok());
    ASSERT_TRUE(writer->Finish({}).ok());
    const LayerResult result = *ReadLayerRecord(path_);
    const QuantizedWeight& found = *result.matrices[0].weight;
    EXPECT_EQ(found.scheme, codes.scheme) << name;
    EXPECT_EQ(found.codes, codes.codes) << name;
    EXPECT_EQ(found.maxima, codes.maxima) << name;
    EXPECT_EQ(Dequantize(found), Dequantize(codes)) << name;
  }
}

TEST_F(LayerRecordTest, KeepsAnOrderOfColumns) {
  const MatrixF hessian = MatrixF::Identity(64, 64);
  GptqOptions options;
  options.order = ColumnOrder::kByActivationGIndex;
  QuantizedWeight codes = *QuantizeGptq(weight_, hessian, *ParseScheme("int4-asym-g32"), options);
  std::swap(codes.group_of_column[0], codes.group_of_column[63]);
  auto writer = *LayerRecordWriter::Create(path_);
  ASSERT_TRUE(writer->Matrix("m", weight_, &codes).ok());
  ASSERT_TRUE(writer->Finish({}).ok());
  const LayerResult result = *ReadLayerRecord(path_);
  EXPECT_EQ(result.matrices[0].weight->group_of_column, codes.group_of_column);
}

// A record is small: every byte of it may be lost or changed, and none goes unnoticed.
TEST_F(LayerRecordTest, EveryTruncationAndEveryChangedByteIsNoticed) {
  ASSERT_TRUE(WriteAll().ok());
  const std::string whole = Bytes();
  for (size_t i = 0; i < whole.size(); ++i) {
    Put(whole.substr(0, i));
    EXPECT_EQ(ReadLayerRecord(path_).status().code(), absl::StatusCode::kDataLoss) << i;
    EXPECT_EQ(CheckLayerRecord(path_).code(), absl::StatusCode::kDataLoss) << i;
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 0x40);
    Put(changed);
    EXPECT_EQ(CheckLayerRecord(path_).code(), absl::StatusCode::kDataLoss) << i;
    EXPECT_EQ(ReadLayerRecord(path_).status().code(), absl::StatusCode::kDataLoss) << i;
  }
  Put(whole + "x");
  EXPECT_EQ(CheckLayerRecord(path_).code(), absl::StatusCode::kDataLoss);
}

TEST_F(LayerRecordTest, IsNotThereBeforeItIsFinished) {
  auto writer = *LayerRecordWriter::Create(path_);
  ASSERT_TRUE(writer->Vector("v", VectorF::Zero(3)).ok());
  EXPECT_EQ(CheckLayerRecord(path_).code(), absl::StatusCode::kNotFound);
  writer.reset();
  EXPECT_FALSE(std::filesystem::exists(path_ + ".partial"));
}

TEST_F(LayerRecordTest, AFullDiskIsAnError) {
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {1000, before.rlim_max};  // as a full disk is to this process
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_EQ(WriteAll().code(), absl::StatusCode::kResourceExhausted);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace nibble::quantize
