// The key-value section of a GGUF file. Read checks every length, type and name; values stay where
// they are in the file until asked for. Used by GgufFile only; its errors lack the file's name,
// which GgufFile puts before them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/weights/byte_reader.h"

namespace nibble {

enum class GgufValueType : int32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

inline constexpr uint64_t kMaxGgufKeys = 1 << 16;    // real files have under 100
inline constexpr uint64_t kMaxGgufKeyBytes = 65535;  // the specification's own bound
inline constexpr uint64_t kMaxGgufArray =
    1ull << 30;  // elements; and never more than the bytes left hold
inline constexpr uint64_t kMaxGgufString = 1ull << 30;  // bytes; likewise

class GgufMetadata {
 public:
  // Reads `count` pairs. The bytes behind `reader` must outlive the object.
  static absl::StatusOr<GgufMetadata> Read(ByteReader& reader, uint64_t count);

  const std::vector<std::string>& keys() const { return keys_; }  // in the file's order
  bool Has(absl::string_view key) const { return Find(key) != nullptr; }

  // As in GgufFile.
  absl::StatusOr<int64_t> GetInt(absl::string_view key) const;
  absl::StatusOr<double> GetFloat(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  absl::StatusOr<std::string> GetString(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> GetStrings(absl::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloats(absl::string_view key) const;
  absl::StatusOr<std::vector<int32_t>> GetInts(absl::string_view key) const;
  std::string Describe(absl::string_view key) const;

  // The type and the value of a key as in a file, for a writer. REQUIRES Has(key).
  std::vector<uint8_t> Encoded(absl::string_view key) const;

  // general.alignment, 32 when absent. DATA_LOSS unless it is a u32 and a power of two of 8 or
  // more.
  absl::StatusOr<uint64_t> Alignment() const;

 private:
  struct Value {
    GgufValueType type = GgufValueType::kU8;
    GgufValueType element = GgufValueType::kU8;  // of an array
    uint64_t count = 1;                          // of an array's elements
    absl::Span<const uint8_t> bytes;  // the number, the string's text, or the array's elements
  };

  static absl::StatusOr<Value> ReadValue(ByteReader& reader, absl::string_view key);
  static absl::Status ReadArray(ByteReader& reader, absl::string_view key, Value& value);
  const Value* Find(absl::string_view key) const;
  absl::StatusOr<const Value*> FindOrError(absl::string_view key) const;
  absl::StatusOr<const Value*> FindArray(absl::string_view key, absl::string_view needed,
                                         std::initializer_list<GgufValueType> elements) const;

  std::vector<std::string> keys_;
  std::map<std::string, Value, std::less<>> values_;
};

}  // namespace nibble
