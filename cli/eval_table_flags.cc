// The flags of `nibble eval table`.
#include "cli/eval_table.h"

namespace nibble {
namespace {

constexpr char kDefaultMethods[] =
    "rtn-int8-sym-channel,rtn-e4m3-channel,rtn-nf4-b64,rtn-nf4-b64-dq,rtn-int4-full-g128,"
    "rtn-int4-asym-g128,gptq-actorder-int4-full-g128,gptq-actorder-int4-asym-g128,"
    "awq-clip-int4-asym-g128,ggml-q8_0,ggml-q4_k_m,ggml-q4_0";

}  // namespace

TableFlags::TableFlags() : methods(kDefaultMethods) {
  model.cpu.activations = CpuActivations::kF32;
}

void AddTableFlags(Flags& flags, TableFlags& table) {
  AddModelFlag(flags, table.model);
  AddTextFlags(flags, table.text);
  flags.Add("--methods", table.methods, "What to compare, separated by commas")
      ->type_name("NAME,..");
  flags.Add("--calibration", table.calibration, "UTF-8 text that methods may look at")
      ->type_name("FILE");
  flags.Add("--calibration-windows", table.calibration_windows, "Windows of it, at most")
      ->check(CLI::Range(1, 1 << 20));
  flags.Add("--damping", table.damping, "GPTQ's, of the mean of the Hessian's diagonal")
      ->check(CLI::Range(0.0, 1e3));
  flags
      .Add("--smooth-alpha", table.smooth_alpha,
           "SmoothQuant's: 1 moves all of the activations' spread into the weights, 0 all of the "
           "weights' into the activations")
      ->check(CLI::Range(0.0, 1.0));
  flags.Add("--seed", table.seed, "Of rotations, and of the order in which qat sees windows");
  flags.Add("--qat-steps", table.training.steps, "Steps of qat; 0 rounds to nearest")
      ->check(CLI::Range(0, quantize::kMaxTrainingSteps));
  flags.Add("--qat-batch", table.training.batch, "Calibration windows that a step of qat sees")
      ->check(CLI::Range(1, 1024));
  flags.Add("--qat-learning-rate", table.training.learning_rate, "Of qat's first step; falls to 0")
      ->check(CLI::Range(0.0, 1.0));
  flags.Add("--decode-tokens", table.decode_tokens, "Tokens to measure decoding by; 0: do not")
      ->check(CLI::Range(0, 1 << 16));
  flags
      .Add("--threads", table.model.cpu.num_threads,
           "CPU threads; 0: one a hardware thread this process may use")
      ->check(CLI::Range(0, 256));
  AddOutputFlag(flags, table.output);
}

}  // namespace nibble
