// The recorded vectors of tests/oracle/text: texts, small vocabularies, and the ids llama.cpp gives
// them.
#pragma once

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "engine/text/tokenizer_spec.h"
#include "nlohmann/json.hpp"

namespace nibble {

inline nlohmann::json ReadVectors(const std::string& name) {
  std::ifstream file(std::string(NIBBLE_TEXT_VECTORS) + "/" + name);
  return nlohmann::json::parse(file);
}

inline std::vector<std::string> ReadTexts() {
  return ReadVectors("texts.json").get<std::vector<std::string>>();
}

struct IdVectors {
  std::vector<std::vector<int32_t>> plain;    // control tokens are text
  std::vector<std::vector<int32_t>> special;  // control tokens are themselves
};

inline IdVectors IdVectorsOf(const nlohmann::json& json) {
  IdVectors ids;
  ids.plain = json.at("ids").get<std::vector<std::vector<int32_t>>>();
  ids.special = ids.plain;
  for (const auto& [index, special] : json.at("ids_special").items()) {
    ids.special[std::stoul(index)] = special.get<std::vector<int32_t>>();
  }
  return ids;
}

inline TokenizerSpec SpecOf(const nlohmann::json& json) {
  TokenizerSpec spec;
  spec.model =
      json.at("model") == "llama" ? TokenizerModel::kSentencePiece : TokenizerModel::kByteBpe;
  spec.pre = json.at("pre");
  spec.tokens = json.at("tokens").get<std::vector<std::string>>();
  for (const int32_t type : json.at("types")) spec.types.push_back(static_cast<TokenType>(type));
  if (json.contains("merges")) spec.merges = json.at("merges").get<std::vector<std::string>>();
  if (json.contains("scores")) spec.scores = json.at("scores").get<std::vector<float>>();
  spec.bos_id = json.at("bos");
  spec.eos_id = json.at("eos");
  spec.unk_id = json.value("unk", -1);
  spec.add_space_prefix = json.value("add_space_prefix", false);
  return spec;
}

}  // namespace nibble
