#include "cli/eval_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>

#include "engine/quantize/gguf_quantizer.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

std::string WriteFile(const std::string& name, const testing::GgufWriter& writer) {
  const std::string path = ::testing::TempDir() + "eval_record_" + name;
  const std::vector<uint8_t> bytes = writer.Build();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  return path;
}

TEST(CheckRecordableTest, OnlyAFileMadeOfThatBaseIsRecordedIn) {
  const std::string base = WriteFile("base.gguf", testing::TinyModel({}));
  testing::GgufWriter writer = testing::TinyModel({});
  writer.String("nibble.quantize.source_sha256", FileSha256(base).value());
  const std::string made = WriteFile("made.gguf", writer);
  EXPECT_EQ(CheckRecordable(made, base), absl::OkStatus());
  const auto refusal = [](const std::string& model, const std::string& of) {
    const absl::Status status = CheckRecordable(model, of);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr("--record: "));
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(base, base), HasSubstr("does not name the model it was quantized from"));
  EXPECT_THAT(refusal(made, made), HasSubstr("was made from a model of SHA-256"));
  EXPECT_THAT(refusal("random:smollm2-135m:int8", base), HasSubstr("is no file"));
  EXPECT_FALSE(CheckRecordable(::testing::TempDir(), base).ok()) << "a folder without a model";
  EXPECT_FALSE(CheckRecordable(made, ::testing::TempDir()).ok());
  EXPECT_EQ(CheckRecordable("no/such.gguf", base).code(), absl::StatusCode::kNotFound);
  std::remove(base.c_str());
  std::remove(made.c_str());
}

TEST(MakeRecordTest, KeepsTheFiguresAndSaysHowTheyCame) {
  DivergenceResult result;
  result.kl = {0.25, 0.0625};
  result.kl_p99 = {1, 0.5};
  result.agreement = {0.75, 0.03125};
  result.base_nll.mean = 2;
  result.candidate_nll.mean = 2.5;
  result.tokens = 510;
  result.windows = 2;
  WindowOptions windows;
  windows.skip = 257;
  windows.bos_id = 1;
  const DivergenceSide base = {"", "f16.gguf", "avx2", "f32", DType::kF16};
  const DivergenceSide candidate = {"", "q4.gguf", "avx2", "int8", DType::kI8};
  const EvaluationRecord record = MakeRecord(result, windows, base, candidate, "abc");
  EXPECT_EQ(record.kl, 0.25);
  EXPECT_EQ(record.kl_standard_error, 0.0625);
  EXPECT_EQ(record.kl_p99, 1);
  EXPECT_EQ(record.top1_agreement, 0.75);
  EXPECT_NEAR(record.perplexity, std::exp(2.5), 1e-12);
  EXPECT_NEAR(record.perplexity_source, std::exp(2), 1e-12);
  EXPECT_EQ(record.tokens, 510);
  // FIPS 180-2's example.
  EXPECT_EQ(record.text_sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(record.protocol,
            "windows of 512 with BOS, positions 257..511 of 2 windows; source with f32 activations "
            "and f16 cache, this with int8 activations and int8 cache");
}

}  // namespace
}  // namespace nibble
