// The warp-wide instructions: what each lane passes to one, and what it does once all lanes are
// there. Written for the hardware's registers, lane by lane; tests/kernels/cuda/fragment_model.h
// says the same of matrix elements.
#pragma once

#include <cstdint>

#include "emulator/block.h"

namespace nibble::emulator {

struct LoadMatrixArgument {
  uint32_t row_address;
  uint32_t* m;  // [4]
  bool transposed;
  Location where;
};
void LoadMatrix(void* const* arguments);

struct TransposeArgument {
  uint32_t in, out;
};
void Transpose(void* const* arguments);

struct MmaArgument {
  float* d;  // [4]
  const uint32_t* a;
  const uint32_t* b;
};
void MmaF16(void* const* arguments);
void MmaBf16(void* const* arguments);

// Of warp groups (warp_group.h), each of a warp: GroupProductArgument, and how many may be pending.
void OrderRegisters(void* const* arguments);
void MultiplyGroup(void* const* arguments);
void CommitProducts(void* const* arguments);
void WaitProducts(void* const* arguments);

struct ShuffleArgument {
  uint32_t in, out;
  int source;
};
void Shuffle(void* const* arguments);

}  // namespace nibble::emulator
