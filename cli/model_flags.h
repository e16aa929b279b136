// The flags about a model in this process and the device it runs on: shared by serve, generate,
// eval and bench.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cli/flags.h"
#include "engine/model/device_runner.h"
#include "kernels/backend.h"

namespace nibble {

struct ModelFlags {
  std::string model;  // path of a GGUF file
  CpuOptions cpu;
  RunnerOptions runner;
  int64_t kv_cache_mib = 256;

  // `runner` with the bytes of the cache filled in.
  RunnerOptions Runner() const;
};

// INVALID_ARGUMENT without a path: wrong usage, unlike a file that cannot be opened.
absl::Status CheckModelGiven(const std::string& path);

void AddModelFlag(Flags& flags, ModelFlags& model);    // --model
void AddDeviceFlags(Flags& flags, ModelFlags& model);  // --threads, --cpu-isa, --cpu-activations
void AddCpuFlags(Flags& flags, ModelFlags& model);     // the last two of these
// --max-context, --kv-cache-mib, --block-size, --max-batch-tokens
void AddCacheFlags(Flags& flags, ModelFlags& model);

}  // namespace nibble
