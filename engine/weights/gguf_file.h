// A GGUF v2/v3 file, mapped read-only and checked completely before anything is believed: every
// length, count, offset and type. Format:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing here asserts on file content;
// errors are DATA_LOSS (corrupt), UNIMPLEMENTED (a type or version we do not read),
// INVALID_ARGUMENT (a directory, not a file), NOT_FOUND or PERMISSION_DENIED, and say subject,
// found and needed. Immutable after Open and safe to share.
//
// Memory: the mapping, plus about 200 bytes a key and a tensor (both counts are bounded); arrays
// stay in the mapping until a getter copies them. Tensors are read, not mapped: a file that is
// truncated while it loads is DATA_LOSS, and nothing of it is needed afterwards. Only the metadata
// is the mapping: truncated to less than that between Open and the tokenizer's loading, the process
// ends with SIGBUS. One rewritten in place while it loads gives a mixture. Replace model files by
// rename, never in place.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace nibble {

enum class GgmlType : int32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kBF16 = 30,
  kMXFP4 = 39,
  kNVFP4 = 40,
};

struct GgmlTypeInfo {
  std::string name;  // "Q4_1"
  int32_t block_elements = 0;
  int32_t block_bytes = 0;  // 0: not a type (removed or unknown)
  bool readable = false;    // this program dequantizes it
};
// Total over all int32: unknown ids give name "type 99", block_bytes 0.
GgmlTypeInfo TypeInfo(int32_t ggml_type);

struct GgufTensor {
  std::string name;
  int32_t ggml_type = 0;
  std::vector<int64_t> dims;  // as in the file: dims[0] is contiguous (in features)
  int64_t offset = 0;         // from the data section's start
  int64_t size_bytes = 0;
  int64_t num_elements = 0;
};

class GgufFile {
 public:
  static absl::StatusOr<GgufFile> Open(const std::string& path);
  // The same over bytes in memory, which must outlive the object (tests, fuzzing).
  static absl::StatusOr<GgufFile> Parse(absl::Span<const uint8_t> bytes, absl::string_view name);

  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::string& name() const;  // the path, for messages
  uint32_t version() const;
  int64_t size_bytes() const;
  absl::Span<const GgufTensor> tensors() const;
  const GgufTensor* Find(absl::string_view tensor_name) const;  // null: absent
  absl::Span<const uint8_t> Data(
      const GgufTensor& tensor) const;  // size_bytes of it, in the mapping
  // Bytes offset .. offset + size - 1 of the tensor, read from the file into `buffer` (no pages of
  // the mapping stay behind, and a file that became shorter is DATA_LOSS); a view where the file
  // was parsed from memory. Any thread. REQUIRES: a range within the tensor.
  absl::StatusOr<absl::Span<const uint8_t>> Read(const GgufTensor& tensor, int64_t offset,
                                                 int64_t size, std::vector<uint8_t>& buffer) const;
  // All before the tensors' data: metadata and the tensor table.
  absl::Span<const uint8_t> Preamble() const;
  // When the file was last written, in ns since 1970; 0 for one parsed from memory.
  absl::StatusOr<int64_t> ModifiedNs() const;

  // Metadata. NOT_FOUND when the key is absent, DATA_LOSS "found type X, needed Y" when it is of
  // another type.
  std::vector<std::string> Keys() const;
  bool Has(absl::string_view key) const;
  absl::StatusOr<int64_t> GetInt(
      absl::string_view key) const;  // any integer type; u64 above 2^63 is DATA_LOSS
  absl::StatusOr<double> GetFloat(absl::string_view key) const;  // f32 or f64
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  absl::StatusOr<std::string> GetString(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> GetStrings(
      absl::string_view key) const;                                           // array of string
  absl::StatusOr<std::vector<float>> GetFloats(absl::string_view key) const;  // array of f32
  absl::StatusOr<std::vector<int32_t>> GetInts(absl::string_view key) const;  // array of i32 or u32
  // One line for people: "u32 8192", "string \"llama\"", "array of string, 49152".
  std::string Describe(absl::string_view key) const;
  // The type and the value of a key as in the file, for a writer. REQUIRES Has(key).
  std::vector<uint8_t> EncodedValue(absl::string_view key) const;

 private:
  struct Rep;
  explicit GgufFile(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace nibble
