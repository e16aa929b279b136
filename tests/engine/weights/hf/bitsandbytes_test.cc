// Scales that bitsandbytes' double quantization computes from three tensors and a number: each may
// be in order and the result no number, which nothing behind the loader would notice before the
// first logits do.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/weights/hf/linear_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/safetensors_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

std::vector<uint8_t> BytesOf(const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// A matrix [1, 32] in two blocks of 16; every value of a table is the same.
struct Stored {
  float map = 0.5f;
  float nested_map = 0.25f;
  float nested_absmax = 2;
  std::string offset = "0.125";
  std::vector<float> absmax;  // not empty: instead of the nested ones

  testing::SafetensorsWriter File() const {
    testing::SafetensorsWriter file;
    file.Add("m.weight", "U8", {16, 1}, std::vector<uint8_t>(16, 0x12));
    file.Add("m.weight.quant_map", "F32", {16}, BytesOf(std::vector<float>(16, map)));
    if (!absmax.empty()) {
      file.Add("m.weight.absmax", "F32", {2}, BytesOf(absmax));
    } else {
      file.Add("m.weight.absmax", "U8", {2}, {7, 200});
      file.Add("m.weight.nested_absmax", "F32", {1}, BytesOf({nested_absmax}));
      file.Add("m.weight.nested_quant_map", "F32", {256},
               BytesOf(std::vector<float>(256, nested_map)));
    }
    const std::string state = absl::StrCat(
        R"({"blocksize":16,"nested_blocksize":256,"shape":[1,32],"nested_offset":)", offset, "}");
    file.Add("m.weight.quant_state.bitsandbytes__nf4", "U8", {static_cast<int64_t>(state.size())},
             {state.begin(), state.end()});
    return file;
  }

  absl::StatusOr<quant::Matrix> Load() const {
    const auto bytes = File().Build();  // outlives its file
    std::vector<SafetensorsFile> files;
    files.push_back(SafetensorsFile::Parse(bytes, "f").value());
    const TensorSet set = TensorSet::Make(std::move(files)).value();
    const auto layout = OpenBnb4(ModuleTensors(set, "m"));
    if (!layout.ok()) return layout.status();
    return (*layout)->Load(0, 1);
  }
};

void ExpectDataLoss(const Stored& stored, const std::string& tensor) {
  const absl::Status status = stored.Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(tensor));
}

TEST(Bitsandbytes, ANestedScaleIsMapTimesAbsmaxPlusOffset) {
  const absl::StatusOr<quant::Matrix> matrix = Stored().Load();
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_THAT(matrix->scales, ::testing::ElementsAre(0.625f, 0.625f));
}

TEST(Bitsandbytes, AnOffsetThatNoFloatHoldsIsDataLoss) {
  ExpectDataLoss({.offset = "1e300"}, "m.weight.quant_state.bitsandbytes__nf4");
  ExpectDataLoss({.offset = "-1e300"}, "nested_offset");
  ExpectDataLoss({.offset = "1e34"}, "nested_offset");
}

TEST(Bitsandbytes, AScaleComputedBeyondTheLimitIsDataLoss) {
  ExpectDataLoss({.nested_map = 1e30f, .nested_absmax = 1e30f}, "m.weight.absmax");
  ExpectDataLoss({.nested_map = -1e30f, .nested_absmax = 1e30f}, "m.weight.absmax");
  ExpectDataLoss({.nested_map = 3e4f, .nested_absmax = 1e30f}, "m.weight.absmax");
}

// What a weight is: a scale in order times an entry of the table in order.
TEST(Bitsandbytes, AWeightBeyondTheLimitIsDataLoss) {
  ExpectDataLoss({.map = 1e30f, .nested_absmax = 1e30f}, "m.weight.absmax");
  ExpectDataLoss({.map = 1e30f, .absmax = {1, 1e30f}}, "m.weight.absmax");
  EXPECT_TRUE((Stored{.map = 1e-30f, .absmax = {1, 1e30f}}.Load().ok()));
}

}  // namespace
}  // namespace nibble
