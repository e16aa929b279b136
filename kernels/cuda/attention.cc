#include "kernels/cuda/attention.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/rows.h"

namespace nibble::cuda {
namespace {

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

// What one row needs: partial results, its length and its blocks.
int64_t BytesOfRow(DecodeAttention call, int32_t max_blocks) {
  call.num_seqs = 1;
  return DecodeWorkspaceBytes(call) + (int64_t{max_blocks} + 1) * 4;
}

DecodeAttention CallOf(const AttentionParams& params) {
  DecodeAttention call;
  call.dtype = params.q.dtype;
  call.cache_dtype = params.cache.dtype;
  call.q_stride = params.q.stride;
  call.num_heads = params.num_heads;
  call.num_kv_heads = params.cache.num_kv_heads;
  call.head_dim = params.cache.head_dim;
  call.k = params.cache.k;
  call.v = params.cache.v;
  call.block_size = params.cache.block_size;
  call.max_blocks = params.max_blocks;
  call.max_context = params.max_blocks * params.cache.block_size;
  call.scale = params.scale;
  call.out_stride = params.out.stride;
  return call;
}

}  // namespace

absl::Status CheckAttention(const KvLayer& cache, int32_t num_heads, int32_t max_context,
                            DType activations, int64_t workspace_bytes) {
  if (!HasDecodeKernel(cache.head_dim)) {
    return absl::UnimplementedError(absl::StrCat("attention on CUDA: head_dim is ", cache.head_dim,
                                                 ", there are kernels for 32, 64 and 128"));
  }
  if (cache.dtype != activations) {
    return absl::UnimplementedError(absl::StrCat(
        "attention on CUDA: the KV cache is ", TypeName(cache.dtype), ", with activations of ",
        TypeName(activations), " it must be ", TypeName(activations), " (--kv-cache-type)"));
  }
  DecodeAttention call;
  call.num_heads = num_heads;
  call.num_kv_heads = cache.num_kv_heads;
  call.head_dim = cache.head_dim;
  call.max_context = max_context;
  const int64_t needed = Workspace::kCounterBytes + 3 * Workspace::kAlignment +
                         BytesOfRow(call, max_context / cache.block_size + 1);
  if (needed <= workspace_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("attention over ", max_context, " tokens needs ",
                                                   needed, " bytes of workspace, ", workspace_bytes,
                                                   " were planned; lower --max-context"));
}

void RunAttention(Device& device, Workspace& workspace, const AttentionParams& params) {
  DecodeAttention call = CallOf(params);
  workspace.Reset();
  const int64_t room = workspace.left_bytes() - 3 * Workspace::kAlignment;
  // A row has a counter for each pack of heads, of which there are no more than heads.
  const int64_t by_counters = Workspace::kCounterBytes / (int64_t{params.num_heads} * 4);
  const auto rows_at_once = static_cast<int32_t>(
      std::clamp<int64_t>(room / BytesOfRow(call, params.max_blocks), 1, by_counters));
  const bool is_decode = params.q.rows == params.num_seqs;
  for (int32_t first = 0; first < params.q.rows; first += rows_at_once) {
    workspace.Reset();
    call.num_seqs = std::min(rows_at_once, params.q.rows - first);
    const int64_t counters = DecodeCounterBytes(call);
    call.workspace = workspace.WithCounters(counters, DecodeWorkspaceBytes(call) - counters);
    call.q = static_cast<const uint16_t*>(params.q.data) + int64_t{first} * params.q.stride;
    call.out = static_cast<uint16_t*>(params.out.data) + int64_t{first} * params.out.stride;
    call.context_lens = params.context_lens + first;
    call.block_table = params.block_table + int64_t{first} * params.max_blocks;
    if (!is_decode) {
      SplitTokensCall split;
      split.num_seqs = params.num_seqs;
      split.max_blocks = params.max_blocks;
      split.block_size = params.cache.block_size;
      split.cu_seqlens_q = params.cu_seqlens_q;
      split.context_lens = params.context_lens;
      split.block_table = params.block_table;
      split.first = first;
      split.tokens = call.num_seqs;
      split.token_lens = static_cast<int32_t*>(workspace.Take(int64_t{call.num_seqs} * 4));
      split.token_blocks =
          static_cast<int32_t*>(workspace.Take(int64_t{call.num_seqs} * params.max_blocks * 4));
      device.Keep(LaunchSplitTokens(split, device.stream()), "attention (split)");
      call.context_lens = split.token_lens;
      call.block_table = split.token_blocks;
    }
    device.Keep(LaunchDecodeAttention(call, device.stream()), "attention");
  }
}

}  // namespace nibble::cuda
