// What the sampling kernel reads of a step's rows: settings as they were, and lists that its ranges
// find again from the beginning of one buffer.
#include "kernels/cuda/sample_staging.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace nibble::cuda {
namespace {

// The entries of a range, as the kernel finds them.
template <class T>
std::vector<T> Entries(const std::vector<uint8_t>& lists, const ListRange& range) {
  std::vector<T> entries(static_cast<size_t>(range.end - range.begin));
  if (!entries.empty()) {
    EXPECT_LE(static_cast<size_t>(range.end) * sizeof(T), lists.size());
    std::memcpy(entries.data(), &lists[static_cast<size_t>(range.begin) * sizeof(T)],
                entries.size() * sizeof(T));
  }
  return entries;
}

TEST(SampleStaging, ListsOfDifferentTypesShareABuffer) {
  const std::vector<TokenCount> seen = {{3, 1, 0}, {5, 0, 2}, {700, 2, 3}};
  const std::vector<LogitBias> bias = {{9, 8.0f}};
  const std::vector<int32_t> allowed = {5, 9, 11}, forbidden = {400};
  std::vector<SampleRow> rows(4);
  rows[0].forbidden = forbidden;  // so that what follows begins at no multiple of its size
  rows[1].seen = seen;
  rows[1].bias = bias;
  rows[1].allowed = allowed;
  rows[3].seen = seen;
  std::vector<SampleSettings> settings(rows.size());
  std::vector<uint8_t> lists;
  StageRows(rows, settings.data(), lists);
  int64_t most = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(i);
    most += ListBytes(rows[i]);
    const auto found_seen = Entries<SeenToken>(lists, settings[i].seen);
    ASSERT_EQ(found_seen.size(), rows[i].seen.size());
    for (size_t n = 0; n < found_seen.size(); ++n) {
      EXPECT_EQ(found_seen[n].id, rows[i].seen[n].id);
      EXPECT_EQ(found_seen[n].in_prompt, rows[i].seen[n].in_prompt);
      EXPECT_EQ(found_seen[n].in_output, rows[i].seen[n].in_output);
    }
    const auto found_bias = Entries<BiasedToken>(lists, settings[i].bias);
    ASSERT_EQ(found_bias.size(), rows[i].bias.size());
    for (size_t n = 0; n < found_bias.size(); ++n) {
      EXPECT_EQ(found_bias[n].id, rows[i].bias[n].id);
      EXPECT_EQ(found_bias[n].bias, rows[i].bias[n].bias);
    }
    EXPECT_EQ(Entries<int32_t>(lists, settings[i].allowed),
              std::vector<int32_t>(rows[i].allowed.begin(), rows[i].allowed.end()));
    EXPECT_EQ(Entries<int32_t>(lists, settings[i].forbidden),
              std::vector<int32_t>(rows[i].forbidden.begin(), rows[i].forbidden.end()));
  }
  EXPECT_LE(static_cast<int64_t>(lists.size()), most);
}

TEST(SampleStaging, SettingsAreTheRows) {
  SampleRow row;
  row.logits_row = 7;
  row.temperature = 0.5f;
  row.top_k = 3;
  row.top_p = 0.9f;
  row.min_p = 0.1f;
  row.repetition_penalty = 1.1f;
  row.presence_penalty = 0.2f;
  row.frequency_penalty = 0.3f;
  row.seed = uint64_t{1} << 60;
  row.counter = 99;
  row.score_id = 4;
  row.num_logprobs = 5;
  SampleSettings settings;
  std::vector<uint8_t> lists;
  StageRows(absl::MakeConstSpan(&row, 1), &settings, lists);
  EXPECT_TRUE(lists.empty());
  EXPECT_EQ(settings.logits_row, 7);
  EXPECT_EQ(settings.temperature, 0.5f);
  EXPECT_EQ(settings.top_k, 3);
  EXPECT_EQ(settings.top_p, 0.9f);
  EXPECT_EQ(settings.min_p, 0.1f);
  EXPECT_EQ(settings.repetition_penalty, 1.1f);
  EXPECT_EQ(settings.presence_penalty, 0.2f);
  EXPECT_EQ(settings.frequency_penalty, 0.3f);
  EXPECT_EQ(settings.seed, uint64_t{1} << 60);
  EXPECT_EQ(settings.counter, 99u);
  EXPECT_EQ(settings.score_id, 4);
  EXPECT_EQ(settings.num_logprobs, 5);
  EXPECT_EQ(MostLogprobs(absl::MakeConstSpan(&row, 1)), 5);
}

TEST(SampleStaging, AResultHasAsManyAlternativesAsTheVocabulary) {
  const LikelyToken likely[] = {{4, -0.1f}, {2, -3.0f}, {}};
  const SampledToken token = TokenOf({4, -0.1f}, likely, 3);
  EXPECT_EQ(token.id, 4);
  EXPECT_EQ(token.logprob, -0.1f);
  ASSERT_EQ(token.top.size(), 2u);
  EXPECT_EQ(token.top[1].id, 2);
  EXPECT_TRUE(TokenOf({4, 0}, likely, -1).top.empty());
}

}  // namespace
}  // namespace nibble::cuda
