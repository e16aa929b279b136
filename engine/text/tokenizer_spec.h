// A vocabulary as weight files describe it, free of any file format. Made by engine/model_file,
// used by Tokenizer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nibble {

enum class TokenizerModel : uint8_t {
  kByteBpe,        // GGUF "gpt2"
  kSentencePiece,  // GGUF "llama": SentencePiece-BPE with byte fallback
};

enum class TokenType : uint8_t {  // GGUF's numbers
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct TokenizerSpec {
  TokenizerModel model = TokenizerModel::kByteBpe;
  std::string pre;  // GGUF tokenizer.ggml.pre: "gpt-2", "smollm", "llama-bpe", "qwen2"
  std::vector<std::string> tokens;  // by id
  std::vector<float> scores;        // SentencePiece; as many as tokens, or empty
  std::vector<TokenType> types;     // as many as tokens, or empty: all normal
  std::vector<std::string> merges;  // byte-level BPE, "left right", best first
  int32_t bos_id = -1;              // -1: none
  int32_t eos_id = -1;
  int32_t eot_id = -1;
  int32_t eom_id = -1;
  int32_t unk_id = -1;
  int32_t pad_id = -1;
  std::vector<int32_t> end_ids;  // that end a generation, beside eos and eot
  // A whole word that is a token is that token; absent: as is usual for `pre`.
  std::optional<bool> ignore_merges;
  bool normalize_nfc = false;  // text takes Unicode's form C first, as Qwen2's tokenizer.json asks
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;
};

}  // namespace nibble
