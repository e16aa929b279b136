// Mutants of the recorded checkpoints: header bytes flipped and data changed. Whatever comes of
// them, errors are typed and a matrix that loads is valid.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "engine/weights/hf/linear_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/safetensors_writer.h"

namespace nibble {
namespace {

void ExpectTyped(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnimplemented:
      return;
    default:
      FAIL() << status;
  }
}

QuantConfig ConfigOf(const SafetensorsFile& file) {
  for (const auto& [key, value] : file.metadata()) {
    if (key != "config") continue;
    const absl::StatusOr<JsonObject> json = JsonObject::Parse(value, "config.json", {});
    ExpectTyped(json.status());
    if (!json.ok()) return {};
    const absl::StatusOr<QuantConfig> config = ReadQuantConfig(*json);
    ExpectTyped(config.status());
    return config.value_or(QuantConfig());
  }
  return {};
}

// True when the module loaded.
bool Survive(const std::vector<uint8_t>& mutant) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Parse(mutant, "m");
  ExpectTyped(file.status());
  if (!file.ok()) return false;
  const QuantConfig config = ConfigOf(*file);
  std::vector<SafetensorsFile> files;
  files.push_back(*std::move(file));
  const TensorSet set = TensorSet::Make(std::move(files)).value();
  const auto layout = OpenLinear(ModuleTensors(set, "m"), config);
  ExpectTyped(layout.status());
  // A shape may be of other numbers and as many bytes: never more elements than the file has bits.
  if (!layout.ok()) return false;
  EXPECT_LE(int64_t{(*layout)->rows()} * (*layout)->cols(),
            static_cast<int64_t>(mutant.size()) * 8);
  const absl::StatusOr<quant::Matrix> matrix = (*layout)->Load(0, (*layout)->rows());
  ExpectTyped(matrix.status());
  if (!matrix.ok()) return false;
  EXPECT_TRUE(quant::Validate(*matrix).ok()) << quant::Validate(*matrix);
  for (const float scale : matrix->scales) EXPECT_LE(std::abs(scale), kLargestStored);
  return true;
}

std::vector<std::vector<uint8_t>> Checkpoints() {
  std::vector<std::vector<uint8_t>> all;
  for (const auto& entry : std::filesystem::directory_iterator(NIBBLE_RECORDED_MATRICES)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    all.emplace_back(text.begin(), text.end());
  }
  return all;
}

size_t HeaderBytes(const std::vector<uint8_t>& file) {
  return SafetensorsFile::Parse(file, "m").value().Preamble().size();
}

TEST(HostileLayouts, TheOriginalsLoad) {
  for (const std::vector<uint8_t>& file : Checkpoints()) EXPECT_TRUE(Survive(file));
}

// Two rows of two groups of four-bit codes, with a byte a zero point.
absl::StatusOr<quant::Matrix> LoadWithZeros(const std::vector<int8_t>& zeros) {
  testing::SafetensorsWriter file;
  const auto bytes = [](const auto& values) {
    const auto* begin = reinterpret_cast<const uint8_t*>(values.data());
    return std::vector<uint8_t>(begin, begin + values.size() * sizeof(values[0]));
  };
  file.Add("m.weight_packed", "I32", {2, 4}, std::vector<uint8_t>(32, 0xF0));
  file.Add("m.weight_shape", "I64", {2}, bytes(std::vector<int64_t>{2, 32}));
  file.Add("m.weight_scale", "F32", {2, 2}, bytes(std::vector<float>{1, 2, 3, 4}));
  file.Add("m.weight_zero_point", "I8", {2, 2}, bytes(zeros));
  const std::vector<uint8_t> built = file.Build();
  std::vector<SafetensorsFile> files;
  files.push_back(SafetensorsFile::Parse(built, "m").value());
  const TensorSet set = TensorSet::Make(std::move(files)).value();
  const auto layout = OpenPackedInt(ModuleTensors(set, "m"));
  if (!layout.ok()) return layout.status();
  return (*layout)->Load(0, 2);
}

// A code less a zero point is kept in a byte: 15 + 120 would come out as -121.
TEST(HostileLayouts, AZeroPointBeyondItsBitsIsRefused) {
  const absl::StatusOr<quant::Matrix> matrix = LoadWithZeros({-8, 7, 0, 1});
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  std::vector<float> row(32);
  quant::DequantizeRow(*matrix, 0, row.data());
  EXPECT_EQ(row[1], 15 - 8 + 8) << "scale 1, zero -8";
  EXPECT_EQ(row[17], 2 * (15 - 8 - 7)) << "scale 2, zero 7";
  for (const int zero : {8, 127, -9, -128}) {
    const absl::Status status = LoadWithZeros({0, 0, 0, static_cast<int8_t>(zero)}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << zero;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("for row 1, group 1"));
  }
}

TEST(HostileLayouts, EveryHeaderByteChanged) {
  int mutants = 0, loaded = 0;
  for (const std::vector<uint8_t>& file : Checkpoints()) {
    const size_t header = HeaderBytes(file);
    for (size_t at = 0; at < header; ++at) {
      for (const uint8_t change : {0x01, 0x02, 0x80}) {
        std::vector<uint8_t> mutant = file;
        mutant[at] ^= change;
        loaded += Survive(mutant) ? 1 : 0;
        ++mutants;
        if (HasFailure()) return;
      }
    }
  }
  RecordProperty("mutants", mutants);
  RecordProperty("loaded", loaded);
  EXPECT_GT(mutants, 40000);
}

TEST(HostileLayouts, RandomDataBytesChanged) {
  constexpr uint32_t kSeed = 20240607;
  std::mt19937 random(kSeed);
  for (const std::vector<uint8_t>& file : Checkpoints()) {
    const size_t header = HeaderBytes(file);
    for (int i = 0; i < 200; ++i) {
      std::vector<uint8_t> mutant = file;
      for (uint32_t c = 1 + random() % 16; c > 0; --c) {
        mutant[header + random() % (mutant.size() - header)] = static_cast<uint8_t>(random());
      }
      SCOPED_TRACE(::testing::Message() << "seed " << kSeed << " round " << i);
      Survive(mutant);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace nibble
