// GGUF files made in memory, valid or precisely wrong, and a complete tiny Llama model, so that
// tests of every room can load a model without one being downloaded. Deterministic: the same
// arguments give the same bytes everywhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/weights/gguf_file.h"

namespace nibble::testing {

// Fields are public: a test makes a valid file, spoils one thing and builds it.
struct GgufWriter {
  struct Entry {
    std::string key;
    int32_t type = 0;            // GGUF value type
    std::vector<uint8_t> value;  // as in the file
  };
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // as in the file: dims[0] is contiguous
    int32_t type = 0;
    std::vector<uint8_t> data;
    std::optional<uint64_t> offset;  // absent: where it lies
  };

  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t alignment = 32;              // used for padding; add the key yourself where it differs
  std::optional<uint64_t> num_tensors;  // absent: the truth
  std::optional<uint64_t> num_keys;
  std::vector<Entry> entries;
  std::vector<Tensor> tensors;

  // Adds the key, or replaces its value.
  void U32(absl::string_view key, uint32_t value);
  void U64(absl::string_view key, uint64_t value);
  void F32(absl::string_view key, float value);
  void Bool(absl::string_view key, bool value);
  void String(absl::string_view key, absl::string_view value);
  void Strings(absl::string_view key, const std::vector<std::string>& values);
  void Floats(absl::string_view key, const std::vector<float>& values);
  void Ints(absl::string_view key, const std::vector<int32_t>& values);  // i32
  void Raw(absl::string_view key, int32_t type, std::vector<uint8_t> value);
  void Remove(absl::string_view key);

  void Add(absl::string_view name, std::vector<uint64_t> dims, GgmlType type,
           std::vector<uint8_t> data);
  Tensor* FindTensor(absl::string_view name);  // null: absent
  void RemoveTensor(absl::string_view name);

  std::vector<uint8_t> Build() const;
};

// The bytes of a number or of a string with its length, for Raw.
template <typename T>
std::vector<uint8_t> BytesOf(T value) {
  const auto* begin = reinterpret_cast<const uint8_t*>(&value);
  return {begin, begin + sizeof(T)};
}
std::vector<uint8_t> BytesOfString(absl::string_view text);

// `n` elements in whole blocks of any readable type: random codes; scales random, finite and around
// `scale`.
std::vector<uint8_t> RandomBlocks(GgmlType type, int64_t n, uint32_t seed, float scale);

struct TinyModelOptions {
  uint32_t seed = 1;
  std::string architecture = "llama";  // or "qwen2", which gets q, k and v biases
  uint32_t layers = 2;
  uint32_t hidden = 128;  // K-quants need multiples of 256 here and in ffn
  uint32_t ffn = 256;
  uint32_t heads = 4;
  uint32_t kv_heads = 2;
  uint32_t context = 256;
  GgmlType matrix_type = GgmlType::kQ4_1;
  GgmlType embedding_type = GgmlType::kQ8_0;
  bool tied_head = true;
};

// A complete model with random weights and a byte-level BPE vocabulary of kTinyVocab tokens: the
// 256 bytes (ids 0-255, id = byte), a few merges, then control tokens; ChatML template; no BOS.
inline constexpr int32_t kTinyVocab = 288;
inline constexpr int32_t kTinyEndOfText = 285;  // <|endoftext|>
inline constexpr int32_t kTinyImStart = 286;    // <|im_start|>: bos
inline constexpr int32_t kTinyImEnd = 287;      // <|im_end|>: eos
GgufWriter TinyModel(const TinyModelOptions& options);
std::vector<uint8_t> TinyLlamaGguf(uint32_t seed);

// Writes `bytes` to a new file in the test's temporary directory and returns its path.
std::string WriteTempFile(absl::string_view name, absl::Span<const uint8_t> bytes);

}  // namespace nibble::testing
