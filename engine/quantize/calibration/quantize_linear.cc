#include "engine/quantize/calibration/quantize_linear.h"

#include "engine/base/status_macros.h"
#include "engine/quantize/methods/gptq.h"
#include "engine/quantize/methods/incoherence.h"
#include "engine/quantize/methods/learned_clipping.h"
#include "engine/quantize/methods/round_to_nearest.h"

namespace nibble::quantize {
namespace {

constexpr float kAwqLeastRange = 0.5f;  // AWQ's: a range is at most halved

absl::StatusOr<QuantizedWeight> Codes(const Method& method, const MatrixF& weight,
                                      const MatrixF& hessian, const LinearOptions& options) {
  ClippingOptions clipping;
  clipping.threads = options.threads;
  switch (method.algorithm) {
    case Algorithm::kClip:
      return LearnClipping(weight, hessian, method.scheme, clipping);
    case Algorithm::kAwq:
      if (!options.clip) break;
      clipping.sweeps = 0;
      clipping.least = kAwqLeastRange;
      return LearnClipping(weight, hessian, method.scheme, clipping);
    case Algorithm::kGptq: {
      GptqOptions gptq;
      gptq.damping = options.damping;
      gptq.order = method.order;
      gptq.threads = options.threads;
      QuantizedWeight tiles;
      if (method.clip) {
        tiles = LearnClipping(weight, hessian, method.scheme, clipping);
        gptq.tiles = &tiles;
      }
      return QuantizeGptq(weight, hessian, method.scheme, gptq);
    }
    default:
      break;
  }
  return RoundToNearest(weight, method.scheme, options.threads);
}

}  // namespace

absl::StatusOr<QuantizedLinear> QuantizeLinear(const Method& method, const MatrixF& weight,
                                               const MatrixF& hessian,
                                               const LinearOptions& options) {
  const auto rows = static_cast<int32_t>(weight.rows()), cols = static_cast<int32_t>(weight.cols());
  NIBBLE_RETURN_IF_ERROR(CheckShape(method.scheme, rows, cols));
  QuantizedLinear result;
  if (!method.incoherent) {
    NIBBLE_ASSIGN_OR_RETURN(result.weight, Codes(method, weight, hessian, options));
    result.values = Dequantize(result.weight);
    return result;
  }
  const Incoherence incoherence(rows, cols, options.seed);
  const MatrixF rotated = hessian.size() > 0 ? incoherence.RotateHessian(hessian) : MatrixF();
  NIBBLE_ASSIGN_OR_RETURN(result.weight,
                          Codes(method, incoherence.Rotate(weight), rotated, options));
  result.values = incoherence.RotateBack(Dequantize(result.weight));
  return result;
}

}  // namespace nibble::quantize
