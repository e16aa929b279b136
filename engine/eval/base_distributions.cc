#include "engine/eval/base_distributions.h"

#include <vector>

#include "engine/batch.h"

namespace nibble {
namespace {

class RunningBase final : public BaseDistributions {
 public:
  RunningBase(LogitsRunner& runner, const WindowOptions& options)
      : runner_(runner), options_(options) {
    const int32_t block_size = runner.limits().block_size;
    for (int32_t b = 0; b * block_size < options.window; ++b) block_table_.push_back(b);
  }

  int32_t vocab_size() const override { return runner_.limits().vocab_size; }
  int32_t max_tokens() const override { return runner_.limits().max_batch_tokens; }
  absl::Status Check(absl::Span<const int32_t> ids, const WindowOptions& options) const override {
    return CheckWindows(runner_.limits(), ids.size(), options);
  }

  absl::Status Run(absl::Span<const int32_t> window, int64_t index, int32_t first, int32_t n,
                   Visitor visit) override {
    Batch batch;
    BatchRow row;
    row.tokens = window;
    row.prompt_length = options_.window;
    row.num_computed = first;
    row.num_scheduled = n;
    row.block_table = block_table_;
    row.sampling = &sampling_;
    row.prompt_scored = options_.FirstScored(index) - 1;
    batch.rows.push_back(row);
    batch.num_tokens = n;
    return runner_.RunForLogits(batch,
                                [&](int32_t, int32_t position, absl::Span<const float> logits) {
                                  visit(position, BaseRow{logits, std::nullopt});
                                });
  }

 private:
  LogitsRunner& runner_;
  const WindowOptions options_;
  const SamplingParams sampling_;
  std::vector<int32_t> block_table_;
};

}  // namespace

std::unique_ptr<BaseDistributions> MakeRunningBase(LogitsRunner& runner,
                                                   const WindowOptions& options) {
  return std::make_unique<RunningBase>(runner, options);
}

}  // namespace nibble
