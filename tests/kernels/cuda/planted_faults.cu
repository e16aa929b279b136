#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "planted_faults.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 64;
struct Shared {
  float values[4 * kThreads];
};

__device__ float* Values() { return SharedMemory<Shared>().values; }
__device__ uint32_t Address(int i) { return ptx::SharedAddress(Values() + i); }

// --- order within the block

__global__ void SyncedThreads(float*, float* out) {
  Values()[threadIdx.x] = 1;
  ptx::SyncThreads();
  out[threadIdx.x] = Values()[(threadIdx.x + 1) % kThreads];
}
__global__ void ReadWithoutBarrier(float*, float* out) {
  Values()[threadIdx.x] = 1;
  out[threadIdx.x] = Values()[(threadIdx.x + kThreads - 1) % kThreads];
}
__global__ void WriteAfterReadWithoutBarrier(float*, float* out) {
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    Values()[threadIdx.x] = static_cast<float>(i);
    ptx::SyncThreads();
    sum += Values()[(threadIdx.x + 33) % kThreads];  // and the next turn writes it
  }
  out[threadIdx.x] = sum;
}
__global__ void TwoWriters(float*, float* out) {
  Values()[threadIdx.x / 2] = 1;
  ptx::SyncThreads();
  out[threadIdx.x] = Values()[threadIdx.x / 2];
}
__global__ void SyncedWarp(float*, float* out) {
  Values()[threadIdx.x] = 1;
  ptx::SyncWarp();
  out[threadIdx.x] = Values()[threadIdx.x ^ 1];
}
__global__ void ShuffleIsNoSync(float*, float* out) {
  Values()[threadIdx.x] = 1;
  ptx::ShuffleXor(1.0f, 1);
  out[threadIdx.x] = Values()[threadIdx.x ^ 1];
}
__global__ void WarpSyncOfAnotherWarp(float*, float* out) {
  Values()[threadIdx.x] = 1;
  ptx::SyncWarp();
  out[threadIdx.x] = Values()[threadIdx.x ^ 32];
}

// --- atomics

__device__ void Count() { ptx::AtomicAddShared(Address(0), 1); }
__global__ void SyncedAtomics(float*, float* out) {
  if (threadIdx.x == 0) Values()[0] = 0;
  ptx::SyncThreads();
  Count();
  ptx::SyncThreads();
  out[threadIdx.x] = Values()[0];
}
__global__ void AtomicsOnUnwritten(float*, float*) { Count(); }
__global__ void AtomicsBesideAWrite(float*, float*) {
  if (threadIdx.x == 5) Values()[0] = 0;
  Count();
}
__global__ void AtomicsBesideARead(float*, float* out) {
  if (threadIdx.x == 0) Values()[0] = 0;
  ptx::SyncThreads();
  Count();
  out[threadIdx.x] = Values()[0];
}

// --- asynchronous copies

__device__ void Copy(const float* in) {
  ptx::CopyAsync16(Address(4 * threadIdx.x), in + 4 * threadIdx.x);
}

__global__ void CopyWaited(float* in, float* out) {
  Copy(in);
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
  ptx::SyncThreads();
  out[threadIdx.x] = Values()[(4 * threadIdx.x + 4) % (4 * kThreads)];
}
__global__ void CopyNotWaited(float* in, float* out) {
  Copy(in);
  ptx::CommitCopies();
  ptx::SyncThreads();
  out[threadIdx.x] = Values()[threadIdx.x];
  ptx::WaitCopies<0>();
}
__global__ void CopyWaitedOneTooFew(float* in, float* out) {
  Copy(in);
  ptx::CommitCopies();
  ptx::WaitCopies<1>();
  out[threadIdx.x] = Values()[4 * threadIdx.x];
  ptx::WaitCopies<0>();
}
__global__ void CopyWithoutBarrier(float* in, float* out) {
  Copy(in);
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
  out[threadIdx.x] = Values()[(4 * threadIdx.x + 4 * kThreads - 4) % (4 * kThreads)];
}
__global__ void CopyOverReadBytes(float* in, float* out) {
  Copy(in);
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
  ptx::SyncThreads();
  out[threadIdx.x] = Values()[(4 * threadIdx.x + 4) % (4 * kThreads)];
  Copy(in);  // over what a neighbour may still read
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
}
__global__ void ExitWithOpenCopies(float* in, float* out) {
  Copy(in);
  ptx::CommitCopies();
  out[threadIdx.x] = 1;
}
__global__ void CopyMisaligned(float* in, float*) {
  ptx::CopyAsync16(Address(4 * threadIdx.x), in + 4 * threadIdx.x + 1);
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
}
__global__ void CopyOutOfBounds(float* in, float*) {
  ptx::CopyAsync16(Address(4 * threadIdx.x),
                   in + kFaultFloats - 4 * kThreads + 4 + 4 * threadIdx.x);
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
}
__global__ void CopyOfNothingOutOfBounds(float* in, float* out) {  // allowed: no byte of it is read
  ptx::CopyAsync16(Address(4 * threadIdx.x), in + kFaultFloats, 0);
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
  out[threadIdx.x] = Values()[4 * threadIdx.x];
}

// --- bounds, alignment, what nobody wrote

__global__ void SharedOutOfBounds(float*, float*) {
  Values()[4 * threadIdx.x + 1 + 3 * (threadIdx.x / (kThreads - 1))] = 1;
}
__global__ void SharedNeverWritten(float*, float* out) { out[threadIdx.x] = Values()[threadIdx.x]; }
__global__ void GlobalOutOfBounds(float*, float* out) {
  out[kFaultFloats - kThreads + 1 + threadIdx.x] = 1;
}
__global__ void GlobalNeverWritten(float* in, float* out) { in[threadIdx.x] = out[threadIdx.x]; }
__global__ void MisalignedMatrix(float*, float* out) {
  for (int i = 0; i < 4; ++i) Values()[4 * threadIdx.x + i] = 0;
  ptx::SyncThreads();
  uint32_t m[4];
  ptx::LoadMatrix4(m, Address(threadIdx.x));
  out[threadIdx.x] = ptx::FloatOfBits(m[0]);
}
__global__ void MisalignedVector(float* in, float* out) {
  out[threadIdx.x] = ptx::FloatOfBits(ptx::LoadGlobal16(in + 1 + threadIdx.x).x);
}
__global__ void MisalignedPair(float* in, float* out) {
  out[threadIdx.x] = static_cast<float>(*reinterpret_cast<const double*>(in + 1 + 2 * threadIdx.x));
}

// --- divergence

__global__ void ShuffleAtTwoPlaces(float*, float* out) {
  float v = 1;
  if (threadIdx.x % 32 < 16) {
    v = ptx::ShuffleXor(v, 1);
  } else {
    v = ptx::ShuffleXor(v, 2);
  }
  out[threadIdx.x] = v;
}
__global__ void ShuffleWithoutLane(float*, float* out) {
  if (threadIdx.x == 31) return;
  out[threadIdx.x] = ptx::ShuffleXor(1.0f, 1);
}
__global__ void BarrierAtTwoPlaces(float*, float* out) {
  if (threadIdx.x < 32) {
    ptx::SyncThreads();
  } else {
    ptx::SyncThreads();
  }
  out[threadIdx.x] = 1;
}
__global__ void ShuffleAgainstBarrier(float*, float* out) {
  if (threadIdx.x == 5) {
    ptx::ShuffleXor(1.0f, 1);
  } else {
    ptx::SyncThreads();
  }
  out[threadIdx.x] = 1;
}

// --- blocks of one launch: each writes, the last one reads what all wrote

__device__ bool IsLast(float* in, bool fence_before, bool fence_after) {
  auto* counter = reinterpret_cast<uint32_t*>(in);
  ptx::SyncThreads();
  auto* last = reinterpret_cast<uint32_t*>(Values());
  if (threadIdx.x == 0) {
    if (fence_before) ptx::Fence();
    *last = ptx::AtomicAdd(counter, 1) % 4 == 3;
    if (fence_after) ptx::Fence();
  }
  ptx::SyncThreads();
  return *last != 0;
}
template <bool kBefore, bool kAfter>
__global__ void LastBlockReads(float* in, float* out) {
  out[blockIdx.x * kThreads + threadIdx.x] = 1;
  if (!IsLast(in, kBefore, kAfter)) return;
  float sum = 0;
  for (int block = 0; block < 4; ++block) sum += out[block * kThreads + threadIdx.x];
  out[4 * kThreads + threadIdx.x] = sum;
}
__global__ void BlocksWriteTheSame(float*, float* out) { out[threadIdx.x] = 1; }

using Kernel = void (*)(float*, float*);
template <Kernel kKernel, int kBlocks = 1>
cudaError_t Run(float* in, float* out) {
  return Launch(kKernel, {dim3(kBlocks), dim3(kThreads), sizeof(Shared)}, in, out);
}

}  // namespace

std::vector<PlantedFault> PlantedFaults() {
  return {
      {"SyncedThreads", "", Run<SyncedThreads>},
      {"ReadWithoutBarrier", "races with the write of thread|never written",
       Run<ReadWithoutBarrier>},
      {"WriteAfterReadWithoutBarrier",
       "write of 4 bytes: races with the read of thread|read of 4 bytes: races with the write",
       Run<WriteAfterReadWithoutBarrier>},
      {"TwoWriters", "write of 4 bytes: races with the write of thread", Run<TwoWriters>},
      {"SyncedWarp", "", Run<SyncedWarp>},
      {"ShuffleIsNoSync", "races with the write of thread|never written", Run<ShuffleIsNoSync>},
      {"WarpSyncOfAnotherWarp", "races with the write of thread|never written",
       Run<WarpSyncOfAnotherWarp>},
      {"SyncedAtomics", "", Run<SyncedAtomics>},
      {"AtomicsOnUnwritten", "atomic: shared memory that was never written",
       Run<AtomicsOnUnwritten>},
      {"AtomicsBesideAWrite", "races with the write of thread|never written",
       Run<AtomicsBesideAWrite>},
      {"AtomicsBesideARead", "races with the (write|read) of thread", Run<AtomicsBesideARead>},
      {"CopyWaited", "", Run<CopyWaited>},
      {"CopyNotWaited", "an asynchronous copy to these bytes is not finished", Run<CopyNotWaited>},
      {"CopyWaitedOneTooFew", "an asynchronous copy to these bytes is not finished",
       Run<CopyWaitedOneTooFew>},
      {"CopyWithoutBarrier", "races with the write of thread|never written|not finished",
       Run<CopyWithoutBarrier>},
      {"CopyOverReadBytes",
       "asynchronous copy: races with the read of thread|copy to these bytes is not finished|races "
       "with the write",
       Run<CopyOverReadBytes>},
      {"ExitWithOpenCopies", "exits with asynchronous copies", Run<ExitWithOpenCopies>},
      {"CopyMisaligned", "misaligned source of a copy", Run<CopyMisaligned>},
      {"CopyOutOfBounds", "asynchronous copy: global memory out of bounds", Run<CopyOutOfBounds>},
      {"CopyOfNothingOutOfBounds", "", Run<CopyOfNothingOutOfBounds>},
      {"SharedOutOfBounds", "shared memory out of bounds", Run<SharedOutOfBounds>},
      {"SharedNeverWritten", "shared memory that was never written", Run<SharedNeverWritten>},
      {"GlobalOutOfBounds", "thread 63: write of 4 bytes: global memory out of bounds",
       Run<GlobalOutOfBounds>},
      {"GlobalNeverWritten", "global memory that was never written", Run<GlobalNeverWritten>},
      {"MisalignedMatrix", "misaligned shared address", Run<MisalignedMatrix>},
      {"MisalignedVector", "misaligned access of 16 bytes", Run<MisalignedVector>},
      {"MisalignedPair", "read of 8 bytes: misaligned", Run<MisalignedPair>},
      {"ShuffleAtTwoPlaces",
       "divergent collective: other lanes of the warp are at planted_faults.cu",
       Run<ShuffleAtTwoPlaces>},
      {"ShuffleWithoutLane", "a lane that has exited|exits while lanes of its warp wait",
       Run<ShuffleWithoutLane>},
      {"BarrierAtTwoPlaces", "divergent barrier: other threads wait at planted_faults.cu",
       Run<BarrierAtTwoPlaces>},
      {"ShuffleAgainstBarrier", "waits for ever in a (warp collective|barrier)",
       Run<ShuffleAgainstBarrier>},
      {"LastBlockReads", "", Run<LastBlockReads<true, true>, 4>},
      {"LastBlockReadsUnreleased", "another block of this launch wrote",
       Run<LastBlockReads<false, true>, 4>},
      {"LastBlockReadsUnacquired", "another block of this launch wrote",
       Run<LastBlockReads<true, false>, 4>},
      {"BlocksWriteTheSame", "another block of this launch wrote", Run<BlocksWriteTheSame, 2>},
  };
}

}  // namespace nibble::cuda
