// RopeStoreKv: the rotation in both layouts, and what reaches the cache (seen through attention in
// attention_test).
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/cpu/op_fixture.h"

namespace nibble {
namespace {

class RopeTest : public testing::TestWithParam<CpuIsa> {};
INSTANTIATE_TEST_SUITE_P(Isa, RopeTest, testing::ValuesIn(AvailableIsas()), NameOfIsa);

struct RopeCase {
  int32_t num_heads, num_kv_heads, head_dim, rotary_dim, rows;
};

std::vector<float> Table(int32_t positions, int32_t rotary_dim) {
  std::vector<float> table;
  for (int32_t p = 0; p < positions; ++p) {
    for (int32_t i = 0; i < rotary_dim / 2; ++i) {
      const double angle = p * std::pow(100.0, -2.0 * i / rotary_dim);
      table.push_back(static_cast<float>(std::cos(angle)));
      table.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

void Rotate(Backend& backend, const RopeCase& c, RopeLayout layout, std::vector<float>& table,
            std::vector<float>& qkv, const std::vector<int32_t>& positions) {
  const int32_t block_size = 8;
  const int32_t num_blocks = (c.rows + block_size - 1) / block_size;
  DeviceBuffer k =
      backend.Allocate(num_blocks * block_size * c.num_kv_heads * c.head_dim * 2, "k").value();
  DeviceBuffer v = backend.Allocate(k.size_bytes(), "v").value();
  std::vector<int32_t> slots;
  for (int32_t r = 0; r < c.rows; ++r) slots.push_back(r);
  RopeStoreKvParams params;
  params.qkv = RowsOf(qkv, c.rows, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim);
  params.num_heads = c.num_heads;
  params.rotary_dim = c.rotary_dim;
  params.layout = layout;
  params.cos_sin = table.data();
  params.positions = positions.data();
  params.slots = slots.data();
  params.cache = {k.data(),   v.data(),       DType::kF16, num_blocks,
                  block_size, c.num_kv_heads, c.head_dim};
  backend.RopeStoreKv(params);
}

TEST_P(RopeTest, RotatesPairsOfBothLayoutsAndNothingElse) {
  std::mt19937 random(1);
  for (const RopeCase& c :
       {RopeCase{9, 3, 64, 64, 5}, {2, 1, 128, 64, 3}, {1, 1, 20, 12, 9}, {2, 2, 80, 80, 2}}) {
    for (RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
      auto backend = MakeBackend(GetParam(), 2);
      const int32_t cols = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim;
      const std::vector<float> before = RandomFloats(random, size_t(c.rows) * cols);
      std::vector<float> after = before, table = Table(100, c.rotary_dim);
      std::vector<int32_t> positions;
      for (int32_t r = 0; r < c.rows; ++r) positions.push_back((r * 37) % 100);
      Rotate(*backend, c, layout, table, after, positions);

      std::vector<double> expected(before.begin(), before.end());
      const int32_t half = c.rotary_dim / 2;
      for (int32_t r = 0; r < c.rows; ++r) {
        for (int32_t h = 0; h < c.num_heads + c.num_kv_heads; ++h) {
          double* head = &expected[size_t(r) * cols + h * c.head_dim];
          for (int32_t i = 0; i < half; ++i) {
            const bool interleaved = layout == RopeLayout::kInterleaved;
            double& a = head[interleaved ? 2 * i : i];
            double& b = head[interleaved ? 2 * i + 1 : i + half];
            const double cos = table[positions[r] * c.rotary_dim + 2 * i];
            const double sin = table[positions[r] * c.rotary_dim + 2 * i + 1];
            std::tie(a, b) = std::pair{a * cos - b * sin, b * cos + a * sin};
          }
        }
      }
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(after[i], expected[i], 1e-6) << "head_dim " << c.head_dim << " element " << i;
      }
    }
  }
}

TEST_P(RopeTest, ARowIsTheSameBitsAloneAndAmongMany) {
  const RopeCase many = {4, 2, 64, 64, 700}, one = {4, 2, 64, 64, 1};
  std::mt19937 random(2);
  auto backend = MakeBackend(GetParam(), 3);
  const int32_t cols = 8 * 64;
  const std::vector<float> before = RandomFloats(random, size_t(many.rows) * cols);
  std::vector<float> all = before, table = Table(700, 64);
  std::vector<int32_t> positions;
  for (int32_t r = 0; r < many.rows; ++r) positions.push_back(r);
  Rotate(*backend, many, RopeLayout::kHalf, table, all, positions);
  for (int32_t r : {0, 1, 350, 699}) {
    std::vector<float> alone(before.begin() + r * cols, before.begin() + (r + 1) * cols);
    Rotate(*backend, one, RopeLayout::kHalf, table, alone, {r});
    ASSERT_EQ(alone, std::vector<float>(all.begin() + r * cols, all.begin() + (r + 1) * cols));
  }
}

}  // namespace
}  // namespace nibble
