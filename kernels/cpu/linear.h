// The linear op and the embedding op of the CPU backend, over weights packed once at load.
//
//   y = x W^T + bias.  With CpuActivations::kInt8 and a weight of an integer format, each row of x
//   is first quantized to int8 in groups of 32 columns; integer dot products are exact, and one f32
//   accumulator an output takes the groups in ascending order. Int4 with f16 scales (Q4_0, Q4_1) is
//   packed with its scales as 16-bit integers ("words", linear_kernels.h) and takes two groups at
//   once, which loses a fiftieth of what int8 activations do. With kInt16 what is left of the row
//   is quantized the same way, and its product added: two int8 planes and no words (which would
//   lose more), an error below 2^-16 of the largest of each group, for twice the dot products and
//   no more weights read. With kF32, and for fp8, bf16 and f32 weights always, f32 activations meet
//   weights dequantized exactly as quant::Matrix defines, in an order fixed by the column.
//
// Batch invariance (ops.h): a row of y is the same bits whatever the number of rows, the place of
// the row among them, and the number of threads. AVX2 and AVX-512-VNNI give the same bits as each
// other; the scalar path has no fused multiply-add and differs by its rounding.
//
// Cost: one row reads every weight once (memory-bound); from about 8 rows on it is bound by the dot
// products.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/weight_memory.h"
#include "kernels/ops.h"
#include "kernels/quant/matrix.h"

namespace nibble {

// The private layout of the CPU backend (packed_matrix.h). It serves every ISA, and as an embedding
// table too, so tied weights are stored once. Weights of any integer format meet the `activations`
// named, but those packed for kInt8 no others. INVALID_ARGUMENT for a matrix that quant::Validate
// refuses; UNIMPLEMENTED for integer formats (those of 4 to 8 bits but fp8) whose cols are not a
// multiple of 32. The bytes are cut from `memory` where it is not null (weight_memory.h says why a
// model's should be).
absl::StatusOr<std::unique_ptr<PackedMatrix>> PackCpu(const quant::Matrix& matrix,
                                                      CpuActivations activations,
                                                      cpu::WeightMemory* memory = nullptr);

// What LinearCpu works in: quantized rows and panels. Owned by the backend, grows to the largest
// call.
class LinearScratch {
 public:
  LinearScratch();
  ~LinearScratch();
  LinearScratch(LinearScratch&&) noexcept;
  LinearScratch& operator=(LinearScratch&&) noexcept;

  struct Buffers;
  Buffers& buffers() { return *buffers_; }

 private:
  std::unique_ptr<Buffers> buffers_;
};

// REQUIRES: weights made by PackCpu for such activations; x and y f32; shapes as LinearParams says;
// y does not overlap x; `isa` is one this machine has, never kAuto; `row_kernels` (of the same isa)
// where params asks for a norm or is gated.
void LinearCpu(ThreadPool& pool, LinearScratch& scratch, const LinearParams& params, CpuIsa isa,
               CpuActivations activations, const cpu::RowKernels* row_kernels = nullptr);

// out[r] = row ids[r] of the table, f32. REQUIRES: a table made by PackCpu, ids in range.
void EmbedCpu(ThreadPool& pool, const EmbedParams& params);

}  // namespace nibble
