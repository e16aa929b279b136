#include "cli/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

BenchResult Row(const std::string& test, int32_t batch, std::vector<double> rates) {
  BenchResult row;
  row.test = test;
  row.prompt_tokens = 512;
  row.generate_tokens = test == "decode" ? 128 : 0;
  row.context = test == "decode" ? 512 : 0;
  row.batch = batch;
  row.tokens_per_second = std::move(rates);
  row.threads = 2;
  row.kv_cache_type = "f16";
  return row;
}

Json Report(const std::vector<BenchResult>& rows, const std::string& cpu = "x") {
  return BenchJson({{"cpu", cpu}, {"isa", "avx2"}, {"threads", 2}},
                   {{"file", "m.gguf"}, {"weights_bytes", 7}}, rows);
}

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream(path) << text;
  return path;
}

TEST(BenchJsonTest, HasTheShapeOfTheContract) {
  BenchResult decode = Row("decode", 8, {30, 10, 20, 40});
  decode.roofline = Roofline{.bytes_per_token = 2.5,
                             .macs_per_token = 3,
                             .gb_per_s = 4,
                             .gmac_per_s = 5,
                             .bandwidth_share = 0.5,
                             .peak_share = 0.25};
  const Json json = Report({decode, Row("prefill", 1, {1})});
  EXPECT_EQ(json["machine"]["cpu"], "x");
  EXPECT_EQ(json["model"]["file"], "m.gguf");
  const Json& result = json["results"][0];
  EXPECT_EQ(result["test"], "decode");
  EXPECT_EQ(result["prompt_tokens"], 512);
  EXPECT_EQ(result["generate_tokens"], 128);
  EXPECT_EQ(result["context"], 512);
  EXPECT_EQ(result["batch"], 8);
  EXPECT_EQ(result["threads"], 2);
  EXPECT_EQ(result["kv_cache_type"], "f16");
  EXPECT_EQ(result["tokens_per_second"]["median"], 25);
  EXPECT_EQ(result["tokens_per_second"]["min"], 10);
  EXPECT_EQ(result["tokens_per_second"]["max"], 40);
  EXPECT_EQ(result["roofline"]["bytes"], 2560) << "of 8 x 128 tokens";
  EXPECT_EQ(result["roofline"]["macs"], 3072);
  EXPECT_EQ(result["roofline"]["bandwidth_share"], 0.5);
  EXPECT_FALSE(json["results"][1].contains("roofline"));
}

TEST(BenchMachineJsonTest, LimitsAreThereWhereTheyWereMeasured) {
  DeviceInfo device;
  device.isa = "avx2";
  device.why = "because";
  device.num_threads = 2;
  EXPECT_FALSE(BenchMachineJson(device, {}).contains("bandwidth_gb_per_s"));
  MachinePeaks one, two;
  one.num_threads = 1;
  one.bandwidth_bytes_per_s = 20e9;
  one.int8_macs_per_s = 30e9;
  two.num_threads = 2;
  const Json json = BenchMachineJson(device, {one, two});
  EXPECT_EQ(json["why"], "because");
  EXPECT_EQ(json["bandwidth_gb_per_s"], 20);
  EXPECT_EQ(json["peak_gmac_per_s"], 30);
  EXPECT_EQ(json["peaks"].size(), 2u);
  EXPECT_EQ(json["peaks"][1]["threads"], 2);
}

TEST(PrintBenchTableTest, RooflineColumnsOnlyWhereMeasured) {
  DeviceInfo device;
  device.isa = "avx2";
  BenchResult row = Row("decode", 8, {25});
  std::ostringstream plain, full;
  PrintBenchTable(BenchMachineJson(device, {}), {row}, plain);
  EXPECT_THAT(plain.str(), ::testing::Not(HasSubstr("GB/s")));
  EXPECT_THAT(plain.str(), HasSubstr("25.0"));
  row.roofline = Roofline{.gb_per_s = 4.5, .gmac_per_s = 5, .bandwidth_share = 0.75};
  PrintBenchTable(BenchMachineJson(device, {MachinePeaks()}), {row}, full);
  EXPECT_THAT(full.str(), HasSubstr("75%"));
  EXPECT_THAT(full.str(), HasSubstr("4.50"));
}

TEST(CompareBenchTest, RatiosAreOfTheSameRows) {
  const Json now = Report({Row("decode", 1, {30, 33, 27}), Row("decode", 8, {100})});
  const Json then = Report({Row("decode", 32, {7}), Row("decode", 1, {20, 18, 25})});
  const Json compared = CompareBench(now, then);
  ASSERT_EQ(compared["rows"].size(), 1u);
  EXPECT_EQ(compared["rows"][0]["batch"], 1);
  EXPECT_DOUBLE_EQ(compared["rows"][0]["ratio"], 1.5);
  EXPECT_DOUBLE_EQ(compared["rows"][0]["ratio_min"], 27.0 / 25);
  EXPECT_DOUBLE_EQ(compared["rows"][0]["ratio_max"], 33.0 / 18);
  ASSERT_EQ(compared["only_now"].size(), 1u);
  EXPECT_EQ(compared["only_now"][0]["batch"], 8);
  ASSERT_EQ(compared["only_then"].size(), 1u);
  EXPECT_EQ(compared["only_then"][0]["batch"], 32);
  EXPECT_TRUE(compared["warnings"].empty());
}

TEST(CompareBenchTest, EveryPartOfTheKeyTellsRowsApart) {
  const auto differs = [](void (*change)(BenchResult&)) {
    BenchResult other = Row("decode", 1, {1});
    change(other);
    return CompareBench(Report({Row("decode", 1, {1})}), Report({other}))["rows"].empty();
  };
  EXPECT_FALSE(differs([](BenchResult&) {}));
  EXPECT_FALSE(differs([](BenchResult& row) { row.generate_tokens = 64; }));
  EXPECT_TRUE(differs([](BenchResult& row) { row.test = "prefill"; }));
  EXPECT_TRUE(differs([](BenchResult& row) { row.batch = 2; }));
  EXPECT_TRUE(differs([](BenchResult& row) { row.prompt_tokens = 1; }));
  EXPECT_TRUE(differs([](BenchResult& row) { row.context = 1; }));
  EXPECT_TRUE(differs([](BenchResult& row) { row.threads = 1; }));
  EXPECT_TRUE(differs([](BenchResult& row) { row.kv_cache_type = "int8"; }));
}

TEST(CompareBenchTest, AnotherMachineOrModelIsAWarning) {
  const Json now = Report({Row("decode", 1, {1})});
  Json then = Report({Row("decode", 1, {1})}, "y");
  then["model"]["weights_bytes"] = 8;
  const Json compared = CompareBench(now, then);
  ASSERT_EQ(compared["warnings"].size(), 2u);
  EXPECT_THAT(compared["warnings"][0].get<std::string>(), HasSubstr("machine.cpu"));
  EXPECT_THAT(compared["warnings"][1].get<std::string>(), HasSubstr("weights_bytes"));
}

// Runs from before the model, the threads and the type of cache were told.
TEST(CompareBenchTest, OldFilesAreReadAsWhatTheyWere) {
  Json then = Report({Row("decode", 1, {1})});
  then.erase("model");
  then["results"][0].erase("threads");
  then["results"][0].erase("kv_cache_type");
  const std::string path = WriteFile("old_bench.json", then.dump());
  const auto read = ReadBenchJson(path);
  ASSERT_TRUE(read.ok()) << read.status();
  const Json compared = CompareBench(Report({Row("decode", 1, {2})}), *read);
  ASSERT_EQ(compared["rows"].size(), 1u);
  EXPECT_THAT(compared["warnings"][0].get<std::string>(), HasSubstr("not told"));
}

TEST(ReadBenchJsonTest, WhatIsNotABenchmarkIsRefusedByName) {
  EXPECT_EQ(ReadBenchJson("no/such.json").status().code(), absl::StatusCode::kNotFound);
  const Json good = Report({Row("decode", 1, {1})});
  const auto error_of = [&](void (*change)(Json&)) {
    Json bad = good;
    change(bad);
    return std::string(ReadBenchJson(WriteFile("bad_bench.json", bad.dump())).status().message());
  };
  EXPECT_THAT(error_of([](Json& json) { json = Json::array(); }), HasSubstr("machine"));
  EXPECT_THAT(error_of([](Json& json) { json["results"] = 3; }), HasSubstr("results"));
  EXPECT_THAT(error_of([](Json& json) { json["model"] = 3; }), HasSubstr("needed"));
  EXPECT_THAT(error_of([](Json& json) { json["results"][0] = 3; }), HasSubstr("results[0].test"));
  EXPECT_THAT(error_of([](Json& json) { json["results"][0]["batch"] = "1"; }),
              HasSubstr("results[0].batch"));
  EXPECT_THAT(error_of([](Json& json) { json["results"][0]["tokens_per_second"]["min"] = 0; }),
              HasSubstr("results[0].tokens_per_second"));
  EXPECT_EQ(ReadBenchJson(WriteFile("cut.json", "{\"machine\":")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PrintComparisonTest, SaysWhatHasNoPartnerAndWhatShowsNothing) {
  const Json now = Report({Row("decode", 1, {9, 11}), Row("prefill", 1, {1})});
  const Json then = Report({Row("decode", 1, {10}), Row("decode", 2, {1})}, "y");
  std::ostringstream out;
  PrintComparison(CompareBench(now, then), "then.json", out);
  EXPECT_THAT(out.str(), HasSubstr("then.json"));
  EXPECT_THAT(out.str(), HasSubstr("warning: machine.cpu"));
  EXPECT_THAT(out.str(), HasSubstr("0.900 to 1.100, no difference shown"));
  EXPECT_THAT(out.str(), HasSubstr("no partner: only now"));
  EXPECT_THAT(out.str(), HasSubstr("no partner: only then"));
}

}  // namespace
}  // namespace nibble
