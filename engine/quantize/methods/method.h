// The methods by name: what happens to the linears of a model's layers, their inputs, and where
// asked for its embedding and head.
//
//   rtn-SCHEME                 round to nearest (round_to_nearest.h); schemes: scheme.h
//   gptq-SCHEME                GPTQ (gptq.h); gptq-actorder-SCHEME with static groups,
//                              gptq-gidx-SCHEME without; gptq-clip-SCHEME with learned ranges
//   awq-SCHEME                 AWQ (awq.h); awq-clip-SCHEME with its clip search
//   clip-SCHEME                learned clipping (learned_clipping.h)
//   qat-SCHEME                 quantization-aware training (training/quantization_aware.h)
//   incoherent-rtn-SCHEME      any of rtn, gptq, clip in rotated space (incoherence.h)
//   w8a8                       int8 weights a row, int8 activations a token (linear_op.h)
//   w8a8-static-RULE           one activation scale a linear, by a rule of activation_range.h
//   smoothquant[-static-RULE]  the same after SmoothQuant (smooth_quant.h), alpha 0.5
//   llm-int8                   LLM.int8() (linear_op.h)
//
// "+head" at the end of rtn: embedding and output too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/quantize/methods/activation_range.h"
#include "engine/quantize/methods/gptq.h"
#include "engine/quantize/methods/scheme.h"

namespace nibble::quantize {

enum class Algorithm : uint8_t { kRound, kGptq, kAwq, kClip, kSmoothQuant, kTrain, kNone };
enum class Activations : uint8_t { kF32, kInt8, kOutliersApart };

struct Method {
  std::string name;
  Algorithm algorithm = Algorithm::kRound;
  Scheme scheme;
  ColumnOrder order = ColumnOrder::kAsStored;
  bool clip = false;
  bool incoherent = false;
  bool head = false;
  Activations activations = Activations::kF32;
  std::optional<RangeRule> static_range;  // of activations; absent: a scale a token
};

// INVALID_ARGUMENT quotes the name and says what there is.
absl::StatusOr<Method> ParseMethod(absl::string_view name);

// True when it has to see inputs of the layers, that is, calibration text.
bool NeedsCalibration(const Method& method);

}  // namespace nibble::quantize
