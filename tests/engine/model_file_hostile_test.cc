// Mutants of a small model: every byte of its header flipped, cut at many places, and random bytes
// changed. Whatever is read from them, nothing crashes, every error is typed and names the file,
// and no allocation is larger than the file justifies. Also run under AddressSanitizer and
// UndefinedBehaviorSanitizer.
#include <atomic>
#include <cstdlib>
#include <new>
#include <random>

#include "engine/gguf_model.h"
#include "engine/model_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace {
std::atomic<size_t> largest_allocation{0};

void* CountedAllocate(size_t bytes) {
  size_t seen = largest_allocation.load(std::memory_order_relaxed);
  while (bytes > seen && !largest_allocation.compare_exchange_weak(seen, bytes)) {
  }
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) std::abort();
  return memory;
}
}  // namespace

// The whole program's, so that no allocation goes unseen.
void* operator new(size_t bytes) { return CountedAllocate(bytes); }
void* operator new[](size_t bytes) { return CountedAllocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace nibble {
namespace {

using ::testing::StartsWith;

constexpr char kName[] = "mutant.gguf";

// One layer and a vocabulary of a few tokens, so that the header is small enough to flip all of it.
std::vector<uint8_t> SmallModel() {
  testing::TinyModelOptions options;
  options.layers = 1;
  options.hidden = 32;
  options.ffn = 32;
  options.heads = 2;
  options.kv_heads = 1;
  testing::GgufWriter writer = testing::TinyModel(options);
  writer.U32("llama.vocab_size", 8);
  testing::GgufWriter::Tensor* embedding = writer.FindTensor("token_embd.weight");
  embedding->dims[1] = 8;
  embedding->data.resize(8 * 34);
  writer.Strings("tokenizer.ggml.tokens", {"a", "b", "ab", "c", "<s>", "</s>", "<unk>", "d"});
  writer.Ints("tokenizer.ggml.token_type", {1, 1, 1, 1, 3, 3, 2, 6});
  writer.Strings("tokenizer.ggml.merges", {"a b"});
  writer.U32("tokenizer.ggml.bos_token_id", 4);
  writer.U32("tokenizer.ggml.eos_token_id", 5);
  writer.U32("tokenizer.ggml.unknown_token_id", 6);
  return writer.Build();
}

size_t HeaderBytes(const std::vector<uint8_t>& model) {
  const GgufFile file = GgufFile::Parse(model, kName).value();
  return static_cast<size_t>(file.Data(file.tensors()[0]).data() - model.data());
}

void ExpectTyped(const absl::Status& status) {
  if (status.ok()) return;
  ASSERT_THAT(std::string(status.message()), StartsWith(kName));
  switch (status.code()) {
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
      return;
    default:
      FAIL() << status;
  }
}

void LoadEverything(const GgufFile& file) {
  const std::unique_ptr<WeightSource> source = MakeGgufSource(file);
  for (const GgufTensor& tensor : file.tensors()) {
    const auto n = static_cast<int32_t>(tensor.dims[0]);
    if (tensor.dims.size() == 1) ExpectTyped(source->LoadVector(tensor.name, n).status());
    if (tensor.dims.size() == 2) {
      ExpectTyped(
          source->LoadMatrix(tensor.name, static_cast<int32_t>(tensor.dims[1]), n).status());
    }
  }
}

// Reads all there is to read. True when the file parsed.
bool Survive(const std::vector<uint8_t>& bytes) {
  const size_t allowed = bytes.size() * 16 + (64 << 10);
  largest_allocation = 0;
  const absl::StatusOr<GgufFile> file = GgufFile::Parse(bytes, kName);
  ExpectTyped(file.status());
  if (file.ok()) {
    for (const std::string& key : file->Keys()) EXPECT_FALSE(file->Describe(key).empty());
    ExpectTyped(ReadModelConfig(*file).status());
    ExpectTyped(ReadTokenizerSpec(*file).status());
    EXPECT_EQ(MakeGgufSource(*file)->Report().size(), file->tensors().size());
    LoadEverything(*file);
  }
  EXPECT_LE(largest_allocation.load(), allowed);
  return file.ok();
}

TEST(HostileModel, TheOriginalIsServable) {
  const std::vector<uint8_t> model = SmallModel();
  const GgufFile file = GgufFile::Parse(model, kName).value();
  EXPECT_TRUE(ReadModelConfig(file).ok()) << ReadModelConfig(file).status();
  EXPECT_TRUE(ReadTokenizerSpec(file).ok()) << ReadTokenizerSpec(file).status();
  EXPECT_TRUE(Survive(model));
}

TEST(HostileModel, EveryHeaderByteFlipped) {
  const std::vector<uint8_t> model = SmallModel();
  const size_t header = HeaderBytes(model);
  int mutants = 0;
  for (size_t at = 0; at < header; ++at) {
    for (const uint8_t change : {0xFF, 0x80, 0x01}) {
      std::vector<uint8_t> mutant = model;
      mutant[at] ^= change;
      SCOPED_TRACE(::testing::Message() << "byte " << at << " ^ " << int{change});
      Survive(mutant);
      ++mutants;
      if (HasFailure()) return;
    }
  }
  EXPECT_GE(mutants, 2000);
  RecordProperty("mutants", mutants);
}

TEST(HostileModel, CutAtEveryByteOfTheHeaderAndManyOfTheData) {
  const std::vector<uint8_t> model = SmallModel();
  const size_t header = HeaderBytes(model);
  for (size_t size = 0; size < model.size(); size += size < header ? 1 : 29) {
    const std::vector<uint8_t> cut(model.begin(), model.begin() + static_cast<ptrdiff_t>(size));
    SCOPED_TRACE(::testing::Message() << "cut to " << size);
    EXPECT_FALSE(Survive(cut)) << "a model without its end must not load";
    if (HasFailure()) return;
  }
}

// Lengths and counts are where readers break: write the numbers that overflow over every position.
TEST(HostileModel, NumbersThatOverflowWrittenOverEveryPosition) {
  const std::vector<uint8_t> model = SmallModel();
  const size_t header = HeaderBytes(model);
  const uint64_t kNumbers[] = {
      0, ~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 32, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFF};
  for (size_t at = 0; at + 8 <= header; at += 3) {
    for (const uint64_t number : kNumbers) {
      std::vector<uint8_t> mutant = model;
      const std::vector<uint8_t> bytes = testing::BytesOf(number);
      std::copy(bytes.begin(), bytes.end(), mutant.begin() + static_cast<ptrdiff_t>(at));
      SCOPED_TRACE(::testing::Message() << "byte " << at << " = " << number);
      Survive(mutant);
      if (HasFailure()) return;
    }
  }
}

TEST(HostileModel, RandomBytesChanged) {
  const std::vector<uint8_t> model = SmallModel();
  constexpr uint32_t kSeed = 20240607;
  std::mt19937 random(kSeed);
  for (int i = 0; i < 2000; ++i) {
    std::vector<uint8_t> mutant = model;
    const uint32_t changes = 1 + random() % 8;
    for (uint32_t c = 0; c < changes; ++c)
      mutant[random() % mutant.size()] = static_cast<uint8_t>(random());
    SCOPED_TRACE(::testing::Message() << "seed " << kSeed << " round " << i);
    Survive(mutant);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace nibble
