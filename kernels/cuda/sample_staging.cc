#include "kernels/cuda/sample_staging.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace nibble::cuda {
namespace {

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

// Entries at a multiple of their own size, so that a range can count them from the beginning.
template <class To, class From, class Convert>
ListRange Append(absl::Span<const From> entries, Convert convert, std::vector<uint8_t>& lists) {
  if (entries.empty()) return {};
  const size_t begin = (lists.size() + sizeof(To) - 1) / sizeof(To), end = begin + entries.size();
  lists.resize(end * sizeof(To));
  for (size_t i = 0; i < entries.size(); ++i) {
    const To entry = convert(entries[i]);
    std::memcpy(&lists[(begin + i) * sizeof(To)], &entry, sizeof entry);
  }
  return {static_cast<int32_t>(begin), static_cast<int32_t>(end)};
}

}  // namespace

void StageRows(absl::Span<const SampleRow> rows, SampleSettings* settings,
               std::vector<uint8_t>& lists) {
  const auto same = [](int32_t id) { return id; };
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleRow& row = rows[i];
    settings[i] = SettingsOf(row);
    settings[i].seen = Append<SeenToken>(
        row.seen, [](const TokenCount& t) { return SeenToken{t.id, t.in_prompt, t.in_output}; },
        lists);
    settings[i].bias = Append<BiasedToken>(
        row.bias, [](const LogitBias& b) { return BiasedToken{b.id, b.bias}; }, lists);
    settings[i].allowed = Append<int32_t>(row.allowed, same, lists);
    settings[i].forbidden = Append<int32_t>(row.forbidden, same, lists);
  }
}

int64_t ListBytes(const SampleRow& row) {
  constexpr size_t kGaps = sizeof(SeenToken) + sizeof(BiasedToken) + 2 * sizeof(int32_t);
  return static_cast<int64_t>(kGaps + row.seen.size() * sizeof(SeenToken) +
                              row.bias.size() * sizeof(BiasedToken) +
                              (row.allowed.size() + row.forbidden.size()) * sizeof(int32_t));
}

int32_t MostLogprobs(absl::Span<const SampleRow> rows) {
  int32_t most = 0;
  for (const SampleRow& row : rows) most = std::max(most, row.num_logprobs);
  return most;
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

}  // namespace nibble::cuda
