#include "cli/model_flags.h"

namespace nibble {

RunnerOptions ModelFlags::Runner() const {
  RunnerOptions options = runner;
  options.kv_cache_bytes = kv_cache_mib << 20;
  return options;
}

absl::Status CheckModelGiven(const std::string& path) {
  if (!path.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--model: found nothing, needed a GGUF file; `make model` brings one into models/");
}

void AddModelFlag(Flags& flags, ModelFlags& model) {
  flags.Add("--model", model.model, "GGUF file of the model")->type_name("FILE");
}

void AddDeviceFlags(Flags& flags, ModelFlags& model) {
  flags.Add("--threads", model.cpu.num_threads, "CPU threads; 0: one a core this process may use")
      ->check(CLI::Range(0, 256));
  AddCpuFlags(flags, model);
}

void AddCpuFlags(Flags& flags, ModelFlags& model) {
  flags.AddChoice<CpuIsa>("--cpu-isa", model.cpu.isa,
                          {{"auto", CpuIsa::kAuto},
                           {"scalar", CpuIsa::kScalar},
                           {"avx2", CpuIsa::kAvx2},
                           {"avx512_vnni", CpuIsa::kAvx512Vnni}},
                          "Instruction set of the kernels");
  flags.AddChoice<CpuActivations>("--cpu-activations", model.cpu.activations,
                                  {{"int8", CpuActivations::kInt8}, {"f32", CpuActivations::kF32}},
                                  "int8: fast; f32: the exact path, for comparisons");
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
  flags
      .Add("--block-size", model.runner.block_size,
           "Tokens in one block of the cache: a power of two, 8 to 256")
      ->check(CLI::Range(8, 256));
  flags
      .Add("--max-batch-tokens", model.runner.max_batch_tokens,
           "Token budget of one step: bounds how long a decode waits for someone's prompt")
      ->check(CLI::Range(1, 1 << 16));
}

}  // namespace nibble
