// Models without a file, for what depends on the shape of a model and not on its values: speed,
// memory, load tests. Written where a path of a model is taken:
//
//   random:SHAPE:FORMAT[:SEED]      random:llama-3.1-8b:int4-g128
//
// Weights are drawn from the seed (1 when none is given), each row by itself, so that activations
// keep their size from layer to layer; norms are 1. The vocabulary is the 256 bytes and made-up
// words. What such a model writes is noise, the same noise for the same name.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer_spec.h"
#include "engine/weights/weight_source.h"

namespace nibble {

struct RandomFormat {
  std::string name;  // "int4-g128"
  quant::Format format = quant::Format::kF32;
  int32_t group = 0;      // 0: one scale a row, or none for bf16
  int32_t row_group = 1;  // fp8 blocks
};

struct RandomModel {
  std::string name;  // as it was asked for
  ModelConfig config;
  RandomFormat format;
  uint64_t seed = 1;
};

// "random:" is what tells such a name from a path.
bool IsRandomModel(absl::string_view model);

// The words for SHAPE and FORMAT.
std::vector<std::string> RandomShapes();
std::vector<std::string> RandomFormats();

// The shape of that name. INVALID_ARGUMENT lists those there are.
absl::StatusOr<ModelConfig> RandomShape(absl::string_view shape);

// INVALID_ARGUMENT names the word that is none, and lists those there are.
absl::StatusOr<RandomModel> ParseRandomModel(absl::string_view name);

// GGUF's tensor names. Rows are drawn when they are asked for, about 1 ns a byte of codes; nothing
// is kept. Any thread.
std::unique_ptr<WeightSource> MakeRandomSource(const RandomModel& model);

TokenizerSpec RandomVocabulary(const RandomModel& model);

}  // namespace nibble
