#include "cli/eval_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "cli/peak_memory.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int code;
  std::string out, err;
};

Outcome RunWith(const TableFlags& flags) {
  std::istringstream in;
  std::ostringstream out, err;
  const int code = RunTable(flags, Io{in, out, err});
  return {code, out.str(), err.str()};
}

std::vector<TableRow> Rows() {
  TableRow base, row;
  base.method = "as it is";
  base.bits = 16;
  base.bytes = 4 << 20;
  base.result.candidate_nll.mean = base.result.base_nll.mean = 2;
  base.decode_rate = 99.6;
  row.method = "rtn-int4-full-g128";
  row.bits = 4.125;
  row.bytes = 1 << 20;
  row.result.kl = {0.25, 0.0625};
  row.result.base_nll.mean = 2;
  row.result.candidate_nll.mean = 2 + std::log1p(0.05);
  row.result.agreement.mean = 0.75;
  row.result.tokens = 510;
  row.result.windows = 2;
  row.quantize_seconds = 1.25;
  return {base, row};
}

TEST(TableMarkdownTest, IsATableOfMarkdown) {
  const std::string text = TableMarkdown(Rows(), {});
  EXPECT_THAT(text, HasSubstr("510 tokens: positions 1..511 of 2 windows\n"));
  EXPECT_THAT(text, HasSubstr("| as it is | 16.000 | 4.0 | 7.3891 | +0.00 | 0.00000 ± 0.00000 |"));
  EXPECT_THAT(text, HasSubstr("| rtn-int4-full-g128 | 4.125 | 1.0 | 7.7585 | +5.00 | "
                              "0.25000 ± 0.06250 | 75.00 | - | 1.2 | - |"));
}

TEST(TableJsonTest, HasTheKeysOfTheHelp) {
  TableFlags flags;
  const nlohmann::ordered_json json = TableJson(Rows(), {}, flags);
  EXPECT_EQ(json["rows"].size(), 2u);
  EXPECT_EQ(json["rows"][1]["bits_per_weight"], 4.125);
  EXPECT_EQ(json["rows"][1]["kl"]["standard_error"], 0.0625);
  EXPECT_TRUE(json["rows"][1]["decode_tokens_per_second"].is_null());
  EXPECT_EQ(json["rows"][0]["decode_tokens_per_second"], 99.6);
  for (const auto& [key, value] : json["rows"][0].items()) {
    EXPECT_THAT(TableFooter(), HasSubstr("\"" + key + "\"")) << key;
  }
}

TEST(RunTableTest, WrongUsageIsNamedBeforeAnythingIsRead) {
  TableFlags flags;
  EXPECT_THAT(RunWith(flags).err, HasSubstr("--model"));
  flags.model.model = "m.gguf";
  EXPECT_THAT(RunWith(flags).err, HasSubstr("--text"));
  flags.text.path = "t.txt";
  EXPECT_THAT(RunWith(flags).err, HasSubstr("--calibration"));  // the default has gptq
  flags.methods = "rtn-int4-full-g128,gtpq-int4-full-g128";
  EXPECT_THAT(RunWith(flags).err, HasSubstr("gtpq-int4-full-g128"));
  flags.methods = "ggml-q9_z";
  EXPECT_THAT(RunWith(flags).err, HasSubstr("q9_z"));
  flags.methods = ",";
  EXPECT_THAT(RunWith(flags).err, HasSubstr("--methods"));
  EXPECT_EQ(RunWith(flags).code, kExitUsage);
}

TEST(RunTableTest, ErrorsNameTheFlagThatIsWrong) {
  TableFlags flags;
  flags.model.model = testing::WriteTempFile("table_flags.gguf", testing::TinyLlamaGguf(1));
  flags.text.path = testing::WriteTempFile("table_flags.txt", std::vector<uint8_t>(2000, 'a'));
  flags.methods = "rtn-int8-sym-channel";
  flags.text.window = 512;
  EXPECT_THAT(RunWith(flags).err, HasSubstr("--window: found 512, needed at most 256"));
  flags.text.window = 64;
  flags.decode_tokens = 193;
  EXPECT_THAT(RunWith(flags).err, HasSubstr("--decode-tokens: found 193, needed 0 to 192"));
  flags.decode_tokens = 0;
  flags.calibration = "/nowhere.txt";
  EXPECT_THAT(RunWith(flags).err, HasSubstr("--calibration \"/nowhere.txt\": found nothing"));
  flags.calibration = testing::WriteTempFile("table_short.txt", std::vector<uint8_t>(9, 'a'));
  EXPECT_THAT(RunWith(flags).err, HasSubstr("; take a longer text or a smaller --window"));
}

// The whole command on a random model: every kind of method gives a row, better ones smaller KL.
TEST(RunTableTest, MakesARowAMethod) {
  testing::TinyModelOptions options;
  options.matrix_type = GgmlType::kF32;
  options.embedding_type = GgmlType::kF32;
  TableFlags flags;
  flags.model.model = testing::WriteTempFile("table.gguf", testing::TinyModel(options).Build());
  std::string text;
  for (int i = 0; i < 400; ++i) text += static_cast<char>('a' + (i * i + i / 7) % 26);
  flags.text.path = testing::WriteTempFile(
      "table.txt", {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  flags.calibration = flags.text.path;
  flags.text.window = 64;
  flags.decode_tokens = 2;
  flags.methods =
      "rtn-int2-full-g64,rtn-int8-sym-channel,gptq-actorder-int4-full-g128,gptq-gidx-int4-full-g64,"
      "awq-clip-int4-asym-g128,clip-int3-full-g64,incoherent-gptq-int3-full-g64,w8a8,"
      "smoothquant-static-min-max,llm-int8,rtn-nf4-b64-dq+head,ggml-q8_0,ggml-q4_0";
  flags.output = OutputFormat::kJson;
  const Outcome outcome = RunWith(flags);
  ASSERT_EQ(outcome.code, kExitOk) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(json["rows"].size(), 14u);
  const auto kl = [&](int row) { return json["rows"][row]["kl"]["mean"].get<double>(); };
  EXPECT_EQ(kl(0), 0);
  EXPECT_GT(kl(1), 10 * kl(2));
  for (int row = 1; row < 14; ++row) {
    EXPECT_GT(kl(row), 0) << json["rows"][row];
    EXPECT_LT(json["rows"][row]["bytes"], json["rows"][0]["bytes"]);
  }
  EXPECT_TRUE(json["rows"][3]["decode_tokens_per_second"].is_number());
  EXPECT_TRUE(json["rows"][4]["decode_tokens_per_second"].is_null());  // g_idx: no kernel
  EXPECT_EQ(json["rows"][12]["method"], "ggml-q8_0");
  EXPECT_EQ(json["rows"][12]["bits_per_weight"], 8.5);
  EXPECT_EQ(json["rows"][13]["bits_per_weight"], 4.5);
  EXPECT_LT(10 * kl(12), kl(13));
  EXPECT_TRUE(json["rows"][13]["decode_tokens_per_second"].is_number());
}

TEST(PeakMemoryTest, SeesWhatWasHeldSinceTheReset) {
  if (!ResetPeakMemory()) GTEST_SKIP() << "the kernel does not let the peak be reset";
  const int64_t before = PeakMemoryBytes();
  ASSERT_GT(before, 0);
  {
    std::vector<char> held(64 << 20, 1);
  }
  EXPECT_GT(PeakMemoryBytes(), before + (32 << 20));
}

}  // namespace
}  // namespace nibble
