#include "kernels/cpu/planned_bytes.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/packed_matrix.h"

namespace nibble::cpu {

int64_t PlannedBytes(const PlannedMatrix& planned, CpuActivations activations) {
  const bool floats =
      planned.format == quant::Format::kBf16 || planned.format == quant::Format::kF32;
  quant::Matrix matrix;
  matrix.format = planned.format;
  matrix.rows = planned.rows;
  matrix.cols = planned.cols;
  matrix.group = planned.group == 0 && !floats ? planned.cols : planned.group;
  if (planned.offsets) matrix.offsets.push_back(0);  // only whether there are any counts
  const PackFacts facts{.scales_fit_f16 = !planned.f32_scales,
                        .scales_fit_e8m0 = true,
                        .offsets_are_a_zero_point = planned.zero_point,
                        .words_serve = activations == CpuActivations::kInt8};
  const auto sections = CpuMatrix::SectionBytes(ChooseShape(matrix, planned.rows, facts));
  return std::accumulate(sections.begin(), sections.end(), int64_t{0});
}

absl::Status CheckMemoryPlan(const MemoryPlan& plan, CpuActivations activations,
                             int64_t free_bytes) {
  int64_t weights = plan.weights;
  for (const PlannedMatrix& matrix : plan.matrices) weights += PlannedBytes(matrix, activations);
  const int64_t needed = weights + plan.kv_cache + plan.activations;
  if (needed <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "memory: weights ", weights, " + KV cache ", plan.kv_cache, " + activations ",
      plan.activations, " = ", needed, " bytes needed, ", free_bytes,
      " free to this process; give the cache less (--kv-cache-mib) or take a smaller model"));
}

}  // namespace nibble::cpu
