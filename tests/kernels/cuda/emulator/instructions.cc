#include "emulator/instructions.h"

#include <cstring>

#include "emulator/gpu.h"
#include "kernels/half.h"

namespace nibble::emulator {
namespace {

uint16_t LowHalf(uint32_t x) { return static_cast<uint16_t>(x); }
uint16_t HighHalf(uint32_t x) { return static_cast<uint16_t>(x >> 16); }

// m16n8k16: lane l has, with g = l / 4 and t = l % 4, in
//   a0 .. a3   (row g, columns 2t, 2t + 1), (g + 8, the same), (g, 2t + 8, ..), (g + 8, 2t + 8, ..)
//   of a [16, 16] b0, b1     (rows 2t, 2t + 1, column g), (2t + 8, .., g) of b [16, 8] d0 .. d3 (g,
//   2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1) of d [16, 8]
// Products are summed in f32, in ascending k. The tensor core's own order and rounding are not
// documented.
template <float (*kToFloat)(uint16_t)>
void Mma(void* const* arguments) {
  ++TheGpu().counts().mmas;
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& x = *static_cast<const MmaArgument*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      float* at = &a[g + i % 2 * 8][t + i / 2 * 8];
      at[0] = kToFloat(LowHalf(x.a[i]));
      at[1] = kToFloat(HighHalf(x.a[i]));
      d[g + i / 2 * 8][t + i % 2] = x.d[i];
    }
    for (int i = 0; i < 2; ++i) {
      b[t + i * 8][g] = kToFloat(LowHalf(x.b[i]));
      b[t + i * 8 + 1][g] = kToFloat(HighHalf(x.b[i]));
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& x = *static_cast<const MmaArgument*>(arguments[lane]);
    for (int i = 0; i < 4; ++i) x.d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

}  // namespace

void MmaF16(void* const* arguments) { Mma<F16ToF32>(arguments); }
void MmaBf16(void* const* arguments) { Mma<Bf16ToF32>(arguments); }

void LoadMatrix(void* const* arguments) {
  Block& block = TheGpu().block();
  ++block.counts().matrix_loads;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t rows[8][8];
    for (int row = 0; row < 8; ++row) {
      const int lane = matrix * 8 + row;
      const auto& x = *static_cast<const LoadMatrixArgument*>(arguments[lane]);
      const uint8_t* from = block.SharedPointer(x.row_address, 16, x.where);
      block.Access(from, 16, false, lane, x.where);
      std::memcpy(rows[row], from, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const auto& x = *static_cast<const LoadMatrixArgument*>(arguments[lane]);
      const int g = lane / 4, t = lane % 4 * 2;
      const uint32_t low = x.transposed ? rows[t][g] : rows[g][t];
      const uint32_t high = x.transposed ? rows[t + 1][g] : rows[g][t + 1];
      x.m[matrix] = low | high << 16;
    }
  }
}

void OrderRegisters(void* const*) {
  Block& block = TheGpu().block();
  block.warp_groups().OrderRegisters(block.thread().warp);
}
void MultiplyGroup(void* const* arguments) {
  Block& block = TheGpu().block();
  block.warp_groups().Multiply(block.thread().warp, arguments);
}
void CommitProducts(void* const*) {
  Block& block = TheGpu().block();
  block.warp_groups().Commit(block.thread().warp);
}
void WaitProducts(void* const* arguments) {
  Block& block = TheGpu().block();
  block.warp_groups().Wait(block.thread().warp, *static_cast<const int*>(arguments[0]));
}

void Transpose(void* const* arguments) {
  uint16_t m[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& x = *static_cast<const TransposeArgument*>(arguments[lane]);
    m[lane / 4][lane % 4 * 2] = LowHalf(x.in);
    m[lane / 4][lane % 4 * 2 + 1] = HighHalf(x.in);
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto& x = *static_cast<TransposeArgument*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4 * 2;
    x.out = m[t][g] | uint32_t{m[t + 1][g]} << 16;
  }
}

void Shuffle(void* const* arguments) {
  for (int lane = 0; lane < 32; ++lane) {
    auto& x = *static_cast<ShuffleArgument*>(arguments[lane]);
    x.out = static_cast<const ShuffleArgument*>(arguments[x.source])->in;
  }
}

}  // namespace nibble::emulator
