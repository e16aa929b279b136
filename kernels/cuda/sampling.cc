#include "kernels/cuda/sampling.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/sample.h"

namespace nibble::cuda {
namespace {

int32_t MostLogprobs(absl::Span<const SampleRow> rows) {
  int32_t most = 0;
  for (const SampleRow& row : rows) most = std::max(most, row.num_logprobs);
  return most;
}

// What a row takes of the workspace.
int64_t BytesOf(const SampleRow& row, int32_t vocab_size, int32_t max_logprobs) {
  const size_t lists = row.seen.size() * sizeof(SeenToken) + row.bias.size() * sizeof(BiasedToken) +
                       (row.allowed.size() + row.forbidden.size()) * sizeof(int32_t);
  return static_cast<int64_t>(sizeof(SampleSettings) + lists + sizeof(DrawnToken) +
                              max_logprobs * sizeof(LikelyToken)) +
         int64_t{vocab_size} * static_cast<int64_t>(sizeof(float));
}

// One of a launch's lists, in which each row has a range.
template <class T>
class List {
 public:
  template <class From, class Convert>
  ListRange Add(absl::Span<const From> entries, Convert convert) {
    const auto begin = static_cast<int32_t>(entries_.size());
    for (const From& entry : entries) entries_.push_back(convert(entry));
    return {begin, static_cast<int32_t>(entries_.size())};
  }
  void Add(const T& entry) { entries_.push_back(entry); }

  // Appends the entries to a buffer; where they lie in it.
  size_t AppendTo(std::vector<uint8_t>& buffer) const {
    constexpr size_t kAlign = 16;
    const size_t at = (buffer.size() + kAlign - 1) / kAlign * kAlign;
    const size_t bytes = entries_.size() * sizeof(T);
    buffer.resize(at + bytes);
    if (bytes > 0) std::memcpy(&buffer[at], entries_.data(), bytes);
    return at;
  }

 private:
  std::vector<T> entries_;
};

SampleSettings SettingsOf(const SampleRow& row) {
  SampleSettings settings;
  settings.logits_row = row.logits_row;
  settings.temperature = row.temperature;
  settings.top_k = row.top_k;
  settings.top_p = row.top_p;
  settings.min_p = row.min_p;
  settings.repetition_penalty = row.repetition_penalty;
  settings.presence_penalty = row.presence_penalty;
  settings.frequency_penalty = row.frequency_penalty;
  settings.seed = row.seed;
  settings.counter = row.counter;
  settings.score_id = row.score_id;
  settings.num_logprobs = row.num_logprobs;
  return settings;
}

// Rows and lists of a launch as one buffer, and where each lies.
struct Layout {
  size_t settings = 0, seen = 0, bias = 0, ids = 0;
};

Layout Stage(absl::Span<const SampleRow> rows, std::vector<uint8_t>& buffer) {
  List<SampleSettings> settings;
  List<SeenToken> seen;
  List<BiasedToken> bias;
  List<int32_t> ids;
  const auto same = [](int32_t id) { return id; };
  for (const SampleRow& row : rows) {
    SampleSettings of_row = SettingsOf(row);
    of_row.seen = seen.Add(
        row.seen, [](const TokenCount& t) { return SeenToken{t.id, t.in_prompt, t.in_output}; });
    of_row.bias = bias.Add(row.bias, [](const LogitBias& b) { return BiasedToken{b.id, b.bias}; });
    of_row.allowed = ids.Add(row.allowed, same);
    of_row.forbidden = ids.Add(row.forbidden, same);
    settings.Add(of_row);
  }
  buffer.clear();
  Layout layout;
  layout.settings = settings.AppendTo(buffer);
  layout.seen = seen.AppendTo(buffer);
  layout.bias = bias.AppendTo(buffer);
  layout.ids = ids.AppendTo(buffer);
  return layout;
}

SampledToken TokenOf(const DrawnToken& drawn, const LikelyToken* likely, int32_t num_logprobs) {
  SampledToken token;
  token.id = drawn.id;
  token.logprob = drawn.logprob;
  for (int32_t n = 0; n < num_logprobs && likely[n].id >= 0; ++n) {
    token.top.push_back({likely[n].id, likely[n].logprob});
  }
  return token;
}

}  // namespace

void Sampler::RunRows(Device& device, Workspace& workspace, const SampleParams& params) {
  const Layout layout = Stage(params.rows, staged_);
  const auto num_rows = static_cast<int64_t>(params.rows.size());
  const int32_t max_logprobs = MostLogprobs(params.rows);
  const int64_t drawn_bytes = num_rows * static_cast<int64_t>(sizeof(DrawnToken));
  const int64_t likely_bytes = num_rows * max_logprobs * static_cast<int64_t>(sizeof(LikelyToken));
  workspace.Reset();
  auto* staged = static_cast<uint8_t*>(workspace.Take(static_cast<int64_t>(staged_.size())));
  auto* results = static_cast<uint8_t*>(workspace.Take(drawn_bytes + likely_bytes));
  device.Upload(staged, staged_.data(), static_cast<int64_t>(staged_.size()));
  SampleCall call;
  call.logits = params.logits.f32();
  call.logits_stride = params.logits.stride;
  call.vocab_size = params.logits.cols;
  call.rows = static_cast<int32_t>(num_rows);
  call.settings = reinterpret_cast<const SampleSettings*>(staged + layout.settings);
  call.seen = reinterpret_cast<const SeenToken*>(staged + layout.seen);
  call.bias = reinterpret_cast<const BiasedToken*>(staged + layout.bias);
  call.ids = reinterpret_cast<const int32_t*>(staged + layout.ids);
  call.adjusted = static_cast<float*>(workspace.Take(num_rows * call.vocab_size * 4));
  call.drawn = reinterpret_cast<DrawnToken*>(results);
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
    if (drawn[i].id >= 0) continue;
    device.KeepFault(absl::StrCat("op 'sample' on ", device.name(), ": logits row ", row.logits_row,
                                  " has no finite maximum (NaN, infinity or every id forbidden)"));
  }
}

void Sampler::Run(Device& device, Workspace& workspace, const SampleParams& params) {
  const int32_t max_logprobs = MostLogprobs(params.rows);
  workspace.Reset();
  // Three pieces, and four lists in the first of them.
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
    RunRows(device, workspace, some);
  }
}

}  // namespace nibble::cuda
