// The ways in which this machine can compute a model, and a runner for one of them. Each has a
// reference of its own: bits are promised on one path, not between two.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/device_runner.h"
#include "engine/model/kv_cache.h"
#include "engine/weights/weight_source.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

namespace nibble {

struct ComputePath {
  CpuIsa isa = CpuIsa::kAuto;
  CpuActivations activations = CpuActivations::kInt8;
  DType kv_cache_type = DType::kF16;
};

inline std::string NameOf(const ComputePath& path) {
  const char* cache = path.kv_cache_type == DType::kF16    ? "_kv_f16"
                      : path.kv_cache_type == DType::kBf16 ? "_kv_bf16"
                      : path.kv_cache_type == DType::kI8   ? "_kv_int8"
                                                           : "_kv_fp8";
  return absl::StrCat(std::string(IsaName(path.isa)),
                      path.activations == CpuActivations::kInt8    ? "_int8"
                      : path.activations == CpuActivations::kInt16 ? "_int16"
                                                                   : "_f32",
                      cache);
}

// Every instruction set of this machine, all kinds of activations and each type of cache.
inline std::vector<ComputePath> ComputePaths() {
  std::vector<ComputePath> paths;
  for (int i = 1; IsaName(static_cast<CpuIsa>(i)) != "unknown"; ++i) {
    const CpuIsa isa = static_cast<CpuIsa>(i);
    if (!ChooseIsa(isa).ok()) continue;
    // Activations and cache meet in one kernel, attention in bf16, which is that of int8 ones: not
    // every pair of the others is run.
    for (DType type : {DType::kF16, DType::kBf16, DType::kI8, DType::kF8E4M3}) {
      paths.push_back({isa, CpuActivations::kInt8, type});
      if (type == DType::kF16 || type == DType::kI8) {
        paths.push_back({isa, CpuActivations::kF32, type});
      }
      if (type == DType::kF16) paths.push_back({isa, CpuActivations::kInt16, type});
    }
  }
  return paths;
}

struct RunnerShape {
  int32_t num_threads = 1;
  int32_t block_size = 32;
  int32_t max_batch_tokens = 640;
  int32_t max_sequences = 1;
  int64_t cache_tokens = 640;
  int32_t max_context = 0;  // 0: the model's own
};

struct Device {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<DeviceRunner> runner;
};

inline Device MakeDevice(const ComputePath& path, const ModelConfig& config,
                         const WeightSource& weights, const RunnerShape& shape) {
  CpuOptions cpu;
  cpu.isa = path.isa;
  cpu.activations = path.activations;
  cpu.num_threads = shape.num_threads;
  Device device;
  device.backend = CreateCpuBackend(cpu).value();
  RunnerOptions options;
  options.block_size = shape.block_size;
  options.max_batch_tokens = shape.max_batch_tokens;
  options.max_sequences = shape.max_sequences;
  options.max_context = shape.max_context;
  options.kv_cache_type = path.kv_cache_type;
  const int64_t token_bytes = KvCache::BlockBytes(config, 1, path.kv_cache_type);
  options.kv_cache_bytes = token_bytes * (shape.cache_tokens + 2 * shape.block_size);
  device.runner = DeviceRunner::Create(*device.backend, config, weights, options, nullptr).value();
  return device;
}

// Logits [n, vocab_size] of a sequence alone, in one chunk.
inline std::vector<float> LogitsAlone(LogitsRunner& runner, const std::vector<int32_t>& ids) {
  const RunnerLimits limits = runner.limits();
  std::vector<int32_t> table(limits.num_blocks);
  std::iota(table.begin(), table.end(), 0);
  const SamplingParams sampling;
  Batch batch;
  batch.rows.emplace_back();
  batch.rows[0].tokens = ids;
  batch.rows[0].prompt_length = static_cast<int32_t>(ids.size());
  batch.rows[0].num_scheduled = static_cast<int32_t>(ids.size());
  batch.rows[0].block_table = table;
  batch.rows[0].sampling = &sampling;
  batch.num_tokens = static_cast<int32_t>(ids.size());
  std::vector<float> all;
  const absl::Status status =
      runner.RunForLogits(batch, [&](int32_t, int32_t, absl::Span<const float> logits) {
        all.insert(all.end(), logits.begin(), logits.end());
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(all.size(), ids.size() * limits.vocab_size);
  return all;
}

}  // namespace nibble
