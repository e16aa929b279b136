// Mutants of the recorded checkpoints: header bytes flipped and data changed. Whatever comes of
// them, errors are typed and a matrix that loads is valid.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "engine/weights/hf/linear_layout.h"
#include "gtest/gtest.h"

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
