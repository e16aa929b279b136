// Drawing tokens on the device, as SampleRow in kernels/ops.h says, for all rows of a step at once.
//
// Four launches. Blocks of 8,192 ids each find their best, then by how much ids fall behind the
// row's best: how many of them there are, and of what mass, in each of 1,024 bins. top_k and top_p
// are cuts in the order of falling logits, rising ids; they fall into a bin or two, whose ids are
// listed and put in order by one block a row, and all bins before are kept whole. Where so many
// logits are nearly equal that a list of 512 ids a block, or 2,048 a row, does not hold them, that
// block goes over the row instead, two bits of the cut's logit a pass. Probabilities are f32
// relative to the largest, their sums fixed-point integers of 2^-44, exact in any order, so that a
// row's draw depends on the row alone.
//
// The same draw as the CPU backend's (same Philox words, same order of ids) unless the uniform
// number or a share of top_p falls within about 1e-6 of the boundary between two ids, where the two
// backends' exponentials differ.
//
// Passes over a row of vocab_size f32, by all of its blocks: greedy 1; with a temperature 2, with
// top_k or top_p 3, and one slice more for the draw. By one block: 2 for log probabilities, and 1
// for each of num_logprobs but the first; 18 to 55 for each cut that no list holds. Rows that are
// adjusted are copied first. Needs sm_80. Has run on sm_90 alone, an H200.
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
  void* scratch = nullptr;        // [rows] of SampleScratchBytes, 16-byte aligned
  DrawnToken* drawn = nullptr;    // [rows]
  int32_t* drawn_ids = nullptr;   // [rows], or null: the ids once more, 0 in place of -1
  LikelyToken* likely = nullptr;  // [rows, max_logprobs], most likely first, lowest id on ties
  int32_t max_logprobs = 0;
};

// What a row takes: 4 bytes for each id, 2 KB for each 8,192 of them, and 14 KB. A multiple of 32.
int64_t SampleScratchBytes(int32_t vocab_size);

// Asynchronous. cudaErrorInvalidValue for no rows or more than 65535, an empty vocabulary or one
// above 2^19 (the sums' headroom), and missing or misaligned operands; else the launch's error.
cudaError_t LaunchSample(const SampleCall& call, cudaStream_t stream);

}  // namespace nibble::cuda
