#include "kernels/cuda/cache_codes.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ptx_bulk.cuh"
#include "kernels/cuda/ptx_warp_group.cuh"
#include "probes.h"

namespace nibble::cuda {
namespace {

constexpr int kWords = 4096;
struct Shared {
  uint32_t words[kWords];
};

template <bool kBf16>
__global__ void Mma(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = threadIdx.x;
  uint32_t ra[4], rb[2];
  float rd[4];
  for (int i = 0; i < 4; ++i) ra[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) rb[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) rd[i] = d[lane * 4 + i];
  if constexpr (kBf16) {
    ptx::MmaBf16(rd, ra, rb);
  } else {
    ptx::MmaF16(rd, ra, rb);
  }
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = rd[i];
}

template <bool kBf16, bool kAdd, int kTiles>
__global__ void GroupProduct(const uint32_t* a, const uint32_t* b, float* d, int step) {
  auto& shared = SharedMemory<Shared>();
  const int thread = threadIdx.x;
  for (int i = thread; i < kTiles * 8 * 32; i += 128) shared.words[i] = b[i];
  ptx::OrderSharedForProducts();
  ptx::SyncThreads();
  uint32_t ra[4];
  float rd[kTiles][4];
  for (int i = 0; i < 4; ++i) ra[i] = a[thread * 4 + i];
  for (int i = 0; i < kTiles * 4; ++i) rd[i / 4][i % 4] = d[thread * kTiles * 4 + i];
  const uint64_t rows =
      ptx::Further(ptx::SwizzledRows(ptx::SharedAddress(shared.words)), step * 32);
  ptx::Pin(rd);
  ptx::OrderRegisters();
  if constexpr (kBf16) {
    ptx::MultiplyBf16<kAdd>(rd, ra, rows);
  } else {
    ptx::MultiplyF16<kAdd>(rd, ra, rows);
  }
  ptx::CommitProducts();
  ptx::WaitProducts<0>();
  ptx::Pin(rd);
  for (int i = 0; i < kTiles * 4; ++i) d[thread * kTiles * 4 + i] = rd[i / 4][i % 4];
}

struct Box {
  uint16_t rows[8][64];
  uint64_t filled;
};

__global__ void CopyBox(const __grid_constant__ CUtensorMap map, int col, int row, uint16_t* out) {
  auto& shared = SharedMemory<Box>();
  const uint32_t filled = ptx::SharedAddress(&shared.filled);
  if (threadIdx.x == 0) {
    ptx::PrefetchMap(map);
    ptx::InitBarrier(filled, 1);
    ptx::OrderBarriers();
    ptx::ArriveExpecting(filled, sizeof shared.rows);
    ptx::CopyRows(ptx::SharedAddress(shared.rows), map, col, row, filled);
  }
  ptx::SyncThreads();
  ptx::WaitPhase(filled, 0);
  for (int i = 0; i < 16; ++i)
    out[i * 32 + threadIdx.x] = shared.rows[i / 2][i % 2 * 32 + threadIdx.x];
}

template <bool kTransposed>
__global__ void LoadMatrix(const uint32_t* matrices, uint32_t* registers) {
  auto& shared = SharedMemory<Shared>();
  for (int i = 0; i < 4; ++i) shared.words[threadIdx.x + 32 * i] = matrices[threadIdx.x + 32 * i];
  ptx::SyncThreads();
  uint32_t m[4];
  const uint32_t row = ptx::SharedAddress(&shared.words[threadIdx.x * 4]);
  if constexpr (kTransposed) {
    ptx::LoadMatrix4Transposed(m, row);
  } else {
    ptx::LoadMatrix4(m, row);
  }
  for (int i = 0; i < 4; ++i) registers[threadIdx.x * 4 + i] = m[i];
}

__global__ void Transpose(const uint32_t* in, uint32_t* out) {
  out[threadIdx.x] = ptx::TransposeMatrix(in[threadIdx.x]);
}

__global__ void BytePermute(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  out[lane] = ptx::BytePermute(in[lane], in[lane + 32], in[lane + 64]);
}

__global__ void AtomicAddShared(const uint32_t* in, uint32_t* out) {
  auto& shared = SharedMemory<Shared>();
  const int lane = threadIdx.x;
  shared.words[lane] = 0;
  ptx::SyncThreads();
  out[32 + lane] = ptx::AtomicAddShared(ptx::SharedAddress(&shared.words[lane % 8]), in[lane]);
  ptx::SyncThreads();
  out[lane] = shared.words[lane % 8];
}

template <class Codes, class Half, bool kUnpack, bool kApart>
__global__ void Widen(const uint32_t* in, uint32_t* out) {
  for (int i = static_cast<int>(threadIdx.x); i < 64; i += 32) {
    uint32_t pairs[2];
    if constexpr (kUnpack) {
      Codes::template Unpack<Half, kApart>(in[i], pairs);
    } else {
      Codes::template Widen<Half, kApart>(in[i], pairs);
    }
    out[2 * i] = pairs[0];
    out[2 * i + 1] = pairs[1];
  }
}

__global__ void Max(const float* in, float* out) {
  out[threadIdx.x] = ptx::Max(in[threadIdx.x], in[threadIdx.x + 32]);
}

__global__ void Read4(const uint32_t* in, uint32_t* out, int stride) {
  out[threadIdx.x] = in[threadIdx.x * stride];
}

__global__ void Read16(const uint32_t* in, uint32_t* out, int stride) {
  ptx::StoreGlobal16(out + threadIdx.x * 4, ptx::LoadGlobal16(in + threadIdx.x * stride));
}

__global__ void Shared4(uint32_t* out, int stride) {
  auto& shared = SharedMemory<Shared>();
  shared.words[threadIdx.x * stride] = threadIdx.x;
  out[threadIdx.x] = shared.words[threadIdx.x * stride];
}

__global__ void Shared8(const uint32_t* in, uint32_t* out, int stride) {
  const uint32_t at = ptx::SharedAddress(&SharedMemory<Shared>().words[threadIdx.x * stride]);
  ptx::StoreShared8(at, ptx::LoadGlobal8(in + threadIdx.x * 2));
  ptx::StoreGlobal8(out + threadIdx.x * 2, ptx::LoadShared8(at));
}

__global__ void Shared16(const uint32_t* in, uint32_t* out, int stride) {
  const uint32_t at = ptx::SharedAddress(&SharedMemory<Shared>().words[threadIdx.x * stride]);
  ptx::CopyAsync16(at, in + threadIdx.x * 4);
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
  ptx::StoreGlobal16(out + threadIdx.x * 4, ptx::LoadShared16(at));
}

LaunchShape OneWarp() { return {dim3(1), dim3(32), sizeof(Shared), nullptr}; }

template <class Codes, class Half>
cudaError_t StartWiden(const WidenProbe& probe, const uint32_t* in, uint32_t* out) {
  const auto widen =
      probe.apart ? Widen<Codes, Half, false, true> : Widen<Codes, Half, false, false>;
  const auto unpack =
      probe.apart ? Widen<Codes, Half, true, true> : Widen<Codes, Half, true, false>;
  return Launch(probe.unpack ? unpack : widen, OneWarp(), in, out);
}
template <class Codes>
cudaError_t StartWidenOf(const WidenProbe& probe, const uint32_t* in, uint32_t* out) {
  return probe.f16 ? StartWiden<Codes, F16>(probe, in, out)
                   : StartWiden<Codes, Bf16>(probe, in, out);
}

}  // namespace

cudaError_t ProbeMma(bool bf16, const uint32_t* a, const uint32_t* b, float* d) {
  return Launch(bf16 ? Mma<true> : Mma<false>, OneWarp(), a, b, d);
}
namespace {

template <int kTiles>
cudaError_t StartGroupProduct(const GroupProbe& probe, const uint32_t* a, const uint32_t* b,
                              float* d) {
  const auto f16 =
      probe.add ? GroupProduct<false, true, kTiles> : GroupProduct<false, false, kTiles>;
  const auto bf16 =
      probe.add ? GroupProduct<true, true, kTiles> : GroupProduct<true, false, kTiles>;
  return Launch(probe.bf16 ? bf16 : f16, {dim3(1), dim3(128), sizeof(Shared), nullptr}, a, b, d,
                probe.step);
}

}  // namespace

cudaError_t ProbeGroupProduct(const GroupProbe& probe, const uint32_t* a, const uint32_t* b,
                              float* d) {
  if (probe.tiles == 2) return StartGroupProduct<2>(probe, a, b, d);
  if (probe.tiles == 4) return StartGroupProduct<4>(probe, a, b, d);
  if (probe.tiles == 8) return StartGroupProduct<8>(probe, a, b, d);
  return StartGroupProduct<16>(probe, a, b, d);
}
cudaError_t ProbeCopyRows(const SwizzledRowsOf& matrix, int col, int row, uint16_t* out) {
  CUtensorMap map;
  if (const cudaError_t error = MakeTensorMap(matrix, &map); error != cudaSuccess) return error;
  return Launch(CopyBox, {dim3(1), dim3(32), sizeof(Box)}, map, col, row, out);
}

cudaError_t ProbeLoadMatrix(bool transposed, const uint32_t* matrices, uint32_t* registers) {
  return Launch(transposed ? LoadMatrix<true> : LoadMatrix<false>, OneWarp(), matrices, registers);
}
cudaError_t ProbeTranspose(const uint32_t* in, uint32_t* out) {
  return Launch(Transpose, OneWarp(), in, out);
}
cudaError_t ProbeBytePermute(const uint32_t* in, uint32_t* out) {
  return Launch(BytePermute, OneWarp(), in, out);
}
cudaError_t ProbeAtomicAddShared(const uint32_t* in, uint32_t* out) {
  return Launch(AtomicAddShared, OneWarp(), in, out);
}
cudaError_t ProbeWiden(const WidenProbe& probe, const uint32_t* in, uint32_t* out) {
  return probe.int8 ? StartWidenOf<I8Codes>(probe, in, out)
                    : StartWidenOf<E4m3Codes>(probe, in, out);
}
cudaError_t ProbeMax(const float* in, float* out) { return Launch(Max, OneWarp(), in, out); }
cudaError_t ProbeRead4(const uint32_t* in, uint32_t* out, int stride) {
  return Launch(Read4, OneWarp(), in, out, stride);
}
cudaError_t ProbeRead16(const uint32_t* in, uint32_t* out, int stride) {
  return Launch(Read16, OneWarp(), in, out, stride);
}
cudaError_t ProbeShared4(uint32_t* out, int stride) {
  return Launch(Shared4, OneWarp(), out, stride);
}
cudaError_t ProbeShared8(const uint32_t* in, uint32_t* out, int stride) {
  return Launch(Shared8, OneWarp(), in, out, stride);
}
cudaError_t ProbeShared16(const uint32_t* in, uint32_t* out, int stride) {
  return Launch(Shared16, OneWarp(), in, out, stride);
}

}  // namespace nibble::cuda
