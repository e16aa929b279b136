// Matrices are the same bits from one thread or many, packed or mapped; a cache that does not fit
// is replaced, and one that cannot be written costs nothing but the next start.
#include "engine/model/matrix_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/weights/packed_file.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::RandomBlocks;

// Types of every kind of layout; shapes of one piece, of many (4,200 rows of 1,024 columns are
// five) and of a last one that is no multiple of anything.
struct Spec {
  const char* name;
  GgmlType type;
  int32_t rows, cols;
};
constexpr Spec kSpecs[] = {
    {"q4_0", GgmlType::kQ4_0, 4200, 1024}, {"q4_1", GgmlType::kQ4_1, 96, 64},
    {"q4_k", GgmlType::kQ4_K, 40, 512},    {"q6_k", GgmlType::kQ6_K, 1031, 1024},
    {"q8_0", GgmlType::kQ8_0, 33, 96},     {"f16", GgmlType::kF16, 2500, 512},
    {"bf16", GgmlType::kBF16, 7, 40},      {"f32", GgmlType::kF32, 130, 64},
};

GgufWriter Model(uint32_t seed) {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  for (const Spec& spec : kSpecs) {
    writer.Add(spec.name, {static_cast<uint64_t>(spec.cols), static_cast<uint64_t>(spec.rows)},
               spec.type, RandomBlocks(spec.type, int64_t{spec.rows} * spec.cols, ++seed, 1.0f));
  }
  return writer;
}

struct Matrices {
  std::deque<std::unique_ptr<PackedMatrix>> packed;
  std::vector<MatrixRequest> requests;
  Matrices() {
    for (const Spec& spec : kSpecs) {
      requests.push_back({spec.name, spec.rows, spec.cols, &packed.emplace_back()});
    }
  }
};

std::unique_ptr<Backend> MakeBackend(int32_t threads) {
  CpuOptions options;
  options.num_threads = threads;
  return CreateCpuBackend(options).value();
}

std::string AllBytes(Backend& backend, const Matrices& matrices) {
  std::string all;
  for (const auto& matrix : matrices.packed) {
    const PackedBytes bytes = backend.ToBytes(*matrix);
    all += bytes.header;
    for (const auto& section : bytes.sections) all.append(section.begin(), section.end());
  }
  return all;
}

// Loads the model file once, as a process would.
struct Loaded {
  absl::StatusOr<MatrixReport> report = absl::UnknownError("not loaded");
  std::string bytes;
  int64_t done = 0, total = -1;
};
Loaded Load(const std::string& model, const std::string& cache, int32_t threads,
            bool share = false) {
  const auto backend = MakeBackend(threads);
  const GgufFile file = GgufFile::Open(model).value();
  const auto source = MakeGgufSource(file);
  Matrices matrices;
  Loaded loaded;
  LoadProgress progress(*source, [&](int64_t done, int64_t total) {
    EXPECT_GE(done, loaded.done);
    loaded.done = done;
    loaded.total = total;
  });
  loaded.report =
      LoadMatrices(*backend, *source, matrices.requests, {cache, share}, SteadyClock(), progress);
  progress.Tell();
  if (loaded.report.ok()) loaded.bytes = AllBytes(*backend, matrices);
  return loaded;
}

class MatrixLoaderTest : public ::testing::Test {
 protected:
  MatrixLoaderTest() {
    model_ = WriteModel(Model(1).Build());
    cache_ = model_ + ".nibble-cpu.packed";
    std::filesystem::remove(cache_);
  }
  ~MatrixLoaderTest() override {
    std::filesystem::remove(model_);
    std::filesystem::remove(cache_);
  }
  // Loads, expecting that the cache is refused for `why`, and replaced by one that works.
  void ExpectRebuilt(const std::string& why) {
    const Loaded packed = Load(model_, cache_, 2);
    ASSERT_TRUE(packed.report.ok()) << packed.report.status();
    EXPECT_FALSE(packed.report->from_cache) << why;
    EXPECT_THAT(packed.report->cache_unused, HasSubstr(why));
    EXPECT_TRUE(packed.report->written.ok()) << packed.report->written;
    const Loaded taken = Load(model_, cache_, 2);
    EXPECT_TRUE(taken.report->from_cache) << taken.report->cache_unused;
    EXPECT_TRUE(taken.bytes == packed.bytes);
  }
  // Cases run at the same time, each in a process of its own.
  static std::string WriteModel(absl::Span<const uint8_t> bytes) {
    return testing::WriteTempFile(absl::StrCat("loader_", getpid(), ".gguf"), bytes);
  }
  void Overwrite(int64_t at, const std::string& bytes) {
    std::fstream file(cache_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file << bytes;
  }

  std::string model_, cache_;
};

TEST_F(MatrixLoaderTest, AnyNumberOfThreadsGivesTheBitsOfPackingEachMatrixWhole) {
  const auto backend = MakeBackend(1);
  const GgufFile file = GgufFile::Open(model_).value();
  const auto source = MakeGgufSource(file);
  Matrices whole;
  for (size_t i = 0; i < whole.requests.size(); ++i) {
    const MatrixRequest& request = whole.requests[i];
    *request.out =
        backend->Pack(source->LoadMatrix(request.name, request.rows, request.cols).value()).value();
  }
  const std::string expected = AllBytes(*backend, whole);
  for (const int32_t threads : {1, 2, 3, 8}) {
    const Loaded loaded = Load(model_, "", threads);
    ASSERT_TRUE(loaded.report.ok()) << loaded.report.status();
    EXPECT_TRUE(loaded.bytes == expected) << threads << " threads";
    EXPECT_EQ(loaded.report->threads, threads);
    EXPECT_EQ(loaded.done, loaded.total);
    EXPECT_FALSE(loaded.report->from_cache);
  }
}

TEST_F(MatrixLoaderTest, TheSecondStartTakesWhatTheFirstPacked) {
  const Loaded first = Load(model_, cache_, 2);
  ASSERT_TRUE(first.report.ok()) << first.report.status();
  EXPECT_FALSE(first.report->from_cache);
  EXPECT_EQ(first.report->cache_unused, "") << "there was none, which needs no word";
  EXPECT_TRUE(first.report->written.ok()) << first.report->written;
  for (const auto& [threads, share] :
       {std::pair(1, false), std::pair(3, false), std::pair(2, true)}) {
    const Loaded second = Load(model_, cache_, threads, share);
    EXPECT_TRUE(second.report->from_cache) << second.report->cache_unused;
    EXPECT_TRUE(second.bytes == first.bytes);
    EXPECT_EQ(second.report->bytes, first.report->bytes);
    EXPECT_EQ(second.done, second.total);
  }
  const auto overhead =
      static_cast<int64_t>(std::filesystem::file_size(cache_)) - first.report->bytes;
  EXPECT_LT(overhead, 4096) << "a header, a table, and padding";
}

// Where this process has mapped a file, by the system's own account.
bool IsMapped(const void* address, const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2) continue;
    const auto at = reinterpret_cast<uintptr_t>(address);
    if (at < begin || at >= end) continue;
    return line.size() >= path.size() && line.substr(line.size() - path.size()) == path;
  }
  return false;
}

bool AreMapped(Backend& backend, const Matrices& matrices, const std::string& path) {
  for (const auto& matrix : matrices.packed) {
    for (const absl::Span<const uint8_t> section : backend.ToBytes(*matrix).sections) {
      if (!section.empty() && !IsMapped(section.data(), path)) return false;
    }
  }
  return true;
}

// Lets another process pack and write the same cache while this one reads.
class Overtaken final : public WeightSource {
 public:
  Overtaken(const WeightSource& source, std::function<void()> other)
      : source_(source), other_(std::move(other)) {}
  bool Has(absl::string_view name) const override { return source_.Has(name); }
  absl::StatusOr<quant::Matrix> LoadRows(absl::string_view name, int32_t rows, int32_t cols,
                                         RowRange range) const override {
    if (other_) std::exchange(other_, nullptr)();
    return source_.LoadRows(name, rows, cols, range);
  }
  absl::StatusOr<std::vector<float>> LoadVector(absl::string_view name, int32_t n) const override {
    return source_.LoadVector(name, n);
  }
  std::vector<TensorReport> Report() const override { return source_.Report(); }
  absl::StatusOr<SourceIdentity> Identity() const override { return source_.Identity(); }

 private:
  const WeightSource& source_;
  mutable std::function<void()> other_;
};

// Otherwise the process that packed would hold a second copy for as long as it lives.
TEST_F(MatrixLoaderTest, SharedWeightsAreTheFilesPagesInTheProcessThatWroteItToo) {
  const std::string bytes = Load(model_, "", 2).bytes;
  for (const bool overtaken : {false, true}) {
    std::filesystem::remove(cache_);
    const auto backend = MakeBackend(1);
    const GgufFile file = GgufFile::Open(model_).value();
    const auto source = MakeGgufSource(file);
    std::filesystem::file_time_type written;
    const Overtaken other(*source, [&] {
      if (!overtaken) return;
      ASSERT_TRUE(Load(model_, cache_, 1, /*share=*/true).report->written.ok());
      written = std::filesystem::last_write_time(cache_);
    });
    Matrices matrices;
    LoadProgress progress(other, nullptr);
    const absl::StatusOr<MatrixReport> report =
        LoadMatrices(*backend, other, matrices.requests, {cache_, true}, SteadyClock(), progress);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_FALSE(report->from_cache);
    EXPECT_TRUE(report->written.ok()) << report->written;
    EXPECT_TRUE(AreMapped(*backend, matrices, std::filesystem::canonical(cache_))) << overtaken;
    EXPECT_TRUE(AllBytes(*backend, matrices) == bytes);
    EXPECT_TRUE(!overtaken || std::filesystem::last_write_time(cache_) == written) << "twice";
  }
}

TEST_F(MatrixLoaderTest, ACacheOfAnotherOrAnOlderModelIsReplaced) {
  Load(model_, cache_, 2);
  WriteModel(Model(50).Build());
  ExpectRebuilt("was made from another model file");
  std::filesystem::last_write_time(
      model_, std::filesystem::last_write_time(model_) + std::chrono::hours(1));
  ExpectRebuilt("was made before the model file was last written");
}

TEST_F(MatrixLoaderTest, DamageIsNoticedWhereverItIs) {
  Load(model_, cache_, 2);
  const auto size = static_cast<int64_t>(std::filesystem::file_size(cache_));
  Overwrite(size / 2, std::string(64, '\x5a'));
  ExpectRebuilt("is damaged: the checksum of");
  Overwrite(100, "XX");
  ExpectRebuilt("has a damaged table");
  std::filesystem::resize_file(cache_, size / 2);
  ExpectRebuilt("was it truncated?");
  std::filesystem::resize_file(cache_, 0);
  ExpectRebuilt("is empty");
  std::ofstream(cache_) << std::string(1000, 'x');
  ExpectRebuilt("is not a file of packed weights");
}

// A file whose checksums are all right and whose content is for another layout or another model.
TEST_F(MatrixLoaderTest, WhatAFileClaimsIsCheckedAgainstWhatIsNeeded) {
  Load(model_, cache_, 2);
  const auto rewrite = [&](auto change) {
    const PackedFile file = PackedFile::Open(cache_).value();
    PackedFileKey key = file.key();
    std::vector<PackedRecord> records(file.records().begin(), file.records().end());
    change(key, records);
    ASSERT_TRUE(WritePackedFile(cache_, key, records).ok());
  };
  rewrite([](PackedFileKey& key, auto&) { ++key.layout_version; });
  const uint32_t version = MakeBackend(1)->packed_layout().version;
  ExpectRebuilt(absl::StrCat("has the packed layout cpu ", version + 1, ", this program needs cpu ",
                             version));
  rewrite([](PackedFileKey& key, auto&) { key.layout = "tpu"; });
  ExpectRebuilt(absl::StrCat("has the packed layout tpu ", version));
  rewrite([](auto&, std::vector<PackedRecord>& records) { records.erase(records.begin()); });
  ExpectRebuilt("has no matrix 'bf16'");
  rewrite([](auto&, std::vector<PackedRecord>& records) {
    std::swap(records[0].name, records[1].name);
  });
  ExpectRebuilt("has matrix '");
  rewrite([](auto&, std::vector<PackedRecord>& records) { records[0].header[0] ^= 64; });
  ExpectRebuilt("packed matrix: the size of section 0 is");
}

TEST_F(MatrixLoaderTest, ACacheThatCannotBeWrittenIsNoError) {
  const Loaded loaded = Load(model_, "/no/such/folder/x.packed", 2);
  ASSERT_TRUE(loaded.report.ok()) << loaded.report.status();
  EXPECT_FALSE(loaded.report->written.ok());
  const Loaded precious = Load(model_, model_, 2);
  ASSERT_TRUE(precious.report.ok()) << precious.report.status();
  EXPECT_EQ(precious.report->written.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(GgufFile::Open(model_).ok()) << "naming the model itself does not cost the model";
}

// Errors do not depend on which thread met one first.
TEST_F(MatrixLoaderTest, TheFirstBrokenMatrixIsNamedForAnyNumberOfThreads) {
  GgufWriter writer = Model(1);
  for (const char* name : {"q4_k", "q6_k", "f16"}) {
    std::vector<uint8_t>& data = writer.FindTensor(name)->data;
    std::fill(data.end() - 300, data.end(), 0xFF);
  }
  WriteModel(writer.Build());
  for (int round = 0; round < 5; ++round) {
    for (const int32_t threads : {1, 2, 4}) {
      const Loaded loaded = Load(model_, cache_, threads);
      EXPECT_EQ(loaded.report.status().code(), absl::StatusCode::kDataLoss);
      EXPECT_THAT(std::string(loaded.report.status().message()), HasSubstr("tensor 'q4_k'"));
      EXPECT_FALSE(std::filesystem::exists(cache_));
    }
  }
}

// The values of one late piece decide the layout of all: f16 scales do not do here.
TEST_F(MatrixLoaderTest, AWiderLayoutFoundLateIsTheSameForAnyNumberOfThreads) {
  GgufWriter writer = Model(1);
  GgufWriter::Tensor* tensor = writer.FindTensor("q6_k");
  // All scales 0, which is an f16; but for the last block.
  for (size_t at = 0; at + 420 <= tensor->data.size(); at += 210) {
    std::fill(tensor->data.begin() + at + 192, tensor->data.begin() + at + 210, 0);
  }
  const std::vector<uint8_t> bytes = writer.Build();
  WriteModel(bytes);
  const std::string one = Load(model_, "", 1).bytes;
  ASSERT_FALSE(one.empty());
  for (const int32_t threads : {2, 5}) EXPECT_TRUE(Load(model_, "", threads).bytes == one);
}

}  // namespace
}  // namespace nibble
