// The sweep on the CPU backend, with its small shapes: every op and variant is there once a size,
// with the bytes and products that a count by hand gives, and times that are times. No speed is
// tested.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tests/gpu/op_sweep/sweep.h"

namespace nibble::sweep {
namespace {

using testing::HasSubstr;

Options Small() {
  Options options;
  options.small = true;
  options.seconds_each = 1e-5;
  options.repetitions = 2;
  return options;
}

absl::StatusOr<std::unique_ptr<Backend>> OneThread() {
  CpuOptions options;
  options.num_threads = 1;
  options.isa = CpuIsa::kScalar;
  return CreateCpuBackend(options);
}

using Sweep = absl::Status (*)(const MakeBackend&, const Options&, Report);

std::vector<Figure> FiguresOf(Sweep sweep) {
  std::vector<Figure> figures;
  const absl::Status status =
      sweep(OneThread, Small(), [&](const Figure& figure) { figures.push_back(figure); });
  EXPECT_TRUE(status.ok()) << status;
  for (const Figure& figure : figures) {
    EXPECT_GT(figure.fastest_microseconds, 0) << JsonLine(figure);
    EXPECT_GE(figure.microseconds, figure.fastest_microseconds);
    EXPECT_GT(figure.bytes, 0);
  }
  return figures;
}

const Figure& Find(const std::vector<Figure>& figures, const std::string& op,
                   const std::string& variant, int32_t rows) {
  for (const Figure& figure : figures) {
    if (figure.op == op && figure.variant == variant && figure.rows == rows) return figure;
  }
  ADD_FAILURE() << "no " << op << " " << variant << " of " << rows << " rows";
  static const Figure none;
  return none;
}

TEST(OpSweep, TimesEveryFormatOfWeightOnceASize) {
  const std::vector<Figure> figures = FiguresOf(SweepLinear);
  std::set<std::tuple<std::string, std::string, int32_t>> seen;
  for (const Figure& figure : figures) {
    EXPECT_TRUE(seen.insert({figure.variant, figure.shape, figure.rows}).second)
        << JsonLine(figure);
  }
  EXPECT_EQ(seen.size(), 5u * 2);  // formats x row counts
  const Figure& three = Find(figures, "linear", "int4-g128", 3);
  EXPECT_EQ(three.flops, 2 * 3 * 256 * 128);
  const Figure& one = Find(figures, "linear", "int4-g128", 1);
  EXPECT_EQ(three.bytes - one.bytes, 2 * (256 + 128) * 4);  // two rows of x and y, f32 on the CPU
  EXPECT_LT(one.bytes, Find(figures, "linear", "bf16", 1).bytes / 2);
}

TEST(OpSweep, CountsWhatAttentionCannotDoWithout) {
  const std::vector<Figure> figures = FiguresOf(SweepAttention);
  EXPECT_EQ(figures.size(), 3u * 2);
  const Figure& decode = Find(figures, "decode_attention", "f16", 2);
  EXPECT_EQ(decode.context, 40);
  EXPECT_EQ(decode.flops, int64_t{4} * 2 * 40 * 32 * 128);
  EXPECT_EQ(decode.bytes, int64_t{2} * 2 * 40 * 8 * 128 * 2 + 2 * 2 * 32 * 128 * 4);
  // Codes and a scale.
  EXPECT_EQ(Find(figures, "decode_attention", "int8", 2).bytes,
            int64_t{2} * 2 * 40 * 8 * (128 + 4) + 2 * 2 * 32 * 128 * 4);
  // Causal: half of the square and half of the diagonal.
  EXPECT_EQ(Find(figures, "prefill_attention", "f16", 40).flops,
            int64_t{4} * (40 * 41 / 2) * 32 * 128);
}

TEST(OpSweep, TimesTheOpsOfRowsAndEveryKindOfDraw) {
  const std::vector<Figure> figures = FiguresOf(SweepRowOps);
  EXPECT_EQ(Find(figures, "copy", "rows", 16).bytes, 2 * 16 * 64 * 4);
  EXPECT_EQ(Find(figures, "rms_norm", "in L2", 2).bytes, 2 * 2 * 64 * 4 + 64 * 4);
  for (const char* draw : {"greedy", "temperature", "top_k, top_p"}) {
    EXPECT_EQ(Find(figures, "sample", draw, 2).bytes, 2 * 1000 * 4);
  }
}

TEST(OpSweep, EndsAtTheFirstErrorAndKeepsWhatWasReported) {
  int made = 0, reported = 0;
  const MakeBackend twice = [&made]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    if (++made > 2) return absl::InternalError("the device is gone");
    return OneThread();
  };
  const absl::Status status = SweepRowOps(twice, Small(), [&](const Figure&) { ++reported; });
  EXPECT_THAT(std::string(status.message()), HasSubstr("gone"));
  EXPECT_EQ(reported, 2);
}

TEST(OpSweep, ALineIsJson) {
  Figure figure{
      .op = "linear", .variant = "int8", .shape = "o", .rows = 8, .bytes = 1 << 24, .flops = 5};
  figure.microseconds = 12.34567;
  EXPECT_EQ(
      JsonLine(figure),
      R"({"op":"linear","variant":"int8","shape":"o","rows":8,"context":0,"bytes":16777216,"flops":5,)"
      R"("microseconds":12.346,"fastest_microseconds":0.000})");
}

}  // namespace
}  // namespace nibble::sweep
