#include "cli/local_model.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <vector>

namespace nibble {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.num_layers = 30;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.context_length = 8192;
  return config;
}

RunnerOptions Cache(int64_t bytes) {
  RunnerOptions options;
  options.kv_cache_bytes = bytes;
  return options;
}

TEST(KvBytesPerTokenTest, IsKeyAndValueOfEveryLayerAndTheirScales) {
  EXPECT_EQ(KvBytesPerToken(Config(), DType::kF16), 30 * 3 * 64 * 2 * 2);
  EXPECT_EQ(KvBytesPerToken(Config(), DType::kI8), 30 * 3 * (64 + 4) * 2);
}

TEST(FittingContextTest, IsTheModelsOwnWhereTheCacheHoldsIt) {
  EXPECT_EQ(FittingContext(Config(), Cache(int64_t{256} << 20)), 8192);
}

TEST(FittingContextTest, IsTheWholeCacheInWholeBlocksWhereItHoldsLess) {
  const int64_t per_token = KvBytesPerToken(Config(), DType::kF16);
  EXPECT_EQ(FittingContext(Config(), Cache(100 * per_token)), 96) << "blocks of 32 tokens";
  EXPECT_EQ(FittingContext(Config(), Cache(96 * per_token)), 96);
  RunnerOptions int8 = Cache(96 * per_token);
  int8.kv_cache_type = DType::kI8;
  EXPECT_EQ(FittingContext(Config(), int8), 160) << "180 tokens of 12240 bytes, in whole blocks";
}

TEST(FittingContextTest, NeverNamesZeroWhichWouldMeanTheModelsOwn) {
  EXPECT_EQ(FittingContext(Config(), Cache(1)), 1);
}

TEST(ModelFlagsTest, TheCacheIsGivenInMebibytes) {
  ModelFlags flags;
  flags.kv_cache_mib = 3;
  EXPECT_EQ(flags.Runner().kv_cache_bytes, 3 << 20);
}

TEST(ParseDeviceTest, TakesTheWordsAndNoOthers) {
  using Kind = DeviceChoice::Kind;
  EXPECT_EQ(ParseDevice("cpu")->kind, Kind::kCpu);
  EXPECT_EQ(ParseDevice("auto")->kind, Kind::kAuto);
  EXPECT_EQ(ParseDevice("cuda")->kind, Kind::kCuda);
  EXPECT_EQ(ParseDevice("cuda")->ordinal, 0);
  EXPECT_EQ(ParseDevice("cuda:3")->ordinal, 3);
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:99999999999", "CPU"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseDevice(wrong).status())) << wrong;
  }
}

TEST(CreateBackendTest, AutoIsTheCpuWhereThereIsNoCudaAndAskingForItSaysWhyNot) {
  if (CheckCuda(0).ok()) GTEST_SKIP() << "this machine has a CUDA device";
  ModelFlags flags;
  flags.device = "auto";
  EXPECT_EQ((*CreateBackend(flags))->Info().name, "cpu");
  flags.device = "cuda:0";
  const absl::Status status = CreateBackend(flags).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(status.message().empty());
}

TEST(PackedCachePathTest, IsNothingAFileBesideTheModelInAFolderOrAsNamed) {
  EXPECT_EQ(PackedCachePath("off", "models/m.gguf", "cpu"), "");
  EXPECT_EQ(PackedCachePath("", "models/m.gguf", "cpu"), "");
  EXPECT_EQ(PackedCachePath("auto", "models/m.gguf", "cpu"), "models/m.gguf.nibble-cpu.packed");
  EXPECT_EQ(PackedCachePath("/no/such/x.packed", "models/m.gguf", "cpu"), "/no/such/x.packed");
  const std::string folder = ::testing::TempDir();
  EXPECT_EQ(PackedCachePath(folder, "models/m.gguf", "cpu"),
            std::filesystem::path(folder) / "m.gguf.nibble-cpu.packed");
}

TEST(LoadLocalModelTest, WithoutAFileItSaysHowToGetOne) {
  const ModelFlags none;
  const absl::StatusOr<LocalModel> model = LoadLocalModel(none, {});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(model.status().message().find("make model"), absl::string_view::npos);
}

class RealModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("NIBBLE_MODEL");
    if (path == nullptr) GTEST_SKIP() << "NIBBLE_MODEL names no model file: run `make model`";
    flags_.model = path;
    flags_.cpu.num_threads = 1;
    flags_.kv_cache_mib = 8;  // less than one context of the model
    flags_.runner.max_sequences = 1;
  }
  ModelFlags flags_;
};

TEST_F(RealModelTest, LoadsEveryPartAndTellsHowItGoes) {
  std::map<std::string, int> phases;
  int64_t last_done = 0, last_total = -1;
  std::string note;
  LoadEvents events;
  events.phase = [&](absl::string_view phase, Duration) { ++phases[std::string(phase)]; };
  events.progress = [&](int64_t done, int64_t total) {
    EXPECT_GE(done, last_done);
    last_done = done;
    last_total = total;
  };
  events.note = [&note](const std::string& text) { note = text; };
  const absl::StatusOr<LocalModel> model = LoadLocalModel(flags_, events);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(phases, (std::map<std::string, int>{{"open", 1}, {"tokenizer", 1}, {"weights", 1}}));
  EXPECT_EQ(last_done, last_total);
  EXPECT_NE(note.find("--kv-cache-mib"), std::string::npos) << note;
  EXPECT_LT(model->runner->limits().max_context, model->config.context_length);
  EXPECT_EQ(model->tokenizer->vocab_size(), model->config.vocab_size);
}

TEST_F(RealModelTest, ThePackedCacheIsWrittenOnceThenMappedAndNeverInTheWay) {
  const std::string folder = ::testing::TempDir() + "/packed_cache_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  flags_.packed_cache = folder;
  std::vector<bool> from_cache;
  std::vector<std::string> notes;
  LoadEvents events;
  events.weights = [&](const MatrixReport& report) { from_cache.push_back(report.from_cache); };
  events.note = [&](const std::string& note) { notes.push_back(note); };
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(LoadLocalModel(flags_, events).ok());
  EXPECT_EQ(from_cache, (std::vector<bool>{false, true}));
  flags_.packed_cache = "/no/such/folder/x.packed";
  ASSERT_TRUE(LoadLocalModel(flags_, events).ok());
  EXPECT_NE(notes.back().find("packed weights were not kept: "), std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST_F(RealModelTest, AContextTheCacheCannotHoldIsRefusedWhenItWasAskedFor) {
  flags_.runner.max_context = 4096;
  EXPECT_EQ(LoadLocalModel(flags_, {}).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace nibble
