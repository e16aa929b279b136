#include "kernels/cuda/sampling.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_staging.h"

namespace nibble::cuda {
namespace {

// What a row takes of the workspace.
int64_t BytesOf(const SampleRow& row, int32_t vocab_size, int32_t max_logprobs) {
  return static_cast<int64_t>(sizeof(SampleSettings) + sizeof(DrawnToken) +
                              max_logprobs * sizeof(LikelyToken)) +
         ListBytes(row) + SampleScratchBytes(vocab_size);
}

}  // namespace

void KeepUndrawable(Device& device, const SampleRow& row) {
  device.KeepFault(absl::StrCat("op 'sample' on ", device.name(), ": logits row ", row.logits_row,
                                " has no finite maximum (NaN, infinity or every id forbidden)"));
}

void Sampler::RunRows(Device& device, Workspace& workspace, const SampleParams& params) {
  const auto num_rows = static_cast<int64_t>(params.rows.size());
  const int32_t max_logprobs = MostLogprobs(params.rows);
  const int64_t drawn_bytes = num_rows * static_cast<int64_t>(sizeof(DrawnToken));
  const int64_t likely_bytes = num_rows * max_logprobs * static_cast<int64_t>(sizeof(LikelyToken));
  const auto settings_bytes = params.rows.size() * sizeof(SampleSettings);
  staged_.resize(settings_bytes);
  lists_.clear();
  StageRows(params.rows, reinterpret_cast<SampleSettings*>(staged_.data()), lists_);
  staged_.insert(staged_.end(), lists_.begin(), lists_.end());
  workspace.Reset();
  auto* staged = static_cast<uint8_t*>(workspace.Take(static_cast<int64_t>(staged_.size())));
  auto* results = static_cast<uint8_t*>(workspace.Take(drawn_bytes + likely_bytes));
  device.Upload(staged, staged_.data(), static_cast<int64_t>(staged_.size()));
  SampleCall call;
  call.logits = params.logits.f32();
  call.logits_stride = params.logits.stride;
  call.vocab_size = params.logits.cols;
  call.rows = static_cast<int32_t>(num_rows);
  call.settings = reinterpret_cast<const SampleSettings*>(staged);
  call.seen = reinterpret_cast<const SeenToken*>(staged + settings_bytes);
  call.bias = reinterpret_cast<const BiasedToken*>(staged + settings_bytes);
  call.ids = reinterpret_cast<const int32_t*>(staged + settings_bytes);
  call.scratch = workspace.Take(num_rows * SampleScratchBytes(call.vocab_size));
  call.drawn = reinterpret_cast<DrawnToken*>(results);
  call.drawn_ids = params.drawn;
  call.likely = reinterpret_cast<LikelyToken*>(results + drawn_bytes);
  call.max_logprobs = max_logprobs;
  device.Keep(LaunchSample(call, device.stream()), "sample");

  // Only what a row with log probabilities asked for is written by the kernel, and read here.
  results_.resize(static_cast<size_t>(drawn_bytes + likely_bytes));
  device.Download(results_.data(), results, drawn_bytes + likely_bytes);
  if (device.faulted()) return;
  const auto* drawn = reinterpret_cast<const DrawnToken*>(results_.data());
  const auto* likely = reinterpret_cast<const LikelyToken*>(results_.data() + drawn_bytes);
  for (int64_t i = 0; i < num_rows; ++i) {
    const SampleRow& row = params.rows[i];
    params.out[i] = TokenOf(drawn[i], likely + i * max_logprobs, row.num_logprobs);
    if (drawn[i].id < 0) KeepUndrawable(device, row);
  }
}

void Sampler::Run(Device& device, Workspace& workspace, const SampleParams& params) {
  const int32_t max_logprobs = MostLogprobs(params.rows);
  workspace.Reset();
  // Three pieces.
  const int64_t room = workspace.left_bytes() - 4 * Workspace::kAlignment;
  for (size_t first = 0, end = 0; first < params.rows.size(); first = end) {
    int64_t bytes = 0;
    for (; end < params.rows.size(); ++end) {
      bytes += BytesOf(params.rows[end], params.logits.cols, max_logprobs);
      if (bytes > room) break;
    }
    if (end == first) {
      return device.KeepFault(absl::StrCat("op 'sample' on ", device.name(), ": a row needs ",
                                           bytes, " bytes of workspace, there are ", room));
    }
    SampleParams some = params;
    some.rows = params.rows.subspan(first, end - first);
    some.out = params.out + first;
    if (params.drawn != nullptr) some.drawn = params.drawn + first;
    RunRows(device, workspace, some);
  }
}

}  // namespace nibble::cuda
