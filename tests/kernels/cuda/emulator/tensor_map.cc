#include "emulator/tensor_map.h"

#include <cstring>

namespace nibble::emulator {
namespace {

constexpr uint64_t kMark = 0x6E6962626C65206D;

}  // namespace

CUresult EncodeTensorMap(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* values,
                         const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                         const cuuint32_t* steps, CUtensorMapInterleave interleave,
                         CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                         CUtensorMapFloatOOBfill fill) {
  constexpr uint64_t kMostSize = uint64_t{1} << 32, kMostStride = uint64_t{1} << 40;
  const bool is_of_its_kind =
      type == CU_TENSOR_MAP_DATA_TYPE_UINT16 && rank == 2 && steps[0] == 1 && steps[1] == 1 &&
      interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && swizzle == CU_TENSOR_MAP_SWIZZLE_128B &&
      fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  const bool is_aligned = reinterpret_cast<uintptr_t>(map) % 64 == 0 &&
                          reinterpret_cast<uintptr_t>(values) % 16 == 0 && strides[0] % 16 == 0;
  const bool fits = sizes[0] >= 1 && sizes[0] <= kMostSize && sizes[1] >= 1 &&
                    sizes[1] <= kMostSize && strides[0] >= 1 && strides[0] < kMostStride &&
                    box[0] == 64 && box[1] >= 1 && box[1] <= 256;
  if (!is_of_its_kind || !is_aligned || !fits) return CUDA_ERROR_INVALID_VALUE;
  const TensorMapFields fields = {.mark = kMark,
                                  .values = static_cast<const uint8_t*>(values),
                                  .cols = sizes[0],
                                  .rows = sizes[1],
                                  .stride_bytes = strides[0],
                                  .box_cols = box[0],
                                  .box_rows = box[1]};
  static_assert(sizeof fields <= sizeof *map);
  std::memcpy(map, &fields, sizeof fields);
  return CUDA_SUCCESS;
}

TensorMapFields FieldsOf(const CUtensorMap& map) {
  TensorMapFields fields;
  std::memcpy(static_cast<void*>(&fields), &map, sizeof fields);
  return fields.mark == kMark ? fields : TensorMapFields{};
}

}  // namespace nibble::emulator
