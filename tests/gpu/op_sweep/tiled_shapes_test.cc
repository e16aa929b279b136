// The sweep of the tiled linear's shapes on the emulator, with its small matrices: every format in
// every shape once a size, with the bytes and products that a count by hand gives.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <tuple>

#include "kernels/cuda/tiled_layout.h"
#include "tests/gpu/op_sweep/sweep.h"

namespace nibble::sweep {
namespace {

TEST(TiledShapes, TimesEveryFormatInEveryShape) {
  Options options{.small = true, .seconds_each = 1e-5, .repetitions = 1};
  std::set<std::tuple<std::string, std::string, int32_t>> seen;
  const auto make = [] { return CreateCudaBackend({}); };
  const absl::Status status = SweepTiledShapes(make, options, [&](const Figure& figure) {
    EXPECT_EQ(figure.op, "tiled_linear");
    EXPECT_TRUE(seen.insert({figure.variant, figure.shape, figure.rows}).second)
        << JsonLine(figure);
    EXPECT_GT(figure.microseconds, 0);
    EXPECT_EQ(figure.flops, int64_t{2} * figure.rows * (256 + 128) * 128);
    if (figure.variant != "int4-g128, warps") return;
    // Three tiles with a scale of 16 bits a row, x and y of 16 bits.
    EXPECT_EQ(figure.bytes, 3 * (8192 + 256) + figure.rows * (128 + 256 + 128) * 2);
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(seen.size(), 3u * 3 * 6 - 8);  // formats, ways, rows; by warps alone 1, of fp8 16
}

}  // namespace
}  // namespace nibble::sweep
