#include "engine/model/sample_plan.h"

#include <algorithm>
#include <utility>

namespace nibble {
namespace {

bool HasPenalty(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 ||
         params.frequency_penalty != 0;
}

}  // namespace

SamplePlan::SamplePlan(const RunnerLimits& limits)
    : extras_(limits.max_sequences), index_of_id_(limits.vocab_size, -1) {
  const int32_t most = limits.max_batch_tokens + limits.max_sequences;
  rows_.reserve(most);
  token_rows_.reserve(most);
  sequences_.reserve(most);
  outputs_.reserve(most);
}

void SamplePlan::Fill(const Batch& batch, int32_t rows_at_once) {
  rows_.clear();
  token_rows_.clear();
  sequences_.clear();
  int32_t first_token = 0;
  for (size_t s = 0; s < batch.rows.size(); ++s) {
    const BatchRow& row = batch.rows[s];
    const int32_t sequence = static_cast<int32_t>(s);
    if (row.prompt_logprobs >= 0) AddPrompt(row, sequence, first_token);
    first_token += row.num_scheduled;
    if (row.sample) AddDraw(row, sequence, first_token - 1);
  }
  for (int32_t i = 0; i < size(); ++i) rows_[i].logits_row = i % rows_at_once;
  outputs_.clear();
  outputs_.resize(rows_.size());
}

void SamplePlan::AddPrompt(const BatchRow& row, int32_t sequence, int32_t first_token) {
  // The logits at position p say how likely the token at p + 1 was.
  const int32_t begin = std::max(row.num_computed, row.prompt_scored);
  const int32_t end = std::min(row.num_computed + row.num_scheduled, row.prompt_length - 1);
  for (int32_t p = begin; p < end; ++p) {
    SampleRow score;
    score.score_id = row.tokens[p + 1];
    score.num_logprobs = row.prompt_logprobs;
    Add(score, sequence, first_token + p - row.num_computed);
  }
}

void SamplePlan::AddDraw(const BatchRow& row, int32_t sequence, int32_t last_token) {
  const SamplingParams& params = *row.sampling;
  Extras& extras = extras_[sequence];
  SampleRow draw;
  draw.temperature = params.temperature;
  draw.top_k = params.top_k;
  draw.top_p = params.top_p;
  draw.min_p = params.min_p;
  draw.repetition_penalty = params.repetition_penalty;
  draw.presence_penalty = params.presence_penalty;
  draw.frequency_penalty = params.frequency_penalty;
  draw.seed = params.seed.value_or(0);
  draw.counter = static_cast<uint64_t>(row.num_computed) + row.num_scheduled;
  draw.num_logprobs = row.logprobs;
  if (HasPenalty(params)) {
    CountSeen(row, &extras.seen);
    draw.seen = extras.seen;
  }
  if (!params.logit_bias.empty()) {
    extras.bias.clear();
    for (const auto& [id, bias] : params.logit_bias) extras.bias.push_back({id, bias});
    draw.bias = extras.bias;
  }
  draw.allowed = params.allowed_token_ids;
  draw.forbidden = row.forbidden;
  Add(draw, sequence, last_token);
}

void SamplePlan::CountSeen(const BatchRow& row, std::vector<TokenCount>* seen) {
  seen->clear();
  const int32_t context = row.num_computed + row.num_scheduled;
  for (int32_t position = 0; position < context; ++position) {
    int32_t& index = index_of_id_[row.tokens[position]];
    if (index < 0) {
      index = static_cast<int32_t>(seen->size());
      seen->push_back({row.tokens[position], 0, 0});
    }
    TokenCount& count = (*seen)[index];
    ++(position < row.prompt_length ? count.in_prompt : count.in_output);
  }
  for (const TokenCount& count : *seen) index_of_id_[count.id] = -1;
}

void SamplePlan::Add(const SampleRow& row, int32_t sequence, int32_t token_row) {
  rows_.push_back(row);
  token_rows_.push_back(token_row);
  sequences_.push_back(sequence);
}

void SamplePlan::Deliver(StepResult* result) {
  for (size_t i = 0; i < rows_.size(); ++i) {
    Logprob logprob;
    logprob.id = outputs_[i].id;
    logprob.logprob = outputs_[i].logprob;
    logprob.top.reserve(outputs_[i].top.size());
    for (const TokenLogprob& top : outputs_[i].top) logprob.top.emplace_back(top.id, top.logprob);
    RowResult& row = result->rows[sequences_[i]];
    if (rows_[i].score_id >= 0) {
      row.prompt_logprobs.push_back(std::move(logprob));
    } else {
      row.sampled = std::move(logprob);
    }
  }
}

}  // namespace nibble
