// Base files: what is kept is what the base said, to the precision promised; and no bytes that
// claim to be one make the reader crash or believe them.
#include "engine/eval/base_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/eval/base_layout.h"
#include "engine/eval/divergence.h"
#include "tests/engine/eval/formula_logits.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using Bytes = std::vector<uint8_t>;

std::vector<int32_t> Text(int32_t n) {
  std::vector<int32_t> ids(n);
  for (int32_t i = 0; i < n; ++i) ids[i] = (i * i + 3 * i) % kFormulaVocab;
  return ids;
}

WindowOptions Options(int32_t stride = 0, int32_t skip = 1) {
  WindowOptions options;
  options.window = 20;
  options.skip = skip;
  options.stride = stride;
  options.bos_id = 5;
  return options;
}

std::string PathOf(const std::string& name) {
  return absl::StrCat(testing::TempDir(), "base_file_test_", name, "_", getpid());
}

Bytes ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes((std::istreambuf_iterator<char>(file)), {});
}

Bytes Saved(const WindowOptions& options = Options(), BaseFileInfo* info = nullptr) {
  const std::string path = PathOf("saved");
  FormulaLogits base(0);
  const auto saved = SaveBaseFile(base, Text(87), options, "formula", path, nullptr);
  EXPECT_TRUE(saved.ok()) << saved.status();
  if (info != nullptr) *info = *saved;
  Bytes bytes = ReadAll(path);
  std::remove(path.c_str());
  return bytes;
}

// With its checksums right again: damage that is not an accident.
void Reseal(Bytes& bytes) {
  BaseHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const size_t room = bytes.size() - sizeof(header);
  if (header.description_bytes > room) return;
  const absl::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof(header),
                               header.description_bytes);
  header.checksum = BaseHeaderChecksum(header, text);
  std::memcpy(bytes.data(), &header, sizeof(header));
}

absl::Status Compare(const Bytes& bytes, const WindowOptions& options, int32_t num_ids = 87) {
  const auto file = BaseFile::Parse(bytes, "b.base");
  if (!file.ok()) return file.status();
  FormulaLogits candidate(0.04f);
  return EvaluateDivergence(**file, candidate, Text(num_ids), options, nullptr).status();
}

TEST(BaseFileTest, GivesTheFiguresOfTheModelThatWroteIt) {
  for (const WindowOptions& options : {Options(), Options(0, 11), Options(7), Options(19)}) {
    BaseFileInfo info;
    const Bytes bytes = Saved(options, &info);
    const auto file = BaseFile::Parse(bytes, "b.base").value();
    for (int32_t max_batch_tokens : {3, 64}) {
      FormulaLogits base(0), candidate(0.04f, max_batch_tokens), again(0.04f, max_batch_tokens);
      const auto expected = EvaluateDivergence(base, candidate, Text(87), options, nullptr).value();
      const auto found = EvaluateDivergence(*file, again, Text(87), options, nullptr).value();
      EXPECT_EQ(found.tokens, expected.tokens);
      EXPECT_EQ(info.num_positions, expected.tokens);
      EXPECT_NEAR(found.kl.mean, expected.kl.mean, 2e-4 * expected.kl.mean);
      EXPECT_NEAR(found.kl_max, expected.kl_max, 1e-3 * expected.kl_max);
      EXPECT_EQ(found.agreement.mean, expected.agreement.mean);
      EXPECT_NEAR(found.delta.mean, expected.delta.mean, 1e-7);
      EXPECT_NEAR(found.base_nll.mean, expected.base_nll.mean, 1e-7);
      EXPECT_NEAR(info.nll.mean, expected.base_nll.mean, 1e-12);
      EXPECT_NEAR(info.nll.standard_error, expected.base_nll.standard_error, 1e-12);
    }
  }
}

TEST(BaseFileTest, ABaseDoesNotDivergeFromItselfByMoreThanItsCodes) {
  const Bytes bytes = Saved();
  const auto kept = BaseFile::Parse(bytes, "b.base").value();
  FormulaLogits same(0);
  const auto result = EvaluateDivergence(*kept, same, Text(87), Options(), nullptr).value();
  EXPECT_LT(result.kl_max, 1e-8);
  EXPECT_EQ(result.agreement.mean, 1);
}

TEST(BaseFileTest, TakesAsManyBytesAsItSays) {
  BaseFileInfo info;
  const Bytes bytes = Saved(Options(), &info);
  EXPECT_EQ(info.position_bytes, 16 + 2 * kFormulaVocab);
  EXPECT_EQ(info.size_bytes, static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(bytes.size(), 104u + 7 + 4 * 19 * (16 + 2 * kFormulaVocab));
  const auto file = BaseFile::Parse(bytes, "b.base").value();
  EXPECT_EQ(file->info().description, "formula");
  EXPECT_EQ(file->info().num_windows, 4);
  EXPECT_EQ(file->info().windows, Options());
}

// Two equal peaks, a flat row, and the widest spread of f32 logits that a softmax sees.
TEST(BaseFileTest, TiesAndExtremeLogitsKeepTheirLikeliestWord) {
  class Extreme : public FormulaLogits {
   public:
    Extreme() : FormulaLogits(0, 64, 4) {}
    absl::Status RunForLogits(const Batch& batch, LogitsVisitor visit) override {
      const std::vector<std::vector<float>> rows = {
          {1, 3, 3, 2}, {0, 0, 0, 0}, {-3e38f, 3e38f, 0, 1}, {-1e-40f, 0, 0, 0}};
      for (int32_t p = 0; p < batch.rows[0].num_scheduled; ++p) visit(0, p, rows[p]);
      return absl::OkStatus();
    }
  };
  WindowOptions options;
  options.window = 5;
  const std::vector<int32_t> ids = {0, 1, 2, 1, 3};
  const std::string path = PathOf("extreme");
  Extreme base;
  ASSERT_TRUE(SaveBaseFile(base, ids, options, "extreme", path, nullptr).ok());
  const auto file = BaseFile::Open(path).value();
  const auto result = EvaluateDivergence(*file, base, ids, options, nullptr);
  std::remove(path.c_str());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->agreement.mean, 1);
  EXPECT_LT(result->kl_median.mean, 1e-30);
}

TEST(BaseFileTest, AnotherTextOrOtherWindowsAreRefused) {
  const Bytes bytes = Saved();
  EXPECT_TRUE(Compare(bytes, Options()).ok());
  const auto message = [&](const WindowOptions& options, int32_t num_ids) {
    const absl::Status status = Compare(bytes, options, num_ids);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(Options(), 86), HasSubstr("b.base: was made from other tokens"));
  EXPECT_THAT(message(Options(), 200), HasSubstr("b.base: was made from other tokens"));
  EXPECT_THAT(message(Options(0, 3), 87), HasSubstr("--skip 1"));
  EXPECT_THAT(message(Options(10), 87), HasSubstr("--stride 0"));
  const auto file = BaseFile::Parse(bytes, "b.base").value();
  FormulaLogits wide(0, 16, kFormulaVocab + 1);
  EXPECT_THAT(
      std::string(EvaluateDivergence(*file, wide, Text(87), Options(), nullptr).status().message()),
      HasSubstr("23 words, the candidate's 24"));
}

TEST(BaseFileTest, NothingIsLeftOfAFileThatCouldNotBeFinished) {
  const std::string path = PathOf("broken");
  FormulaLogits poisoned(0);
  poisoned.poisoned_position = 13;
  poisoned.poison = std::numeric_limits<float>::quiet_NaN();
  const absl::Status status =
      SaveBaseFile(poisoned, Text(60), Options(), "x", path, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("position 13 of window 0"));
  FormulaLogits failing(0);
  failing.fail_at = 3;
  EXPECT_EQ(SaveBaseFile(failing, Text(60), Options(), "x", path, nullptr).status().message(),
            "the device is gone");
  EXPECT_EQ(BaseFile::Open(path).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(BaseFile::Open(path + ".partial").status().code(), absl::StatusCode::kNotFound);
}

// A flag's slip must not cost anybody a model.
TEST(BaseFileTest, AnotherFileIsNotReplaced) {
  const std::string path = PathOf("model");
  std::ofstream(path) << "GGUF and the rest of a model";
  FormulaLogits base(0);
  const auto saved = SaveBaseFile(base, Text(60), Options(), "x", path, nullptr);
  EXPECT_EQ(saved.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadAll(path).size(), 28u);
  std::remove(path.c_str());
  for (int i = 0; i < 2; ++i) {  // but one of its own is
    EXPECT_TRUE(SaveBaseFile(base, Text(60), Options(), "x", path, nullptr).ok());
  }
  std::remove(path.c_str());
}

TEST(BaseFileHostileTest, EveryTruncationIsRefused) {
  const Bytes bytes = Saved();
  for (size_t size = 0; size < bytes.size(); size += size < 200 ? 1 : 37) {
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_EQ(BaseFile::Parse(cut, "b").status().code(), absl::StatusCode::kDataLoss) << size;
  }
}

TEST(BaseFileHostileTest, EveryByteThatChangesIsNoticed) {
  const Bytes bytes = Saved();
  for (size_t at = 0; at < bytes.size(); ++at) {
    Bytes damaged = bytes;
    damaged[at] ^= 0x41;
    const absl::Status status = Compare(damaged, Options());
    EXPECT_TRUE(status.code() == absl::StatusCode::kDataLoss ||
                status.code() == absl::StatusCode::kUnimplemented)
        << at << ": " << status;
  }
}

TEST(BaseFileHostileTest, APositionDoesNotPassForAnother) {
  Bytes bytes = Saved();
  const size_t size = 16 + 2 * kFormulaVocab, start = 104 + 7;
  std::swap_ranges(bytes.begin() + start, bytes.begin() + start + size,
                   bytes.begin() + start + size);
  EXPECT_THAT(std::string(Compare(bytes, Options()).message()),
              HasSubstr("b.base: position 0 is damaged"));
}

TEST(BaseFileHostileTest, AnotherVersionOrByteOrderIsToldApart) {
  Bytes bytes = Saved();
  bytes[12] = 2;
  EXPECT_EQ(BaseFile::Parse(bytes, "b").status().code(), absl::StatusCode::kUnimplemented);
  bytes = Saved();
  std::reverse(bytes.begin() + 8, bytes.begin() + 12);
  EXPECT_EQ(BaseFile::Parse(bytes, "b").status().code(), absl::StatusCode::kUnimplemented);
}

TEST(BaseFileHostileTest, CountsThatTheFileDoesNotHoldAreRefused) {
  const auto refused = [](auto change) {
    Bytes bytes = Saved();
    BaseHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    change(header);
    std::memcpy(bytes.data(), &header, sizeof(header));
    Reseal(bytes);
    return Compare(bytes, Options()).code() == absl::StatusCode::kDataLoss;
  };
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  EXPECT_TRUE(refused([](BaseHeader& h) { h.vocab_size = 0; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.vocab_size = -8; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.vocab_size = 1 << 30; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.window = 0; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.window = 1 << 30; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.skip = 0; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.skip = 20; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.stride = -1; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.stride = 21; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.bos_id = -2; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.num_windows = 0; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.num_windows = 5; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.num_windows = kMost; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.num_positions = -1; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.num_positions = kMost; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.description_bytes = 8; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.description_bytes = 0xFFFFFFFF; }));
  EXPECT_TRUE(refused([](BaseHeader& h) { h.file_bytes = 1; }));
}

TEST(BaseFileHostileTest, NumbersThatAreNoLogProbabilitiesAreRefused) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& [target, step] : {std::pair<float, float>{0.5f, 1e-4f},
                                     {kInfinity, 1e-4f},
                                     {std::nanf(""), 1e-4f},
                                     {-1.0f, -1e-4f},
                                     {-1.0f, std::nanf("")},
                                     {-1.0f, 1.5f}}) {
    Bytes bytes = Saved();
    const size_t start = 104 + 7, size = 16 + 2 * kFormulaVocab;
    BasePosition position;
    position.target_logprob = target;
    position.step = step;
    std::memcpy(bytes.data() + start, &position, sizeof(position));
    position.checksum = BasePositionChecksum({bytes.data() + start, size}, 0);
    std::memcpy(bytes.data() + start, &position, sizeof(position));
    EXPECT_EQ(Compare(bytes, Options()).code(), absl::StatusCode::kDataLoss) << target << step;
  }
}

TEST(BaseFileHostileTest, RandomHeadersWithTheRightChecksumNeverCrash) {
  constexpr uint32_t kSeed = 7;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  const Bytes bytes = Saved();
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    Bytes changed = bytes;
    for (int n = 1 + static_cast<int>(random() % 4); n > 0; --n) {
      changed[24 + random() % 40] = static_cast<uint8_t>(random() % 3 == 0 ? 0xFF : random());
    }
    Reseal(changed);
    refused += Compare(changed, Options()).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 1900);
}

}  // namespace
}  // namespace nibble
