#include "kernels/cuda/attention.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/prefill_attention.h"

namespace nibble::cuda {
namespace {

constexpr int32_t kMaxGroup = 128;  // heads a kv head, prefill_attention.h says

const char* TypeName(DType type) {
  switch (type) {
    case DType::kF16:
      return "f16";
    case DType::kBf16:
      return "bf16";
    case DType::kI8:
      return "int8";
    case DType::kF8E4M3:
      return "fp8";
    default:
      return "another type";
  }
}

// What both kernels' calls have by the same names.
template <class Call>
Call CallOf(const AttentionParams& params) {
  Call call;
  call.dtype = params.q.dtype;
  call.cache_dtype = params.cache.dtype;
  call.q = params.q.data;
  call.q_stride = params.q.stride;
  call.num_seqs = params.num_seqs;
  call.num_heads = params.num_heads;
  call.num_kv_heads = params.cache.num_kv_heads;
  call.head_dim = params.cache.head_dim;
  call.k = params.cache.k;
  call.v = params.cache.v;
  call.block_size = params.cache.block_size;
  call.block_table = params.block_table;
  call.max_blocks = params.max_blocks;
  call.context_lens = params.context_lens;
  call.scale = params.scale;
  call.out = params.out.data;
  call.out_stride = params.out.stride;
  return call;
}

PrefillAttention PrefillOf(const AttentionParams& params) {
  auto call = CallOf<PrefillAttention>(params);
  call.cu_seqlens_q = params.cu_seqlens_q;
  // Only the device knows how many rows each sequence has; blocks beyond them end at once.
  call.max_rows = params.q.rows;
  return call;
}

// As many rows go through a launch as the workspace has room for.
void RunDecode(Device& device, Workspace& workspace, const AttentionParams& params) {
  const auto all = CallOf<DecodeAttention>(params);
  DecodeAttention call = all;
  call.max_context = params.max_blocks * params.cache.block_size;
  call.num_seqs = 1;
  workspace.Reset();
  const int64_t room = workspace.left_bytes() - Workspace::kAlignment;
  // A row has a counter for each pack of heads, of which there are no more than heads.
  const int64_t by_counters = Workspace::kCounterBytes / (int64_t{params.num_heads} * 4);
  const auto rows_at_once =
      static_cast<int32_t>(std::clamp<int64_t>(room / DecodeWorkspaceBytes(call), 1, by_counters));
  for (int32_t first = 0; first < params.q.rows; first += rows_at_once) {
    workspace.Reset();
    call.num_seqs = std::min(rows_at_once, params.q.rows - first);
    const int64_t counters = DecodeCounterBytes(call);
    call.workspace = workspace.WithCounters(counters, DecodeWorkspaceBytes(call) - counters);
    call.q = static_cast<const uint16_t*>(all.q) + int64_t{first} * all.q_stride;
    call.out = static_cast<uint16_t*>(all.out) + int64_t{first} * all.out_stride;
    call.context_lens = all.context_lens + first;
    call.block_table = all.block_table + int64_t{first} * all.max_blocks;
    device.Keep(LaunchDecodeAttention(call, device.stream()), "attention");
  }
}

}  // namespace

absl::Status CheckAttention(const KvLayer& cache, int32_t num_heads, int32_t max_context,
                            DType activations, int64_t workspace_bytes) {
  if (!HasDecodeKernel(cache.head_dim)) {
    return absl::UnimplementedError(absl::StrCat("attention on CUDA: head_dim is ", cache.head_dim,
                                                 ", there are kernels for 32, 64 and 128"));
  }
  if (!HasCacheKernel(activations, cache.dtype, cache.block_size)) {
    return absl::UnimplementedError(absl::StrCat(
        "attention on CUDA: the KV cache is ", TypeName(cache.dtype), " in blocks of ",
        cache.block_size, ", with activations of ", TypeName(activations), " it must be ",
        TypeName(activations), ", or int8 or fp8 in blocks of a multiple of 4 (--kv-cache-type, ",
        "--block-size)"));
  }
  if (num_heads / cache.num_kv_heads > kMaxGroup) {
    return absl::UnimplementedError(absl::StrCat("attention on CUDA: ", num_heads, " heads for ",
                                                 cache.num_kv_heads, " kv heads, at most ",
                                                 kMaxGroup, " to a kv head"));
  }
  DecodeAttention call;
  call.num_heads = num_heads;
  call.num_kv_heads = cache.num_kv_heads;
  call.head_dim = cache.head_dim;
  call.num_seqs = 1;
  // The runner's table is of whole blocks, of which the last may be begun.
  call.max_context = max_context + cache.block_size;
  const int64_t needed =
      Workspace::kCounterBytes + Workspace::kAlignment + DecodeWorkspaceBytes(call);
  if (needed <= workspace_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("attention over ", max_context, " tokens needs ",
                                                   needed, " bytes of workspace, ", workspace_bytes,
                                                   " were planned; lower --max-context"));
}

void RunAttention(Device& device, Workspace& workspace, const AttentionParams& params) {
  if (params.q.rows == params.num_seqs) {
    RunDecode(device, workspace, params);
  } else {
    device.Keep(LaunchPrefillAttention(PrefillOf(params), device.stream()), "attention");
  }
}

}  // namespace nibble::cuda
