#include "kernels/cuda/step_graphs.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/sample_staging.h"
#include "kernels/cuda/sampling.h"

namespace nibble::cuda {
namespace {

constexpr auto kSettings = static_cast<int64_t>(sizeof(SampleSettings));
constexpr auto kDrawn = static_cast<int64_t>(sizeof(DrawnToken));
constexpr int64_t kLikely = StepGraphs::kMostLogprobs * static_cast<int64_t>(sizeof(LikelyToken));
static_assert(StepGraphs::kMostRows * (kDrawn + kLikely) <= Device::kResultBytes);

constexpr int64_t Rounded(int64_t bytes) { return (bytes + 15) / 16 * 16; }

// Rows of logits that the workspace has room to draw from at once.
int64_t RowsAtOnce(const Workspace& workspace, int32_t vocab_size) {
  return (workspace.size_bytes() - Workspace::kCounterBytes - Workspace::kAlignment) /
         SampleScratchBytes(vocab_size);
}

}  // namespace

StepGraphs::StepGraphs(Device& device, Workspace& workspace, void* memory)
    : device_(device),
      workspace_(workspace),
      input_(static_cast<uint8_t*>(memory)),
      results_(input_ + kInputBytes) {}

void StepGraphs::Run(StepKey key, absl::FunctionRef<void()> body) {
  replayed_ = nullptr;
  const auto known = steps_.find(key);
  if (known == steps_.end()) {
    if (steps_.size() < kMaxGraphs) counted_ = &steps_[key];
    body();
    counted_ = nullptr;
    return;
  }
  Step& step = known->second;
  if (step.fits && step.graph == nullptr && !device_.faulted()) {
    Capture(step, body);
    step.fits = step.graph != nullptr;  // what cannot be captured runs op by op from now on
  }
  if (step.graph == nullptr || !Stage(step)) return body();
  Launch(step);
}

void StepGraphs::Capture(Step& step, absl::FunctionRef<void()> body) {
  step.pieces.clear();
  step.draws.clear();
  used_ = 0;
  captured_ = &step;
  step.graph = device_.Capture(body);
  captured_ = nullptr;
  // Another body than the first time would have moved the lists.
  NIBBLE_CHECK(step.graph == nullptr || used_ == step.fixed_bytes);
}

bool StepGraphs::Copy(void* device, const void* host, int64_t size_bytes) {
  if (counted_ != nullptr) {
    counted_->fixed_bytes += Rounded(size_bytes);
    counted_->fits &= counted_->fixed_bytes <= kInputBytes;
  }
  if (captured_ == nullptr) return false;
  const int64_t at = Reserve(size_bytes);
  captured_->pieces.push_back({host, size_bytes, at});
  device_.CopyOnDevice(device, input_ + at, size_bytes);
  return true;
}

bool StepGraphs::Sample(const SampleParams& params) {
  const auto num_rows = static_cast<int32_t>(params.rows.size());
  if (counted_ != nullptr) {
    counted_->fixed_bytes += Rounded(num_rows * kSettings);
    counted_->num_rows += num_rows;
    counted_->fits &= counted_->fixed_bytes <= kInputBytes && counted_->num_rows <= kMostRows &&
                      RowsAtOnce(workspace_, params.logits.cols) > 0;
  }
  if (captured_ == nullptr) return false;
  Draw draw;
  draw.rows = params.rows;
  draw.out = params.out;
  draw.settings_at = Reserve(num_rows * kSettings);
  for (const Draw& before : captured_->draws) {
    draw.first_row += static_cast<int32_t>(before.rows.size());
  }
  captured_->draws.push_back(draw);
  const SampleCall whole = CallOf(params, draw);
  const auto most =
      static_cast<int32_t>(std::min<int64_t>(RowsAtOnce(workspace_, params.logits.cols), num_rows));
  for (int32_t first = 0; first < num_rows; first += most) {
    SampleCall call = whole;
    call.rows = std::min(most, num_rows - first);
    call.settings += first;
    call.drawn += first;
    call.likely += int64_t{first} * kMostLogprobs;
    if (call.drawn_ids != nullptr) call.drawn_ids += first;
    device_.Keep(LaunchSample(call, device_.stream()), "sample");
  }
  return true;
}

// Of all rows of a Sample, at the places of the step that is captured.
SampleCall StepGraphs::CallOf(const SampleParams& params, const Draw& draw) const {
  uint8_t* const lists = input_ + captured_->fixed_bytes;
  SampleCall call;
  call.logits = params.logits.f32();
  call.logits_stride = params.logits.stride;
  call.vocab_size = params.logits.cols;
  call.settings = reinterpret_cast<const SampleSettings*>(input_ + draw.settings_at);
  call.seen = reinterpret_cast<const SeenToken*>(lists);
  call.bias = reinterpret_cast<const BiasedToken*>(lists);
  call.ids = reinterpret_cast<const int32_t*>(lists);
  workspace_.Reset();
  const int64_t most = std::min<int64_t>(RowsAtOnce(workspace_, call.vocab_size),
                                         static_cast<int64_t>(params.rows.size()));
  call.scratch = workspace_.Take(most * SampleScratchBytes(call.vocab_size));
  call.drawn = reinterpret_cast<DrawnToken*>(results_) + draw.first_row;
  call.drawn_ids = params.drawn;
  call.likely = reinterpret_cast<LikelyToken*>(results_ + captured_->num_rows * kDrawn) +
                int64_t{draw.first_row} * kMostLogprobs;
  call.max_logprobs = kMostLogprobs;
  return call;
}

int64_t StepGraphs::Reserve(int64_t size_bytes) {
  const int64_t at = used_;
  used_ += Rounded(size_bytes);
  return at;
}

// Lays the step's input into staged_; false when it does not fit.
bool StepGraphs::Stage(const Step& step) {
  staged_.resize(static_cast<size_t>(step.fixed_bytes));
  lists_.clear();
  for (const Piece& piece : step.pieces) {
    std::memcpy(&staged_[piece.at], piece.host, static_cast<size_t>(piece.size_bytes));
  }
  for (const Draw& draw : step.draws) {
    if (MostLogprobs(draw.rows) > kMostLogprobs) return false;
    StageRows(draw.rows, reinterpret_cast<SampleSettings*>(&staged_[draw.settings_at]), lists_);
  }
  staged_.insert(staged_.end(), lists_.begin(), lists_.end());
  return static_cast<int64_t>(staged_.size()) <= kInputBytes;
}

void StepGraphs::Launch(const Step& step) {
  if (!staged_.empty()) {
    device_.Upload(input_, staged_.data(), static_cast<int64_t>(staged_.size()));
  }
  device_.Launch(*step.graph);
  if (step.num_rows == 0) return;
  const bool scored = std::any_of(step.draws.begin(), step.draws.end(),
                                  [](const Draw& d) { return MostLogprobs(d.rows) > 0; });
  arriving_ = device_.StartDownload(results_, step.num_rows * (kDrawn + (scored ? kLikely : 0)));
  replayed_ = &step;
}

void StepGraphs::Deliver() {
  const Step* const step = replayed_;
  replayed_ = nullptr;
  if (step == nullptr || device_.faulted()) return;
  const auto* drawn = reinterpret_cast<const DrawnToken*>(arriving_);
  const auto* likely = reinterpret_cast<const LikelyToken*>(arriving_ + step->num_rows * kDrawn);
  for (const Draw& draw : step->draws) {
    for (size_t i = 0; i < draw.rows.size(); ++i) {
      const auto row = static_cast<int64_t>(draw.first_row + i);
      draw.out[i] = TokenOf(drawn[row], likely + row * kMostLogprobs, draw.rows[i].num_logprobs);
      if (drawn[row].id < 0) KeepUndrawable(device_, draw.rows[i]);
    }
  }
}

}  // namespace nibble::cuda
