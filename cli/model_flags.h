// The flags about a model in this process and the device it runs on: shared by serve, generate,
// eval and bench.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/flags.h"
#include "engine/model/device_runner.h"
#include "kernels/backend.h"

namespace nibble {

struct ModelFlags {
  std::string model;           // path of a GGUF file
  std::string device = "cpu";  // as ParseDevice takes it
  bool cuda_w8a8 = false;
  CpuOptions cpu;
  bool cuda_dependent_launches = false;
  bool cuda_wide_rows = false;
  RunnerOptions runner;
  int64_t kv_cache_mib = 256;
  std::string packed_cache = "off";  // or "auto", a file, a directory
  bool share_weights = false;

  // `runner` with the bytes of the cache filled in.
  RunnerOptions Runner() const;
};

// The file that --packed-cache `flag` means for a model and the name of a packed layout: none
// (empty) for "off"; MODEL.nibble-LAYOUT.packed beside the model for "auto", in `flag` where that
// is a directory; otherwise `flag`.
std::string PackedCachePath(const std::string& flag, const std::string& model,
                            const std::string& layout);

// The words of --cpu-activations.
std::vector<std::pair<std::string, CpuActivations>> CpuActivationKinds();
std::string CpuActivationsName(CpuActivations activations);

// The words of --kv-cache-type.
std::vector<std::pair<std::string, DType>> KvCacheTypes();
std::string KvCacheTypeName(DType type);

// "cpu", "cuda:N" ("cuda" is cuda:0), or "auto": cuda:0 where there is one to use, otherwise the
// CPU.
struct DeviceChoice {
  enum class Kind : uint8_t { kAuto, kCpu, kCuda } kind = Kind::kCpu;
  int32_t ordinal = 0;  // kCuda
};
// INVALID_ARGUMENT for other words; the flag's own check, so wrong usage.
absl::StatusOr<DeviceChoice> ParseDevice(const std::string& device);

// INVALID_ARGUMENT for a flag that would do nothing beside the others. AddDeviceFlag makes it a
// check of the subcommand.
absl::Status Validate(const ModelFlags& model);

// INVALID_ARGUMENT without a path: wrong usage, unlike a file that cannot be opened.
absl::Status CheckModelGiven(const std::string& path);

void AddModelFlag(Flags& flags, ModelFlags& model);  // --model
// --device, --cuda-w8a8, --cuda-dependent-launches, --cuda-wide-rows
void AddDeviceFlag(Flags& flags, ModelFlags& model);
// Those, --threads, --packed-cache, --share-weights, --numa and those of AddArithmeticFlags
void AddDeviceFlags(Flags& flags, ModelFlags& model);
// What may change a result: --cpu-isa, --cpu-activations; "--base-cpu-isa".. with prefix "--base-".
void AddArithmeticFlags(Flags& flags, ModelFlags& model, const std::string& prefix = "--");
// --kv-cache-type; "--base-kv-cache-type" with prefix "--base-".
void AddKvCacheTypeFlag(Flags& flags, ModelFlags& model, const std::string& prefix = "--");
void AddBlockSizeFlag(Flags& flags, ModelFlags& model);  // --block-size
// --max-context, --kv-cache-mib, --kv-cache-type, --block-size, --max-batch-tokens
void AddCacheFlags(Flags& flags, ModelFlags& model);

}  // namespace nibble
