// The driver's tensor maps as the emulator keeps them in their 128 bytes, which nobody else reads:
// two dimensions of 16-bit values, boxes of 64 columns with the swizzle of 128 bytes.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nibble::emulator {

struct TensorMapFields {
  uint64_t mark = 0;  // of a map that EncodeTensorMap made
  const uint8_t* values = nullptr;
  uint64_t cols = 0, rows = 0, stride_bytes = 0;
  uint32_t box_cols = 0, box_rows = 0;
};

// Stands for cuTensorMapEncodeTiled: refuses what the manual forbids, and what CopyRows of
// kernels/cuda/ptx_bulk.cuh is not for.
CUresult EncodeTensorMap(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* values,
                         const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                         const cuuint32_t* steps, CUtensorMapInterleave interleave,
                         CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                         CUtensorMapFloatOOBfill fill);

// With mark 0 where EncodeTensorMap did not make it.
TensorMapFields FieldsOf(const CUtensorMap& map);

}  // namespace nibble::emulator
