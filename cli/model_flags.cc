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
  AddArithmeticFlags(flags, model);
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
  flags.AddChoice<CpuActivations>(prefix + "cpu-activations", model.cpu.activations,
                                  {{"int8", CpuActivations::kInt8}, {"f32", CpuActivations::kF32}},
                                  whose + "int8: fast; f32: the exact path, for comparisons");
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
