#include "engine/weights/gguf_metadata.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/weights/printable.h"
#include "kernels/check.h"

namespace nibble {
namespace {

using Type = GgufValueType;

constexpr absl::string_view kTypeNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                            "bool", "string", "array", "u64", "i64", "f64"};
constexpr int kTypeSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

absl::string_view TypeName(Type type) { return kTypeNames[static_cast<int>(type)]; }
int TypeSize(Type type) { return kTypeSizes[static_cast<int>(type)]; }

absl::StatusOr<Type> ReadType(ByteReader& reader, absl::string_view key) {
  NIBBLE_ASSIGN_OR_RETURN(const int32_t id, reader.Read<int32_t>("a value's type"));
  if (id < 0 || id > static_cast<int32_t>(Type::kF64)) {
    return absl::DataLossError(
        absl::StrCat("key '", key, "' has value type ", id, ", needed 0 to 12"));
  }
  return static_cast<Type>(id);
}

template <typename T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

absl::Status CheckBools(absl::Span<const uint8_t> bytes, absl::string_view key) {
  for (const uint8_t byte : bytes) {
    if (byte > 1) {
      return absl::DataLossError(
          absl::StrCat("key '", key, "' holds a bool of ", byte, ", needed 0 or 1"));
    }
  }
  return absl::OkStatus();
}

// Two's complement of any width, as i64; u64 above 2^63 - 1 is the caller's to refuse.
int64_t LoadInteger(Type type, const uint8_t* bytes) {
  switch (type) {
    case Type::kU8:
      return Load<uint8_t>(bytes);
    case Type::kI8:
      return Load<int8_t>(bytes);
    case Type::kU16:
      return Load<uint16_t>(bytes);
    case Type::kI16:
      return Load<int16_t>(bytes);
    case Type::kU32:
      return Load<uint32_t>(bytes);
    case Type::kI32:
      return Load<int32_t>(bytes);
    default:
      return Load<int64_t>(bytes);
  }
}

bool IsInteger(Type type) { return type <= Type::kI32 || type == Type::kU64 || type == Type::kI64; }

}  // namespace

absl::StatusOr<GgufMetadata> GgufMetadata::Read(ByteReader& reader, uint64_t count) {
  if (count > kMaxGgufKeys) {
    return absl::DataLossError(
        absl::StrCat("claims ", count, " metadata keys, at most ", kMaxGgufKeys, " are read"));
  }
  GgufMetadata metadata;
  for (uint64_t i = 0; i < count; ++i) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view key,
                            reader.ReadString(absl::StrCat("metadata key ", i)));
    if (!IsPrintableName(key, kMaxGgufKeyBytes)) {
      return absl::DataLossError(absl::StrCat("metadata key ", i, " is ", QuoteForMessage(key),
                                              ", needed 1 to ", kMaxGgufKeyBytes,
                                              " printable ASCII characters"));
    }
    NIBBLE_ASSIGN_OR_RETURN(const Value value, ReadValue(reader, key));
    if (!metadata.values_.emplace(std::string(key), value).second) {
      return absl::DataLossError(absl::StrCat("metadata key '", key, "' appears twice"));
    }
    metadata.keys_.emplace_back(key);
  }
  return metadata;
}

absl::StatusOr<GgufMetadata::Value> GgufMetadata::ReadValue(ByteReader& reader,
                                                            absl::string_view key) {
  Value value;
  NIBBLE_ASSIGN_OR_RETURN(value.type, ReadType(reader, key));
  const std::string what = absl::StrCat("the value of key '", key, "'");
  if (value.type == Type::kArray) {
    NIBBLE_RETURN_IF_ERROR(ReadArray(reader, key, value));
  } else if (value.type == Type::kString) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view text, reader.ReadString(what));
    if (text.size() > kMaxGgufString) {
      return absl::DataLossError(absl::StrCat(what, " has ", text.size(), " bytes, at most ",
                                              kMaxGgufString, " are read"));
    }
    value.bytes = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  } else {
    NIBBLE_ASSIGN_OR_RETURN(value.bytes, reader.Take(TypeSize(value.type), what));
    if (value.type == Type::kBool) NIBBLE_RETURN_IF_ERROR(CheckBools(value.bytes, key));
  }
  return value;
}

absl::Status GgufMetadata::ReadArray(ByteReader& reader, absl::string_view key, Value& value) {
  NIBBLE_ASSIGN_OR_RETURN(value.element, ReadType(reader, key));
  const std::string what = absl::StrCat("the array of key '", key, "'");
  if (value.element == Type::kArray) {
    return absl::UnimplementedError(
        absl::StrCat("key '", key, "' is an array of arrays, which no model we read has"));
  }
  NIBBLE_ASSIGN_OR_RETURN(value.count, reader.Read<uint64_t>(what));
  // A string takes at least its length, so the count is bounded by the bytes left for every element
  // type.
  const uint64_t least =
      value.element == Type::kString ? sizeof(uint64_t) : TypeSize(value.element);
  if (value.count > kMaxGgufArray || value.count > reader.remaining() / least) {
    return absl::DataLossError(
        absl::StrCat(what, " claims ", value.count, " elements of type ", TypeName(value.element),
                     ", the file has ", reader.remaining(), " bytes left; is the file truncated?"));
  }
  if (value.element != Type::kString) {
    NIBBLE_ASSIGN_OR_RETURN(value.bytes, reader.Take(value.count * least, what));
    return value.element == Type::kBool ? CheckBools(value.bytes, key) : absl::OkStatus();
  }
  ByteReader start = reader;
  for (uint64_t i = 0; i < value.count; ++i) {
    NIBBLE_RETURN_IF_ERROR(reader.ReadString(what).status());
  }
  NIBBLE_ASSIGN_OR_RETURN(value.bytes, start.Take(reader.position() - start.position(), what));
  return absl::OkStatus();
}

const GgufMetadata::Value* GgufMetadata::Find(absl::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

absl::StatusOr<const GgufMetadata::Value*> GgufMetadata::FindOrError(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return absl::NotFoundError(absl::StrCat("key '", key, "' is absent"));
  return value;
}

absl::StatusOr<int64_t> GgufMetadata::GetInt(absl::string_view key) const {
  NIBBLE_ASSIGN_OR_RETURN(const Value* value, FindOrError(key));
  if (!IsInteger(value->type)) {
    return absl::DataLossError(
        absl::StrCat("key '", key, "' is ", Describe(key), ", needed an integer"));
  }
  const int64_t number = LoadInteger(value->type, value->bytes.data());
  if (value->type == Type::kU64 && number < 0) {
    return absl::DataLossError(
        absl::StrCat("key '", key, "' is ", Describe(key), ", needed less than 2^63"));
  }
  return number;
}

absl::StatusOr<double> GgufMetadata::GetFloat(absl::string_view key) const {
  NIBBLE_ASSIGN_OR_RETURN(const Value* value, FindOrError(key));
  if (value->type == Type::kF32) return Load<float>(value->bytes.data());
  if (value->type == Type::kF64) return Load<double>(value->bytes.data());
  return absl::DataLossError(
      absl::StrCat("key '", key, "' is ", Describe(key), ", needed f32 or f64"));
}

absl::StatusOr<bool> GgufMetadata::GetBool(absl::string_view key) const {
  NIBBLE_ASSIGN_OR_RETURN(const Value* value, FindOrError(key));
  if (value->type == Type::kBool) return value->bytes[0] != 0;
  return absl::DataLossError(absl::StrCat("key '", key, "' is ", Describe(key), ", needed bool"));
}

absl::StatusOr<std::string> GgufMetadata::GetString(absl::string_view key) const {
  NIBBLE_ASSIGN_OR_RETURN(const Value* value, FindOrError(key));
  if (value->type != Type::kString) {
    return absl::DataLossError(
        absl::StrCat("key '", key, "' is ", Describe(key), ", needed a string"));
  }
  return std::string(value->bytes.begin(), value->bytes.end());
}

absl::StatusOr<const GgufMetadata::Value*> GgufMetadata::FindArray(
    absl::string_view key, absl::string_view needed, std::initializer_list<Type> elements) const {
  NIBBLE_ASSIGN_OR_RETURN(const Value* value, FindOrError(key));
  if (value->type != Type::kArray ||
      std::find(elements.begin(), elements.end(), value->element) == elements.end()) {
    return absl::DataLossError(
        absl::StrCat("key '", key, "' is ", Describe(key), ", needed an array of ", needed));
  }
  return value;
}

absl::StatusOr<std::vector<std::string>> GgufMetadata::GetStrings(absl::string_view key) const {
  NIBBLE_ASSIGN_OR_RETURN(const Value* value, FindArray(key, "string", {Type::kString}));
  std::vector<std::string> strings;
  strings.reserve(value->count);
  ByteReader reader(value->bytes);
  for (uint64_t i = 0; i < value->count; ++i) {
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view text, reader.ReadString(key));
    strings.emplace_back(text);
  }
  return strings;
}

absl::StatusOr<std::vector<float>> GgufMetadata::GetFloats(absl::string_view key) const {
  NIBBLE_ASSIGN_OR_RETURN(const Value* value, FindArray(key, "f32", {Type::kF32}));
  std::vector<float> floats(value->count);
  if (!floats.empty()) std::memcpy(floats.data(), value->bytes.data(), value->bytes.size());
  return floats;
}

absl::StatusOr<std::vector<int32_t>> GgufMetadata::GetInts(absl::string_view key) const {
  NIBBLE_ASSIGN_OR_RETURN(const Value* value,
                          FindArray(key, "i32 or u32", {Type::kI32, Type::kU32}));
  std::vector<int32_t> ints(value->count);
  if (!ints.empty()) std::memcpy(ints.data(), value->bytes.data(), value->bytes.size());
  if (value->element == Type::kU32 &&
      std::any_of(ints.begin(), ints.end(), [](int32_t i) { return i < 0; })) {
    return absl::DataLossError(
        absl::StrCat("key '", key, "' holds a u32 of 2^31 or more, needed less"));
  }
  return ints;
}

std::string GgufMetadata::Describe(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return "absent";
  const absl::string_view type = TypeName(value->type);
  switch (value->type) {
    case Type::kArray:
      return absl::StrCat("array of ", TypeName(value->element), ", ", value->count);
    case Type::kString:
      return absl::StrCat(
          type, " ",
          QuoteForMessage(absl::string_view(reinterpret_cast<const char*>(value->bytes.data()),
                                            value->bytes.size())));
    case Type::kBool:
      return absl::StrCat(type, value->bytes[0] != 0 ? " true" : " false");
    case Type::kF32:
      return absl::StrCat(type, " ", Load<float>(value->bytes.data()));
    case Type::kF64:
      return absl::StrCat(type, " ", Load<double>(value->bytes.data()));
    case Type::kU64:
      return absl::StrCat(type, " ", Load<uint64_t>(value->bytes.data()));
    default:
      return absl::StrCat(type, " ", LoadInteger(value->type, value->bytes.data()));
  }
}

std::vector<uint8_t> GgufMetadata::Encoded(absl::string_view key) const {
  const Value* value = Find(key);
  NIBBLE_CHECK(value != nullptr);
  std::vector<uint8_t> out;
  const auto append = [&out](auto number) {
    const size_t at = out.size();
    out.resize(at + sizeof(number));
    std::memcpy(out.data() + at, &number, sizeof(number));
  };
  append(static_cast<int32_t>(value->type));
  if (value->type == Type::kArray) {
    append(static_cast<int32_t>(value->element));
    append(value->count);
  } else if (value->type == Type::kString) {
    append(uint64_t{value->bytes.size()});
  }
  out.insert(out.end(), value->bytes.begin(), value->bytes.end());
  return out;
}

absl::StatusOr<uint64_t> GgufMetadata::Alignment() const {
  constexpr absl::string_view kKey = "general.alignment";
  const Value* value = Find(kKey);
  if (value == nullptr) return 32;
  const uint32_t alignment = value->type == Type::kU32 ? Load<uint32_t>(value->bytes.data()) : 0;
  if (alignment < 8 || !std::has_single_bit(alignment)) {
    return absl::DataLossError(absl::StrCat("key '", kKey, "' is ", Describe(kKey),
                                            ", needed u32 and a power of two of 8 or more"));
  }
  return alignment;
}

}  // namespace nibble
