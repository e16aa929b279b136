// Which type each tensor of a model gets: the named mixes of llama.cpp ("q4_k_m"), by its tables
// (src/llama-quant.cpp), so that a file of ours has the shape of one of its own.
//
// Quantized are tensors of two or more dimensions named "...weight", but for norms and the gates of
// experts; the rest is copied. Of the mixes' rules those for mixture-of-experts models are left out
// (this program serves none).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/quantize/source_tensors.h"
#include "engine/weights/gguf_file.h"

namespace nibble {

enum class Mix : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ2_K_S,
  kQ3_K_S,
  kQ3_K_M,
  kQ3_K_L,
  kQ4_K_S,
  kQ4_K_M,
  kQ5_K_S,
  kQ5_K_M,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
};

struct MixInfo {
  Mix mix = Mix::kF16;
  std::string name;        // "q4_k_m"
  uint32_t file_type = 0;  // general.file_type
  GgmlType base = GgmlType::kF16;
};

// Letters of either case; "q3_k", "q4_k" and "q5_k" mean the _m mixes. INVALID_ARGUMENT lists the
// names.
absl::StatusOr<MixInfo> ParseMix(absl::string_view name);
std::vector<std::string> MixNames();

// The name of a type that can be encoded, as ggml has it, in either case: "Q6_K". INVALID_ARGUMENT
// lists them.
absl::StatusOr<GgmlType> ParseEncodableType(absl::string_view name);
// ggml's name of any type, "Q6_K".
std::string NameOf(GgmlType type);

struct TypeOverride {
  std::string pattern;  // ECMAScript, searched for within the name
  GgmlType type = GgmlType::kF16;
};

struct RecipeOptions {
  MixInfo mix;
  bool pure = false;                    // every quantized tensor gets the mix's base type
  std::vector<TypeOverride> overrides;  // the first that matches wins, over the mix and over `pure`
  bool has_importance = false;          // some mixes then trust a narrow type earlier
};

struct TensorRecipe {
  std::string name;
  std::vector<int64_t> dims;  // dims[0] is a row's length
  GgmlType source = GgmlType::kF32;
  GgmlType target = GgmlType::kF32;
  bool quantizable = false;  // the mix gives it a type, which may be the one it has
  bool copied = false;       // bytes as they are: not quantizable, or of the type already
  bool quantized = false;    // already, in the source
  std::string note;          // "rows of 72 are no multiple of 256: Q5_0 for Q4_K"; usually empty
};

// One entry a tensor, in the source's order. INVALID_ARGUMENT for a pattern that is no regular
// expression, or is found in no tensor to quantize; UNIMPLEMENTED for a tensor to quantize whose
// type cannot be read.
absl::StatusOr<std::vector<TensorRecipe>> PlanTypes(const SourceTensors& source,
                                                    const RecipeOptions& options);

// Whether a tensor that will be quantized is of a quantized type already, so that its error adds to
// the new one's.
bool SourceIsQuantized(const std::vector<TensorRecipe>& tensors);

}  // namespace nibble
