#include "cli/quantize_flags.h"

#include <algorithm>
#include <memory>
#include <regex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "kernels/backend.h"

namespace nibble {
namespace {

constexpr int32_t kMaxThreads = 256;

void AddMethodFlags(Flags& flags, QuantizeFlags& quantize) {
  flags.Add("--method", quantize.method, "How codes are chosen, instead of ggml's way; see below")
      ->type_name("NAME");
  flags
      .Add("--scheme", quantize.scheme,
           "What the codes are, with --method: int4-full-g32 when none is given")
      ->type_name("SCHEME");
  flags
      .Add(
          "--order", quantize.order,
          "GPTQ's order of columns: static-groups (most active first, the default), sequential, or "
          "act-order, which needs a g_idx")
      ->type_name("ORDER");
  flags
      .Add("--layout", quantize.layout,
           "Write a new folder in Hugging Face's layout, not a GGUF file; see below")
      ->type_name("LAYOUT");
  flags.Add("--damping", quantize.damping, "GPTQ's, of the mean of the Hessian's diagonal")
      ->check(CLI::Range(0.0, 1e3));
  flags
      .Add("--smooth-alpha", quantize.smooth_alpha,
           "SmoothQuant's: 1 moves all of the activations' spread into the weights, 0 all of the "
           "weights' into the activations")
      ->check(CLI::Range(0.0, 1.0));
  flags
      .Add("--calibration-windows", quantize.calibration_windows,
           "Windows of the text that are looked at, at most")
      ->check(CLI::Range(1, 1 << 20));
  flags
      .Add("--calibration-length", quantize.calibration_length,
           "Tokens of one window, at most, a budget's too")
      ->check(CLI::Range(2, 1 << 20));
  flags.Add("--seed", quantize.seed, "Of the choice of windows where the text has more");
  flags.Add("--no-resume", quantize.no_resume,
            "Begin anew where an interrupted --method run of this output left finished layers");
}

void AddBudgetFlags(Flags& flags, QuantizeFlags& quantize) {
  flags
      .Add("--byte-budget", quantize.byte_budget,
           "Bytes that all tensors may have: each gets the type of --budget-types that loses least "
           "within them")
      ->type_name("BYTES");
  flags.Add("--sensitivity", quantize.sensitivity,
            "Measure and tell what each type would do to each tensor");
  flags.Add("--budget-types", quantize.budget_types, "Types to choose from")->type_name("TYPE,..");
  flags
      .Add("--budget-windows", quantize.budget_windows,
           "Windows of the text that a tensor's damage is measured on")
      ->check(CLI::Range(1, 1 << 20));
}

}  // namespace

const char kQuantizedTwice[] =
    "the source is quantized already: its error stays and the new one adds to it; quantize the "
    "original F16 or BF16 file where there is one";

std::string QuantizeFooter() {
  return absl::StrCat(R"(
Types: )",
                      absl::StrJoin(MixNames(), ", "), R"(.
A type names a mix, as llama.cpp's: its tables give some tensors more bits. --pure gives every matrix the base type.
--tensor-type overrides both; the first pattern that is found in a tensor's name wins. Rows that are no multiple of
a type's block get the type the warning names. Vectors and norms are copied. q4_k_m when neither --type nor --method
is given.

Methods choose the codes of the layers' linears; embedding and head are the mix's that is named after the blocks the codes
fill. A name of `nibble eval table` (gptq-actorder-int4-asym-g128), or a word, with --scheme:
  rtn          round to nearest: absmax with -sym and -full schemes, zero-point with -asym; looks at no text
  gptq         GPTQ, --order, --damping; gptq-clip: within learned ranges
  awq          AWQ, its scales folded into the norms and rows before; awq-clip: with its clip search
  clip         learned clipping (OmniQuant's)
  smoothquant  half of the activations' spread moved into the weights, then Q8_0; --smooth-alpha, no --scheme
Schemes that a GGUF file holds, g a multiple of 32 or -channel or -tensor, codes as they are chosen:
  int2..int4-sym-gN -full-gN   Q4_0        int5-sym-gN -full-gN         Q5_0        int6..int8-sym-gN -full-gN  Q8_0
  int2..int4-asym-gN           Q4_1        int5-asym-gN                 Q5_1
The text is --calibration, or a sample of 200 kB of English that is built in.

Layouts of a folder (--layout): its config.json, tokenizer and safetensors are what the ecosystem's libraries read
  auto                what suits the method; plain without one
  gptq, gptq-v2       int2, int3, int4, int8 by group or channel; v2 for -asym schemes, whose zero points may be 0
  awq                 int4 by group or channel
  compressed-tensors  int2, int4, int8 by group or channel, e4m3, w8a8, smoothquant
  bitsandbytes        rtn-nf4-b64, -dq for double quantization, fp4; llm-int8
  fp8                 rtn-e4m3-block (DeepSeek's), rtn-e4m3-tensor, e5m2
  plain               F16 or BF16 as the source has them; no --method

A budget is spent by measurement. With each tensor alone at Q4_0 the model reads --budget-windows of the text, once a
tensor; the divergence from the source is that tensor's damage, and that of the other types follows from their square
errors. Types are then chosen for the least sum within --byte-budget ("86MB", "80MiB" or a number), but for the tensors that
--tensor-type names. --sensitivity tells the figures; alone it leaves the types to the mix. Both with --type only.

A --method run that looks at a text keeps each finished layer in OUTPUT.resume. Interrupted, killed or out of disk, the same
command goes on from there to the same bytes; another command, source or text is refused (--no-resume begins anew). What
is damaged there is made again. The folder goes when the output is complete.

The file is complete or absent, and the same bytes for any --threads. Its keys nibble.quantize.* tell the source's
SHA-256, the type, the options and every tensor's error; nibble inspect shows them. An error is
sqrt(sum (x - y)^2 / sum x^2) over the tensor.

JSON: {"model","method","type","dry_run","source_weights_bytes","weights_bytes","bits_per_weight",
"tensors":[{"name","from","to","bytes","relative_error","output_error"},..],"output","output_bytes","source_sha256",
"calibration":{"windows","length"},"sensitivity":[{"name","choices":[{"type","bytes","damage"},..]},..],"seconds",
"peak_bytes"}
With --layout: {"model","method","layout","tensors":[{"name","relative_error","output_error"},..],"output","output_bytes",
"source_sha256","calibration":{"windows","length"},"seconds","peak_bytes"}

Examples
  nibble quantize --model f16.gguf --output q4.gguf --type q4_k_m
  nibble quantize --model folder --output q4.gguf --type q4_k_m --tensor-type 'attn_v=q8_0' --imatrix imatrix.gguf
  nibble quantize --model f16.gguf --output q3.gguf --type q3_k_m --calibration text.txt --imatrix-output i.gguf
  nibble quantize --model folder --output q4.gguf --method gptq --scheme int4-asym-g32 --calibration text.txt
  nibble quantize --model f16.gguf --output mixed.gguf --byte-budget 86MB --calibration text.txt
  nibble quantize --model folder --output folder-gptq --method gptq --scheme int4-full-g128 --layout gptq
  nibble quantize --model f16.gguf --output folder-nf4 --method rtn-nf4-b64-dq --layout auto
  nibble quantize --model f16.gguf --type q2_k --dry-run                    what each tensor would get, and the size
)");
}

void AddQuantizeFlags(Flags& flags, QuantizeFlags& quantize) {
  flags
      .Add("--model", quantize.model,
           "GGUF file, or folder with config.json, tokenizer.json and safetensors")
      ->type_name("PATH");
  // No environment twin: NIBBLE_OUTPUT is the form of other subcommands' results.
  flags.App()
      .add_option("--output", quantize.output,
                  "GGUF file, or with --layout folder, to write (this flag has no twin)")
      ->type_name("FILE");
  flags.Add("--type", quantize.type, "The mix of types; listed below")->type_name("TYPE");
  flags
      .Add("--tensor-type", quantize.tensor_types,
           "Type of the tensors whose name holds a match; may be given again and again")
      ->type_name("REGEX=TYPE");
  flags.Add("--pure", quantize.pure, "Every matrix gets the type's base, output and embedding too");
  flags
      .Add("--imatrix", quantize.imatrix,
           "Importance of the columns, as llama.cpp's imatrix writes it (.gguf or .dat)")
      ->type_name("FILE");
  flags
      .Add("--calibration", quantize.calibration,
           "A text that the source model reads: with --type to measure the importance, with "
           "--method "
           "to see what the linears' inputs are")
      ->type_name("FILE");
  flags
      .Add("--imatrix-output", quantize.imatrix_output,
           "GGUF file that keeps the importance measured, as llama.cpp reads it")
      ->type_name("FILE");
  AddBudgetFlags(flags, quantize);
  AddMethodFlags(flags, quantize);
  flags.Add("--threads", quantize.threads, "0: one a hardware thread this process may use")
      ->check(CLI::Range(0, kMaxThreads));
  flags.Add("--dry-run", quantize.dry_run,
            "Write no model: only say what each tensor would become");
  flags.Add("--overwrite", quantize.overwrite,
            "Replace the output, and --imatrix-output, where they exist");
  flags.AddChoice<OutputFormat>("--output-format", quantize.format,
                                {{"text", OutputFormat::kText}, {"json", OutputFormat::kJson}},
                                "text for people, json for programs");
}

absl::StatusOr<MixInfo> ParseTypeFlag(const std::string& type) {
  absl::StatusOr<MixInfo> mix = ParseMix(type);
  if (mix.ok()) return mix;
  return absl::InvalidArgumentError(absl::StrCat("--type: ", mix.status().message()));
}

absl::StatusOr<TypeOverride> ParseTensorType(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tensor-type: found \"", text, "\", needed REGEX=TYPE"));
  }
  absl::StatusOr<GgmlType> type = ParseEncodableType(text.substr(equals + 1));
  if (!type.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--tensor-type: ", type.status().message()));
  }
  const std::string pattern = text.substr(0, equals);
  try {
    const std::regex compiles(pattern);
  } catch (const std::regex_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tensor-type: \"", pattern, "\" is no regular expression: ", error.what()));
  }
  return TypeOverride{pattern, *type};
}

absl::StatusOr<std::vector<TypeOverride>> ParseTensorTypes(const std::vector<std::string>& texts) {
  std::vector<TypeOverride> entries;
  for (const std::string& text : texts) {
    NIBBLE_ASSIGN_OR_RETURN(TypeOverride entry, ParseTensorType(text));
    entries.push_back(std::move(entry));
  }
  return entries;
}

absl::StatusOr<std::vector<TensorRecipe>> PlanTensors(const SourceTensors& source,
                                                      const RecipeOptions& options) {
  absl::StatusOr<std::vector<TensorRecipe>> recipes = PlanTypes(source, options);
  if (!absl::IsInvalidArgument(recipes.status())) return recipes;
  return absl::InvalidArgumentError(absl::StrCat("--tensor-type: ", recipes.status().message()));
}

// Affinity and the container's limit count. The backend's threads end with this call.
absl::StatusOr<int32_t> NumThreads(int32_t asked) {
  if (asked > 0) return asked;
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, CreateCpuBackend(CpuOptions()));
  return std::max(1, backend->Info().num_threads);
}

void Warn(const Io& io, absl::string_view text) {
  io.err << "nibble: warning: " << text << std::endl;
}

}  // namespace nibble
