// Faults of bulk copies and of their barriers: one pipeline of two stages that is right, and each
// of its steps done wrong.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ptx_bulk.cuh"
#include "kernels/cuda/ptx_warp_group.cuh"
#include "planted_faults.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 64, kStages = 2, kTurns = 5, kStageBytes = kThreads * 4;
struct Shared {
  float stages[kStages][kThreads];
  uint64_t filled[kStages], freed[kStages];
};

enum class Wrong {
  kNothing,
  kWrongPhase,   // waited for
  kNoWait,       // at all
  kTooFewBytes,  // expected
  kTooManyBytes,
  kNotFreed,      // copied over at once
  kFreedTooSoon,  // before the reads
  kFreedByALane,  // before the others' reads
  kFreedTwice,
  kNotOrdered,  // the barriers, for copies
  kNoBarrier,   // the barriers, for others
  kNoInit,
  kMisalignedSource,
  kOddSize,
  kOutOfBounds,
  kWrittenBefore,  // by ordinary stores that are not ordered for copies
  kNobodyWaits,
};

__device__ uint32_t Filled(int stage) {
  return ptx::SharedAddress(&SharedMemory<Shared>().filled[stage]);
}
__device__ uint32_t Freed(int stage) {
  return ptx::SharedAddress(&SharedMemory<Shared>().freed[stage]);
}

template <Wrong kWrong>
__device__ void Copy(const float* in, int turn) {
  const int stage = turn % kStages;
  int bytes = kStageBytes, source = turn * kThreads;
  if (kWrong == Wrong::kOddSize) bytes -= 8;
  if (kWrong == Wrong::kMisalignedSource) source += 1;
  if (kWrong == Wrong::kOutOfBounds) source = kFaultFloats - kThreads + 4;
  int expected = bytes;
  if (kWrong == Wrong::kTooFewBytes) expected -= 16;
  if (kWrong == Wrong::kTooManyBytes) expected += 16;
  ptx::ArriveExpecting(Filled(stage), expected);
  ptx::CopyBulk(ptx::SharedAddress(SharedMemory<Shared>().stages[stage]), in + source, bytes,
                Filled(stage));
}

template <Wrong kWrong>
__device__ void MakeBarriers(const float* in) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages && kWrong != Wrong::kNoInit; ++stage) {
      ptx::InitBarrier(Filled(stage), 1);
      ptx::InitBarrier(Freed(stage), kThreads / 32);
    }
    if (kWrong != Wrong::kNotOrdered) ptx::OrderBarriers();
  }
  if (kWrong == Wrong::kWrittenBefore) {
    SharedMemory<Shared>().stages[1][threadIdx.x] = 1;
    ptx::SyncThreads();
  }
  if (threadIdx.x == 0) {
    for (int turn = 0; turn < kStages; ++turn) Copy<kWrong>(in, turn);
  }
  if (kWrong != Wrong::kNoBarrier) ptx::SyncThreads();
}

template <Wrong kWrong>
__global__ void Pipeline(float* in, float* out) {
  const int thread = static_cast<int>(threadIdx.x);
  MakeBarriers<kWrong>(in);
  if (kWrong == Wrong::kNobodyWaits) return;
  float sum = 0;
  for (int turn = 0; turn < kTurns; ++turn) {
    const int stage = turn % kStages;
    const uint32_t parity = static_cast<uint32_t>(turn / kStages % 2);
    if (kWrong != Wrong::kNoWait)
      ptx::WaitPhase(Filled(stage), kWrong == Wrong::kWrongPhase ? parity ^ 1 : parity);
    if (kWrong == Wrong::kFreedTooSoon && thread % 32 == 0) ptx::Arrive(Freed(stage));
    sum += SharedMemory<Shared>().stages[stage][(thread + 33) % kThreads];
    if (kWrong != Wrong::kFreedByALane) ptx::SyncWarp();
    if (kWrong != Wrong::kFreedTooSoon && thread % 32 == 0) ptx::Arrive(Freed(stage));
    if (kWrong == Wrong::kFreedTwice && thread == 0) ptx::Arrive(Freed(stage));
    if (thread == 0 && turn + kStages < kTurns) {
      if (kWrong != Wrong::kNotFreed) ptx::WaitPhase(Freed(stage), parity);
      Copy<kWrong>(in, turn + kStages);
    }
    ptx::SyncWarp();
  }
  out[thread] = sum;
}

// What ordinary stores wrote, ordered for the copies that go over it, and a wait that a barrier of
// the block passes on.
__global__ void WrittenAndCopiedOver(float* in, float* out) {
  const int thread = static_cast<int>(threadIdx.x);
  SharedMemory<Shared>().stages[0][thread] = 1;
  ptx::OrderSharedForProducts();
  ptx::SyncThreads();
  if (thread == 0) {
    ptx::InitBarrier(Filled(0), 1);
    ptx::OrderBarriers();
    Copy<Wrong::kNothing>(in, 0);
    ptx::WaitPhase(Filled(0), 0);
  }
  ptx::SyncThreads();
  out[thread] = SharedMemory<Shared>().stages[0][thread ^ 1];
}

using Kernel = void (*)(float*, float*);
template <Kernel kKernel>
cudaError_t RunKernel(float* in, float* out) {
  return Launch(kKernel, {dim3(1), dim3(kThreads), sizeof(Shared)}, in, out);
}
template <Wrong kWrong>
cudaError_t Run(float* in, float* out) {
  return RunKernel<Pipeline<kWrong>>(in, out);
}

}  // namespace

std::vector<PlantedFault> PlantedBulkFaults() {
  const char* race = "bulk copy: races with the read of thread";
  const char* unseen = "copy to these bytes is not finished|never written|has not waited for";
  return {
      {"Pipeline", "", Run<Wrong::kNothing>},
      {"WrittenAndCopiedOver", "", RunKernel<WrittenAndCopiedOver>},
      {"WrongPhase", unseen, Run<Wrong::kWrongPhase>},
      {"NoWait", unseen, Run<Wrong::kNoWait>},
      {"TooFewBytes", "arrive that its phase did not expect", Run<Wrong::kTooFewBytes>},
      {"TooManyBytes", "waits for ever in a phase", Run<Wrong::kTooManyBytes>},
      {"NotFreed", race, Run<Wrong::kNotFreed>},
      {"FreedTooSoon", race, Run<Wrong::kFreedTooSoon>},
      {"FreedByALane", race, Run<Wrong::kFreedByALane>},
      {"FreedTwice",
       "more arrivals than the phase has|races with the read of thread|waits for ever in a phase",
       Run<Wrong::kFreedTwice>},
      {"NotOrdered", "initialisation is not ordered for copies", Run<Wrong::kNotOrdered>},
      {"NoBarrier", "initialisation is not ordered before|no barrier lies there",
       Run<Wrong::kNoBarrier>},
      {"NoInit", "no barrier lies there", Run<Wrong::kNoInit>},
      {"MisalignedSource", "misaligned source of a copy", Run<Wrong::kMisalignedSource>},
      {"OddSize", "a bulk copy of no 16 bytes", Run<Wrong::kOddSize>},
      {"OutOfBounds", "bulk copy: global memory out of bounds", Run<Wrong::kOutOfBounds>},
      {"WrittenBefore", "bulk copy: thread [0-9]+ did not order its write for copies",
       Run<Wrong::kWrittenBefore>},
      {"NobodyWaits", "ends with bulk copies that nobody waited for", Run<Wrong::kNobodyWaits>},
  };
}

}  // namespace nibble::cuda
