#include "cli/model_flags.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace nibble {

RunnerOptions ModelFlags::Runner() const {
  RunnerOptions options = runner;
  options.kv_cache_bytes = kv_cache_mib << 20;
  return options;
}

std::string PackedCachePath(const std::string& flag, const std::string& model,
                            const std::string& layout) {
  if (flag == "off" || flag.empty()) return "";
  const std::string file = model + ".nibble-" + layout + ".packed";
  if (flag == "auto") return file;
  std::error_code no_error;  // a path that cannot be looked at is taken for a file's
  if (!std::filesystem::is_directory(flag, no_error)) return flag;
  return std::filesystem::path(flag) / std::filesystem::path(file).filename();
}

std::vector<std::pair<std::string, CpuActivations>> CpuActivationKinds() {
  return {{"int8", CpuActivations::kInt8},
          {"int16", CpuActivations::kInt16},
          {"f32", CpuActivations::kF32}};
}

std::string CpuActivationsName(CpuActivations activations) {
  for (const auto& [name, value] : CpuActivationKinds()) {
    if (value == activations) return name;
  }
  return "unknown";
}

std::vector<std::pair<std::string, DType>> KvCacheTypes() {
  return {
      {"f16", DType::kF16}, {"bf16", DType::kBf16}, {"int8", DType::kI8}, {"fp8", DType::kF8E4M3}};
}

std::string KvCacheTypeName(DType type) {
  for (const auto& [name, value] : KvCacheTypes()) {
    if (value == type) return name;
  }
  return "unknown";
}

absl::Status CheckModelGiven(const std::string& path) {
  if (!path.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--model: found nothing, needed a GGUF file or a model folder; `make model` brings one into "
      "models/");
}

absl::Status Validate(const ModelFlags& model) {
  const bool on_cpu = model.device == "cpu";
  const bool on_gpu = model.device != "cpu" && model.device != "auto";
  const auto lost = [&](const char* flag, const std::string& found, const char* needed) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": found with ", found, ", needed with ", needed));
  };
  const std::string device = "--device " + model.device;
  if (model.cuda_w8a8 && on_cpu) return lost("--cuda-w8a8", device, "--device cuda:N");
  if (model.cuda_dependent_launches && on_cpu) {
    return lost("--cuda-dependent-launches", device, "--device cuda:N");
  }
  if (model.cuda_wide_rows && on_cpu) return lost("--cuda-wide-rows", device, "--device cuda:N");
  if (!model.share_weights) return absl::OkStatus();
  if (on_gpu) return lost("--share-weights", device, "--device cpu");
  if (model.packed_cache == "off" || model.packed_cache.empty()) {
    return lost("--share-weights", "--packed-cache off", "--packed-cache auto, a file or a folder");
  }
  return absl::OkStatus();
}

void AddModelFlag(Flags& flags, ModelFlags& model) {
  flags
      .Add("--model", model.model,
           "GGUF file, folder with config.json and safetensors, or random:SHAPE:FORMAT[:SEED] for "
           "weights from a seed (random: alone lists them)")
      ->type_name("PATH");
}

absl::StatusOr<DeviceChoice> ParseDevice(const std::string& device) {
  using Kind = DeviceChoice::Kind;
  if (device == "cpu") return DeviceChoice{Kind::kCpu, 0};
  if (device == "auto") return DeviceChoice{Kind::kAuto, 0};
  if (device == "cuda") return DeviceChoice{Kind::kCuda, 0};
  absl::string_view rest = device;
  int32_t ordinal = 0;
  if (absl::ConsumePrefix(&rest, "cuda:") && absl::SimpleAtoi(rest, &ordinal) && ordinal >= 0) {
    return DeviceChoice{Kind::kCuda, ordinal};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("found '", device, "', needed auto, cpu or cuda:N"));
}

void AddDeviceFlag(Flags& flags, ModelFlags& model) {
  flags.AddCheck([&model] { return Validate(model); });
  flags
      .Add("--device", model.device,
           "Where the model runs. On cuda:N (kernels/cuda/README.md) activations "
           "are f16, or bf16 with --kv-cache-type bf16; auto: cuda:0 where it is "
           "usable, otherwise cpu")
      ->check([](const std::string& device) {
        return std::string(ParseDevice(device).status().message());
      })
      ->type_name("auto|cpu|cuda:N");
  flags.Add("--cuda-w8a8", model.cuda_w8a8,
            "With --device cuda: multiply int8 weights by row, and fp8 ones on a device with FP8 "
            "units, with activations quantized to 8 bits a token; otherwise weights are "
            "dequantized");
  flags.Add("--cuda-dependent-launches", model.cuda_dependent_launches,
            "On devices of compute capability 9.0: kernels of 4-bit weights start before the "
            "kernels before them end, to fetch their first weights");
  flags.Add("--cuda-wide-rows", model.cuda_wide_rows,
            "With --device cuda: multiply the rows of steps of more than 64 tokens all at once, by "
            "weights dequantized for it, and not 64 at a time. An answer may then differ in its "
            "last bits, and so in its words, with what else is in the batch");
}

void AddDeviceFlags(Flags& flags, ModelFlags& model) {
  AddDeviceFlag(flags, model);
  flags
      .Add("--threads", model.cpu.num_threads,
           "CPU threads; 0: one a hardware thread this process may use")
      ->check(CLI::Range(0, 256));
  AddArithmeticFlags(flags, model);
  flags
      .Add(
          "--packed-cache", model.packed_cache,
          "Keep the packed weights in a file, which the next start takes instead of packing again: "
          "auto (beside the model), a file or a directory; off: none")
      ->type_name("off|auto|FILE|DIR");
  flags.Add("--share-weights", model.share_weights,
            "On the CPU, with --packed-cache: use that file in place. Its memory is shared by all "
            "processes that do so, and comes in small pages, which are slower to read than a copy");
  flags.AddChoice<CpuNuma>("--numa", model.cpu.numa,
                           {{"auto", CpuNuma::kAuto}, {"off", CpuNuma::kOff}},
                           "auto: on a machine with several NUMA nodes, keep threads on nodes and "
                           "spread weights and cache over them; off: leave it to the system");
}

void AddArithmeticFlags(Flags& flags, ModelFlags& model, const std::string& prefix) {
  const std::string whose = prefix == "--" ? "" : "Base: ";
  flags.AddChoice<CpuIsa>(
      prefix + "cpu-isa", model.cpu.isa,
      {{"auto", CpuIsa::kAuto},
       {"scalar", CpuIsa::kScalar},
       {"avx2", CpuIsa::kAvx2},
       {"avx512", CpuIsa::kAvx512},
       {"avx_vnni", CpuIsa::kAvxVnni},
       {"avx512_vnni", CpuIsa::kAvx512Vnni},
       {"avx512_vnni_bf16", CpuIsa::kAvx512VnniBf16},
       {"neon_dotprod", CpuIsa::kNeonDotprod}},
      whose + "Instruction set of the kernels; one the machine lacks is refused");
  flags.AddChoice<CpuActivations>(
      prefix + "cpu-activations", model.cpu.activations, CpuActivationKinds(),
      whose +
          "int8: fast, and on avx512_vnni_bf16 attention multiplies in bf16; int16: nearly exact, "
          "almost as fast for one sequence, slower for prompts; f32: the exact path, for "
          "comparisons");
}

void AddKvCacheTypeFlag(Flags& flags, ModelFlags& model, const std::string& prefix) {
  flags.AddChoice<DType>(prefix + "kv-cache-type", model.runner.kv_cache_type, KvCacheTypes(),
                         "What the KV cache holds; int8 and fp8 (e4m3) take half the bytes, and a "
                         "scale for each token and head");
}

void AddBlockSizeFlag(Flags& flags, ModelFlags& model) {
  flags.Add("--block-size", model.runner.block_size, "Tokens in one block of the cache")
      ->check(CLI::IsMember(std::vector<int32_t>{8, 16, 32, 64, 128, 256}));
}

void AddCacheFlags(Flags& flags, ModelFlags& model) {
  flags
      .Add("--max-context", model.runner.max_context,
           "Tokens of one sequence, prompt and completion; 0: the model's own, or what the cache "
           "holds if that is less")
      ->check(CLI::Range(0, 1 << 24));
  flags
      .Add("--kv-cache-mib", model.kv_cache_mib, "Memory of the KV cache, shared by all sequences")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  AddKvCacheTypeFlag(flags, model);
  AddBlockSizeFlag(flags, model);
  flags
      .Add("--max-batch-tokens", model.runner.max_batch_tokens,
           "Token budget of one step: bounds how long a decode waits for someone's prompt")
      ->check(CLI::Range(1, 1 << 16));
}

}  // namespace nibble
