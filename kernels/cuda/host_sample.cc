#include "kernels/cuda/host_sample.h"

#include "absl/strings/str_cat.h"
#include "kernels/cpu/sample.h"

namespace nibble::cuda {

void HostSampler::Run(Device& device, const SampleParams& params) {
  const Tensor& logits = params.logits;
  logits_.resize(static_cast<size_t>(logits.rows) * logits.stride);
  device.Download(logits_.data(), logits.data,
                  static_cast<int64_t>(logits_.size() * sizeof(float)));
  if (device.faulted()) return;
  cpu::SampleScratch scratch;
  for (size_t i = 0; i < params.rows.size(); ++i) {
    const SampleRow& row = params.rows[i];
    const float* of_row = logits_.data() + static_cast<size_t>(row.logits_row) * logits.stride;
    if (!cpu::SampleOneRow(cpu::kScalarRowKernels, of_row, logits.cols, row, scratch,
                           &params.out[i])) {
      device.KeepFault(
          absl::StrCat("op 'sample' on ", device.name(), ": logits row ", row.logits_row,
                       " has no finite maximum (NaN, infinity or every id forbidden)"));
    }
  }
}

}  // namespace nibble::cuda
