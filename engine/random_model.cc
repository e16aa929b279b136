#include "engine/random_model.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace nibble {
namespace {

using quant::Format;

constexpr absl::string_view kPrefix = "random:";

struct Shape {
  const char* name;
  int32_t layers, hidden, ffn, heads, kv_heads, head_dim, vocab, context;
  float rope_base;
  float rope_factor;  // of Llama 3's scaling; 1: none
  bool tied_head;
};

// From the config.json of each model.
constexpr Shape kShapes[] = {
    {"smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152, 8192, 100000.0f, 1.0f, true},
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 500000.0f, 32.0f, true},
    {"llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 500000.0f, 8.0f, false},
    {"llama-3.1-70b", 80, 8192, 28672, 64, 8, 128, 128256, 131072, 500000.0f, 8.0f, false},
};

std::vector<RandomFormat> Formats() {
  return {{"int4-g32", Format::kInt4Affine, 32},
          {"int4-g64", Format::kInt4Affine, 64},
          {"int4-g128", Format::kInt4Affine, 128},
          {"nf4", Format::kLut4, 64},
          {"int8", Format::kInt8},
          {"fp8", Format::kFp8},
          {"fp8-block", Format::kFp8, quant::kFp8Block, quant::kFp8Block},
          {"bf16", Format::kBf16}};
}

ModelConfig ConfigOf(const Shape& shape) {
  ModelConfig config;
  config.architecture = "llama";
  config.name = absl::StrCat(shape.name, ", random weights");
  config.num_layers = shape.layers;
  config.hidden_size = shape.hidden;
  config.ffn_size = shape.ffn;
  config.num_heads = shape.heads;
  config.num_kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.vocab_size = shape.vocab;
  config.context_length = shape.context;
  config.rotary_dim = shape.head_dim;
  config.rope_base = shape.rope_base;
  config.tied_head = shape.tied_head;
  if (shape.rope_factor != 1.0f) {
    config.rope_scaling = RopeScaling::kLlama3;
    config.rope_factor = shape.rope_factor;
    config.rope_original_context = 8192;
  }
  return config;
}

template <class All>
auto Find(const All& all, absl::string_view name) {
  auto it = std::begin(all);
  while (it != std::end(all) && name != it->name) ++it;
  return it;
}

absl::Status Unknown(absl::string_view model, absl::string_view what, absl::string_view found,
                     const std::vector<std::string>& known) {
  return absl::InvalidArgumentError(absl::StrCat("model '", model, "': ", what, " is '", found,
                                                 "', needed one of ", absl::StrJoin(known, ", ")));
}

}  // namespace

bool IsRandomModel(absl::string_view model) { return absl::StartsWith(model, kPrefix); }

std::vector<std::string> RandomShapes() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.push_back(shape.name);
  return names;
}

std::vector<std::string> RandomFormats() {
  std::vector<std::string> names;
  for (const RandomFormat& format : Formats()) names.push_back(format.name);
  return names;
}

absl::StatusOr<ModelConfig> RandomShape(absl::string_view shape) {
  const Shape* found = Find(kShapes, shape);
  if (found != std::end(kShapes)) return ConfigOf(*found);
  return absl::InvalidArgumentError(absl::StrCat("the shape is '", shape, "', needed one of ",
                                                 absl::StrJoin(RandomShapes(), ", ")));
}

absl::StatusOr<RandomModel> ParseRandomModel(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, ':');
  if (!IsRandomModel(name) || parts.size() < 3 || parts.size() > 4) {
    return absl::InvalidArgumentError(
        absl::StrCat("model '", name, "': needed random:SHAPE:FORMAT[:SEED], SHAPE one of ",
                     absl::StrJoin(RandomShapes(), ", "), ", FORMAT one of ",
                     absl::StrJoin(RandomFormats(), ", ")));
  }
  const Shape* shape = Find(kShapes, parts[1]);
  if (shape == std::end(kShapes)) return Unknown(name, "the shape", parts[1], RandomShapes());
  const std::vector<RandomFormat> formats = Formats();
  const auto format = Find(formats, parts[2]);
  if (format == formats.end()) return Unknown(name, "the format", parts[2], RandomFormats());
  RandomModel model;
  model.name = std::string(name);
  model.config = ConfigOf(*shape);
  const bool divides = format->format != Format::kFp8 && format->group != 0;
  for (int32_t cols : {shape->hidden, shape->ffn, shape->heads * shape->head_dim}) {
    if (divides && cols % format->group != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("model '", name, "': ", parts[1], " has rows of ", cols,
                       " weights, the groups of ", parts[2], " are of ", format->group));
    }
  }
  model.format = *format;
  if (parts.size() == 4 && !absl::SimpleAtoi(parts[3], &model.seed)) {
    return absl::InvalidArgumentError(absl::StrCat("model '", name, "': the seed is '", parts[3],
                                                   "', needed a number from 0 to 2^64 - 1"));
  }
  return model;
}

// Byte-level BPE without merges: text becomes its bytes. The alphabet is GPT-2's: a printable byte
// stands for itself, the others for the code points from 256 on.
TokenizerSpec RandomVocabulary(const RandomModel& model) {
  TokenizerSpec spec;
  spec.pre = "gpt-2";
  const auto add = [&spec](uint32_t code_point) {
    std::string token;
    if (code_point < 0x80) {
      token.push_back(static_cast<char>(code_point));
    } else {
      token.push_back(static_cast<char>(0xC0 | code_point >> 6));
      token.push_back(static_cast<char>(0x80 | (code_point & 0x3F)));
    }
    spec.tokens.push_back(std::move(token));
  };
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    add(printable ? byte : next++);
  }
  for (int32_t id = 256; id < model.config.vocab_size; ++id) {
    spec.tokens.push_back(absl::StrCat("\u0120w", id));  // the alphabet's space
  }
  spec.types.assign(spec.tokens.size(), TokenType::kNormal);
  spec.tokens.back() = "<|end|>";
  spec.types.back() = TokenType::kControl;
  spec.eos_id = model.config.vocab_size - 1;
  return spec;
}

}  // namespace nibble
