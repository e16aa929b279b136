// Attention of the 8B shape over a paged cache: decode by sequences and context, prefill by tokens.
#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "engine/base/status_macros.h"
#include "tests/gpu/op_sweep/sweep.h"

namespace nibble::sweep {
namespace {

constexpr int32_t kHeads = 32, kKvHeads = 8, kHeadDim = 128, kBlockSize = 32;

struct Case {
  int32_t sequences, context;
  int32_t query_rows;  // of each sequence; 1: decode
};

std::vector<Case> Cases(const Options& options) {
  if (options.small) return {{2, 40, 1}, {1, 40, 40}};
  return {{1, 1024, 1},    {1, 4096, 1},    {1, 16384, 1},   {8, 1024, 1},
          {32, 1024, 1},   {32, 4096, 1},   {128, 1024, 1},  {256, 1024, 1},
          {1, 1024, 1024}, {1, 4096, 4096}, {1, 8192, 8192}, {1, 4096, 512}};
}

struct CacheType {
  const char* name;
  DType dtype;
};
constexpr CacheType kTypes[] = {
    {"f16", DType::kF16}, {"int8", DType::kI8}, {"fp8", DType::kF8E4M3}};

// The caches of as many layers as it takes to come from memory each time.
class World {
 public:
  static absl::StatusOr<World> Create(Backend& backend, const Options& options, const Case& test,
                                      DType type) {
    World world;
    world.test_ = test;
    world.max_blocks_ = (test.context + kBlockSize - 1) / kBlockSize;
    world.num_blocks_ = world.max_blocks_ * test.sequences;
    const int64_t plane =
        int64_t{world.num_blocks_} * kKvHeads * KvHeadBytes(type, kBlockSize, kHeadDim);
    const int64_t layers =
        options.small ? 2 : std::min<int64_t>(options.cold_bytes / (2 * plane) + 2, 64);
    for (int64_t i = 0; i < layers; ++i) {
      NIBBLE_ASSIGN_OR_RETURN(DeviceBuffer memory, FiniteBytes(backend, 2 * plane, 3));
      KvLayer layer{.k = memory.data(),
                    .dtype = type,
                    .num_blocks = world.num_blocks_,
                    .block_size = kBlockSize};
      layer.v = static_cast<uint8_t*>(memory.data()) + plane;
      layer.num_kv_heads = kKvHeads;
      layer.head_dim = kHeadDim;
      world.layers_.push_back(layer);
      world.keep_.push_back(std::move(memory));
    }
    NIBBLE_RETURN_IF_ERROR(world.FillInputs(backend));
    return world;
  }

  int32_t num_layers() const { return static_cast<int32_t>(layers_.size()); }
  void Attend(Backend& backend) const {
    for (const KvLayer& layer : layers_) {
      AttentionParams params;
      params.q = q_[0].tensor();
      params.num_heads = kHeads;
      params.cache = layer;
      params.num_seqs = test_.sequences;
      params.max_blocks = max_blocks_;
      params.cu_seqlens_q = static_cast<const int32_t*>(ints_[0].data());
      params.context_lens = static_cast<const int32_t*>(ints_[1].data());
      params.block_table = static_cast<const int32_t*>(ints_[2].data());
      params.scale = 0.0884f;  // 1 / sqrt(128)
      params.out = q_[1].tensor();
      backend.Attention(params);
    }
  }

 private:
  absl::Status FillInputs(Backend& backend) {
    std::vector<int32_t> ends = {0}, table(num_blocks_);
    for (int32_t s = 0; s < test_.sequences; ++s) ends.push_back(ends.back() + test_.query_rows);
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(5));
    for (const std::vector<int32_t>& values :
         {ends, std::vector<int32_t>(test_.sequences, test_.context), table}) {
      NIBBLE_ASSIGN_OR_RETURN(DeviceBuffer memory, Ints(backend, values));
      ints_.push_back(std::move(memory));
    }
    for (const uint32_t seed : {7u, 8u}) {
      NIBBLE_ASSIGN_OR_RETURN(Rows rows, Rows::Create(backend, backend.activation_dtype(),
                                                      ends.back(), kHeads * kHeadDim, seed));
      q_.push_back(std::move(rows));
    }
    return absl::OkStatus();
  }

  Case test_ = {};
  int32_t max_blocks_ = 0, num_blocks_ = 0;
  std::vector<DeviceBuffer> keep_, ints_;
  std::vector<KvLayer> layers_;
  std::vector<Rows> q_;  // and out
};

Figure FigureOf(const Case& test, const CacheType& type, DType activations) {
  const bool decode = test.query_rows == 1;
  Figure figure{.op = decode ? "decode_attention" : "prefill_attention",
                .variant = type.name,
                .shape = "h32/8x128"};
  figure.rows = decode ? test.sequences : test.query_rows;
  figure.context = test.context;
  const int64_t rows = int64_t{test.sequences} * test.query_rows;
  const int64_t cached = int64_t{test.sequences} * test.context;
  figure.bytes = 2 * cached * kKvHeads * KvHeadBytes(type.dtype, 1, kHeadDim) +
                 2 * rows * kHeads * kHeadDim * static_cast<int64_t>(SizeOf(activations));
  // Row i of n sees context - n + i + 1 positions.
  const int64_t seen =
      rows * test.context - int64_t{test.sequences} * test.query_rows * (test.query_rows - 1) / 2;
  figure.flops = 4 * seen * kHeads * kHeadDim;
  return figure;
}

}  // namespace

absl::Status SweepAttention(const MakeBackend& make, const Options& options, Report report) {
  for (const CacheType& type : kTypes) {
    for (const Case& test : Cases(options)) {
      NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, make());
      NIBBLE_ASSIGN_OR_RETURN(const World world,
                              World::Create(*backend, options, test, type.dtype));
      Figure figure = FigureOf(test, type, backend->activation_dtype());
      NIBBLE_RETURN_IF_ERROR(Time(
          *backend, options, {1, 1}, world.num_layers(), [&] { world.Attend(*backend); }, figure));
      report(figure);
    }
  }
  return absl::OkStatus();
}

}  // namespace nibble::sweep
