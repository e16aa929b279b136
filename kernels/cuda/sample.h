// Drawing tokens on the device, as SampleRow in kernels/ops.h says, for all rows of a step at once.
//
// Nothing is sorted and nothing is kept but the logits: a block a row goes over it several times.
// top_k and top_p are cuts at a logit, found by bisection of its bits, two bits a pass; among equal
// logits at the cut the lowest ids stay. Probabilities are f32 relative to the largest, their sums
// fixed-point integers of 2^-44, exact in any order, so that a row's draw depends on the row alone.
//
// The same draw as the CPU backend's (same Philox words, same order of ids) unless the uniform
// number or a share of top_p falls within about 1e-6 of the boundary between two ids, where the two
// backends' exponentials differ.
//
// Passes over a row of vocab_size f32: greedy 1; temperature alone 3; top_k and top_p 16 to 18 more
// each; logprobs 1 and one for each of num_logprobs. Rows that are adjusted are copied first. At
// one row a single multiprocessor works. Needs sm_80. Has run on sm_90 alone, an H200.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace nibble::cuda {

// Entries begin .. end - 1 of one of SampleCall's lists.
struct ListRange {
  int32_t begin = 0, end = 0;
};

// TokenCount and LogitBias of kernels/ops.h.
struct SeenToken {
  int32_t id = 0, in_prompt = 0, in_output = 0;
};
struct BiasedToken {
  int32_t id = 0;
  float bias = 0;
};

// SampleRow of kernels/ops.h, on the device. REQUIRES its ranges of values, ids within the
// vocabulary, and of `seen` and `bias` no id twice.
struct SampleSettings {
  int32_t logits_row = 0;
  float temperature = 0;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
  uint64_t counter = 0;
  int32_t score_id = -1;
  int32_t num_logprobs = -1;  // at most max_logprobs
  ListRange seen, bias, allowed, forbidden;
};

struct DrawnToken {
  int32_t id = -1;    // -1: the row has a NaN, or no finite maximum
  float logprob = 0;  // of it, where num_logprobs >= 0
};
struct LikelyToken {
  int32_t id = -1;  // -1 past the vocabulary
  float logprob = 0;
};

struct SampleCall {
  const float* logits = nullptr;  // [.., vocab_size], rows logits_stride elements apart; kept
  int32_t logits_stride = 0;
  int32_t vocab_size = 0;
  int32_t rows = 0;
  const SampleSettings* settings = nullptr;  // [rows]
  const SeenToken* seen = nullptr;           // what the ranges are of; null where none is used
  const BiasedToken* bias = nullptr;
  const int32_t* ids = nullptr;   // of allowed and forbidden
  float* adjusted = nullptr;      // [rows, vocab_size] scratch, null where no row is adjusted
  DrawnToken* drawn = nullptr;    // [rows]
  int32_t* drawn_ids = nullptr;   // [rows], or null: the ids once more, 0 in place of -1
  LikelyToken* likely = nullptr;  // [rows, max_logprobs], most likely first, lowest id on ties
  int32_t max_logprobs = 0;
};

// Asynchronous. cudaErrorInvalidValue for no rows, an empty vocabulary or one above 2^19 (the sums'
// headroom), and missing operands; else the launch's error.
cudaError_t LaunchSample(const SampleCall& call, cudaStream_t stream);

}  // namespace nibble::cuda
