// The tokenizer of a GGUF file, read by the shortest code that can: tests of engine/text need no
// other room.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/text/tokenizer_spec.h"

namespace nibble {

class GgufVocabulary {
 public:
  // Trusts the file: it is a known one.
  static TokenizerSpec Read(const std::string& path) {
    GgufVocabulary reader(path);
    return reader.ReadAll();
  }

 private:
  explicit GgufVocabulary(const std::string& path) : file_(path, std::ios::binary) {}

  template <typename T>
  T Take() {
    T value{};
    file_.read(reinterpret_cast<char*>(&value), sizeof value);
    return value;
  }

  std::string TakeString() {
    std::string text(Take<uint64_t>(), '\0');
    file_.read(text.data(), static_cast<std::streamsize>(text.size()));
    return text;
  }

  int64_t TakeNumber(uint32_t type) {
    switch (type) {
      case 0:
      case 1:
      case 7:
        return Take<uint8_t>();
      case 2:
      case 3:
        return Take<uint16_t>();
      case 4:
      case 5:
      case 6:
        return Take<int32_t>();
      default:
        return Take<int64_t>();
    }
  }

  TokenizerSpec ReadAll() {
    TokenizerSpec spec;
    Take<uint64_t>();  // magic, version
    Take<uint64_t>();  // tensors
    for (auto left = Take<uint64_t>(); left > 0; --left) {
      const std::string key = TakeString();
      ReadValue(key, Take<uint32_t>(), spec);
    }
    return spec;
  }

  void ReadValue(const std::string& full_key, uint32_t type, TokenizerSpec& spec) {
    const std::string prefix = "tokenizer.ggml.";
    const std::string key = full_key.rfind(prefix, 0) == 0 ? full_key.substr(prefix.size()) : "";
    if (type == 8) {
      const std::string text = TakeString();
      if (key == "pre") spec.pre = text;
      if (key == "model") {
        spec.model = text == "llama" ? TokenizerModel::kSentencePiece : TokenizerModel::kByteBpe;
        spec.add_space_prefix = text == "llama";
      }
    } else if (type == 9) {
      ReadArray(key, spec);
    } else {
      const int64_t number = TakeNumber(type);
      if (key == "bos_token_id") spec.bos_id = static_cast<int32_t>(number);
      if (key == "eos_token_id") spec.eos_id = static_cast<int32_t>(number);
      if (key == "unknown_token_id") spec.unk_id = static_cast<int32_t>(number);
      if (key == "add_space_prefix") spec.add_space_prefix = number != 0;
    }
  }

  void ReadArray(const std::string& key, TokenizerSpec& spec) {
    const auto type = Take<uint32_t>();
    for (auto left = Take<uint64_t>(); left > 0; --left) {
      if (type == 8) {
        std::string text = TakeString();
        if (key == "tokens") spec.tokens.push_back(std::move(text));
        if (key == "merges") spec.merges.push_back(std::move(text));
      } else if (type == 6) {
        const float score = Take<float>();
        if (key == "scores") spec.scores.push_back(score);
      } else {
        const int64_t number = TakeNumber(type);
        if (key == "token_type") spec.types.push_back(static_cast<TokenType>(number));
      }
    }
  }

  std::ifstream file_;
};

}  // namespace nibble
