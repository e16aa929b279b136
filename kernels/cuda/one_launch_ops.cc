#include "kernels/cuda/one_launch_ops.h"

#include "kernels/cuda/linear.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/rows.h"

namespace nibble::cuda {

void RunEmbed(Device& device, const EmbedParams& params) {
  DequantizeCall call;
  call.matrix = static_cast<const CudaMatrix&>(*params.table).stored();
  call.ids = params.ids;
  call.drawn = params.drawn;
  call.rows = params.out.rows;
  call.dtype = params.out.dtype;
  call.out = params.out.data;
  call.out_stride = params.out.stride;
  device.Keep(LaunchDequantize(call, device.stream()), "embed");
}

void RunRmsNorm(Device& device, const RmsNormParams& params) {
  RmsNormCall call;
  call.dtype = params.x.dtype;
  call.rows = params.x.rows;
  call.cols = params.x.cols;
  call.x = params.x.data;
  call.x_stride = params.x.stride;
  call.residual = params.residual.data;
  call.residual_stride = params.residual.stride;
  call.weight = params.weight;
  call.epsilon = params.epsilon;
  call.out = params.out.data;
  call.out_stride = params.out.stride;
  device.Keep(LaunchRmsNorm(call, device.stream()), "rms_norm");
}

void RunRopeStoreKv(Device& device, const RopeStoreKvParams& params) {
  RopeStoreCall call;
  call.dtype = params.qkv.dtype;
  call.qkv = params.qkv.data;
  call.qkv_stride = params.qkv.stride;
  call.tokens = params.qkv.rows;
  call.num_heads = params.num_heads;
  call.num_kv_heads = params.cache.num_kv_heads;
  call.head_dim = params.cache.head_dim;
  call.rotary_dim = params.rotary_dim;
  call.half_layout = params.layout == RopeLayout::kHalf;
  call.cos_sin = params.cos_sin;
  call.positions = params.positions;
  call.slots = params.slots;
  call.cache_dtype = params.cache.dtype;
  call.k = params.cache.k;
  call.v = params.cache.v;
  call.block_size = params.cache.block_size;
  device.Keep(LaunchRopeStore(call, device.stream()), "rope_store_kv");
}

void RunGatedActivation(Device& device, const GatedActivationParams& params) {
  GatedCall call;
  call.dtype = params.out.dtype;
  call.rows = params.out.rows;
  call.cols = params.out.cols;
  call.gate_up = params.gate_up.data;
  call.gate_up_stride = params.gate_up.stride;
  call.out = params.out.data;
  call.out_stride = params.out.stride;
  device.Keep(LaunchGated(call, device.stream()), "gated_activation");
}

void RunGatherRows(Device& device, const GatherRowsParams& params) {
  GatherCall call;
  call.x = params.x.data;
  call.x_stride = params.x.stride;
  call.ids = params.rows;
  call.rows = params.out.rows;
  call.cols = params.out.cols;
  call.out = params.out.data;
  call.out_stride = params.out.stride;
  device.Keep(LaunchGather(call, device.stream()), "gather_rows");
}

}  // namespace nibble::cuda
