// Faults of the products of warp groups: one kernel that is right, and each of its steps done
// wrong.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ptx_warp_group.cuh"
#include "planted_faults.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128, kTiles = 4;
struct Shared {
  uint4 rows[kTiles * 8 * 8];  // of 128 bytes each
};

enum class Wrong {
  kNothing,
  kSharedNotOrdered,   // the operands in shared memory, for products
  kSharedOrderedLate,  // after the barrier
  kNoBarrier,          // between the writes and the product
  kRegistersNotOrdered,
  kRegistersOrderedOnce,  // and written again before the second product
  kMisplaced,             // a descriptor that begins within the pattern
  kUnlike,                // one warp asks for other columns
  kLeftOut,               // one warp asks for one product less
  kOverwritten,           // operands written before the wait
  kNeverWaited,
};

// Where the rows lie, of which this thread's copies are there.
__device__ uint32_t CopyRows(const float* in) {
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t rows = ptx::SharedAddress(SharedMemory<Shared>().rows);
  for (int i = 0; i < 2; ++i)
    ptx::CopyAsync16(rows + (thread + i * kThreads) * 16, in + (thread + i * kThreads) * 4);
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
  return rows;
}

template <Wrong kWrong>
__global__ void Product(float* in, float* out) {
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t rows = CopyRows(in);
  if (kWrong != Wrong::kSharedNotOrdered && kWrong != Wrong::kSharedOrderedLate)
    ptx::OrderSharedForProducts();
  if (kWrong != Wrong::kNoBarrier) ptx::SyncThreads();
  if (kWrong == Wrong::kSharedOrderedLate) ptx::OrderSharedForProducts();

  float d[kTiles][4];
  uint32_t a[4] = {1, 2, 3, 4};
  uint32_t address = rows;
  if (kWrong == Wrong::kMisplaced) address += 128;
  if (kWrong == Wrong::kUnlike && thread / 32 == 2) address += 32;
  if (kWrong != Wrong::kRegistersNotOrdered) ptx::OrderRegisters();
  ptx::MultiplyF16</*kAdd=*/false>(d, a, ptx::SwizzledRows(address));
  ptx::CommitProducts();
  for (uint32_t& pair : a) pair += 7;
  if (kWrong != Wrong::kRegistersOrderedOnce) ptx::OrderRegisters();
  if (kWrong != Wrong::kLeftOut || thread / 32 != 3)
    ptx::MultiplyF16</*kAdd=*/true>(d, a, ptx::SwizzledRows(address));
  ptx::CommitProducts();
  if (kWrong == Wrong::kOverwritten) {
    ptx::SyncThreads();
    ptx::StoreShared16(rows + thread * 16, uint4{});
  }
  if (kWrong != Wrong::kNeverWaited) ptx::WaitProducts<0>();
  ptx::Pin(d);
  out[thread] = d[0][0];
}

// Accumulators before the wait, and after it.
__global__ void ReadBeforeTheWait(float* in, float* out) {
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t rows = CopyRows(in);
  ptx::OrderSharedForProducts();
  ptx::SyncThreads();
  float d[kTiles][4] = {};
  const uint32_t a[4] = {};
  ptx::OrderRegisters();
  ptx::MultiplyF16</*kAdd=*/true>(d, a, ptx::SwizzledRows(rows));
  ptx::CommitProducts();
  ptx::WaitProducts<1>();
  out[thread] = d[kTiles - 1][3];
  ptx::WaitProducts<0>();
  ptx::Pin(d);
  out[kThreads + thread] = d[kTiles - 1][3];
}

template <Wrong kWrong, int kNumThreads = kThreads>
cudaError_t Run(float* in, float* out) {
  return Launch(Product<kWrong>, {dim3(1), dim3(kNumThreads), sizeof(Shared)}, in, out);
}

}  // namespace

std::vector<PlantedFault> PlantedGroupFaults() {
  return {
      {"Product", "", Run<Wrong::kNothing>},
      {"SharedNotOrdered", "product: thread [0-9]+ did not order its write for products",
       Run<Wrong::kSharedNotOrdered>},
      {"SharedOrderedLate", "product: thread [0-9]+ did not order its write for products",
       Run<Wrong::kSharedOrderedLate>},
      {"NoBarrier",
       "product: (races with the write of|.*never written|.*not finished|.*did not order)",
       Run<Wrong::kNoBarrier>},
      {"RegistersNotOrdered", "registers that are not ordered", Run<Wrong::kRegistersNotOrdered>},
      {"RegistersOrderedOnce", "registers that are not ordered", Run<Wrong::kRegistersOrderedOnce>},
      {"Misplaced", "a descriptor of no swizzled rows", Run<Wrong::kMisplaced>},
      {"Unlike", "warps of a group ask for unlike products", Run<Wrong::kUnlike>},
      {"LeftOut", "warp 3 left out products of its group", Run<Wrong::kLeftOut>},
      {"Overwritten", "product: (races with the write of|.*did not order)",
       Run<Wrong::kOverwritten>},
      {"NeverWaited", "exits with products that it never waited for", Run<Wrong::kNeverWaited>},
      {"HalfAGroup", "warps of no whole group", Run<Wrong::kNothing, kThreads / 2>},
  };
}

cudaError_t ReadAccumulatorsEarly(float* in, float* out) {
  return Launch(ReadBeforeTheWait, {dim3(1), dim3(kThreads), sizeof(Shared)}, in, out);
}

}  // namespace nibble::cuda
