#include "emulator/warp_group.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "emulator/gpu.h"
#include "kernels/half.h"

namespace nibble::emulator {
namespace {

constexpr int kWarpsOfAGroup = 4, kColumns = 16;

// The fields of a shared memory descriptor ("Matrix Descriptor Format").
struct Descriptor {
  uint32_t address, eight_rows, base_offset, swizzle;
};
Descriptor FieldsOf(uint64_t bits) {
  return {static_cast<uint32_t>(bits & 0x3FFF) << 4,
          static_cast<uint32_t>(bits >> 32 & 0x3FFF) << 4, static_cast<uint32_t>(bits >> 49 & 7),
          static_cast<uint32_t>(bits >> 62)};
}

// Eight values of a row of b: "K-major, 128-byte swizzle", whose pattern goes by the bits of the
// address.
const uint8_t* ChunkAt(const SharedMemory& shared, const Descriptor& b, int row, int chunk) {
  const uint32_t plain = b.address + static_cast<uint32_t>(row / 8) * b.eight_rows +
                         static_cast<uint32_t>(row % 8 * 128 + chunk * 16);
  return shared.FromAddress(plain ^ (plain >> 7 & 7) << 4);
}

}  // namespace

void WarpGroups::StartBlock(int num_warps) {
  warps_.assign(num_warps, {});
  for (Warp& warp : warps_) warp.groups.resize(1);
  asked_.assign((num_warps + kWarpsOfAGroup - 1) / kWarpsOfAGroup, {});
}

void WarpGroups::Multiply(int warp, void* const* arguments) {
  const auto& first = *static_cast<const GroupProductArgument*>(arguments[0]);
  Warp& mine = warps_[warp];
  if (warps_.size() % kWarpsOfAGroup != 0) block_.Fail("warps of no whole group", &first.where);
  if (!mine.ordered) block_.Fail("a product of registers that are not ordered", &first.where);
  const Descriptor b = FieldsOf(first.b);
  if (b.swizzle != 1 || b.base_offset != 0 || b.address % 1024 / 128 != 0)
    block_.Fail("a descriptor of no swizzled rows", &first.where);
  const Asked asked = {first.b, first.tiles, first.add, first.f16};
  std::vector<Asked>& of_group = asked_[warp / kWarpsOfAGroup];
  if (mine.count == of_group.size()) of_group.push_back(asked);
  if (!(of_group[mine.count++] == asked))
    block_.Fail("warps of a group ask for unlike products", &first.where);

  Product product = {.d = first.d,
                     .b = first.b,
                     .tiles = first.tiles,
                     .add = first.add,
                     .f16 = first.f16,
                     .where = first.where};
  const bool is_new = !mine.accumulators.contains(first.d);
  Accumulators& accumulators = mine.accumulators[first.d];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& x = *static_cast<const GroupProductArgument*>(arguments[lane]);
    if (x.b != first.b) block_.Fail("lanes of a warp ask for unlike products", &first.where);
    std::copy_n(x.a, 4, product.a[lane]);
    if (!is_new) continue;
    accumulators.d[lane] = x.d;
    accumulators.values[lane].assign(x.d, x.d + 4 * x.tiles);
    std::fill_n(x.d, 4 * x.tiles, std::numeric_limits<float>::quiet_NaN());
  }
  mine.groups.back().push_back(product);
}

void WarpGroups::Commit(int warp) {
  warps_[warp].groups.emplace_back();
  warps_[warp].ordered = false;  // other instructions follow
}

void WarpGroups::Wait(int warp, int pending) {
  Warp& mine = warps_[warp];
  while (static_cast<int>(mine.groups.size()) - 1 > pending) {
    for (const Product& product : mine.groups.front()) Do(warp, product);
    mine.groups.erase(mine.groups.begin());
  }
  std::erase_if(mine.accumulators, [&](const auto& entry) {
    for (const auto& group : mine.groups) {
      for (const Product& product : group) {
        if (product.d == entry.first) return false;
      }
    }
    for (int lane = 0; lane < 32; ++lane)
      std::ranges::copy(entry.second.values[lane], entry.second.d[lane]);
    return true;
  });
}

void WarpGroups::Do(int warp, const Product& product) {
  block_.counts().mmas += static_cast<uint64_t>(product.tiles);
  const auto to_float = [&](uint32_t half) {
    const auto bits = static_cast<uint16_t>(half);
    return product.f16 ? F16ToF32(bits) : Bf16ToF32(bits);
  };
  const Descriptor descriptor = FieldsOf(product.b);
  std::vector<float> b;  // [8 tiles, kColumns]
  for (int row = 0; row < product.tiles * 8; ++row) {
    for (int chunk = 0; chunk < 2; ++chunk) {
      const uint8_t* from = ChunkAt(block_.shared(), descriptor, row, chunk);
      const std::string wrong = block_.shared().AccessForProduct(from, 16, warp * 32);
      if (!wrong.empty()) block_.Fail("product: " + wrong, &product.where);
      uint16_t halves[8];
      std::memcpy(halves, from, sizeof halves);
      for (const uint16_t half : halves) b.push_back(to_float(half));
    }
  }
  Accumulators& d = warps_[warp].accumulators.at(product.d);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4 * product.tiles; ++i) {
      // d[tile][0 .. 3] of lane: rows lane / 4 and + 8 of a, columns 2 (lane % 4) and + 1 of a
      // tile.
      const int a_row = lane / 4 + i % 4 / 2 * 8, b_row = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float sum = product.add ? d.values[lane][i] : 0;
      for (int k = 0; k < kColumns; ++k) {
        const uint32_t pair = product.a[a_row % 8 * 4 + k % 8 / 2][k / 8 * 2 + a_row / 8];
        sum += to_float(k % 2 == 0 ? pair : pair >> 16) * b[b_row * kColumns + k];
      }
      d.values[lane][i] = sum;
    }
  }
}

std::string WarpGroups::Open(int warp) const {
  const Warp& mine = warps_[warp];
  if (mine.groups.size() == 1 && mine.groups.back().empty()) return "";
  return "exits with products that it never waited for";
}

std::string WarpGroups::Unlike() const {
  for (size_t warp = 0; warp < warps_.size(); ++warp) {
    if (warps_[warp].count != asked_[warp / kWarpsOfAGroup].size())
      return "warp " + std::to_string(warp) + " left out products of its group";
  }
  return "";
}

}  // namespace nibble::emulator
