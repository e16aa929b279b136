#include "engine/quantize/importance.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/byte_reader.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/gguf_writer.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

constexpr absl::string_view kSums = ".in_sum2";
constexpr int32_t kMaxEntries = 1 << 17;  // as many as a model has tensors
constexpr int32_t kMaxName = 4096;
constexpr int64_t kMaxColumns = 1 << 24;

absl::Status CheckValues(absl::string_view name, absl::Span<const float> values) {
  for (const float value : values) {
    if (!std::isfinite(value) || value < 0) {
      return absl::DataLossError(
          absl::StrCat("the importance of '", name, "' holds ", value, ", needed 0 or more"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Importance> FromGguf(const GgufFile& file) {
  Importance importance;
  for (const GgufTensor& tensor : file.tensors()) {
    if (!absl::EndsWith(tensor.name, kSums)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSums.size());
    const int64_t columns = tensor.dims[0];
    const GgufTensor* counts = file.Find(absl::StrCat(name, ".counts"));
    if (tensor.num_elements != columns || counts == nullptr || counts->num_elements != 1 ||
        columns > kMaxColumns || tensor.ggml_type != 0 || counts->ggml_type != 0) {
      return absl::UnimplementedError(
          absl::StrCat("'", tensor.name,
                       "' is not one f32 row with one f32 count: importance of "
                       "experts is not read"));
    }
    std::vector<uint8_t> bytes;
    float count = 0;
    std::vector<float> sums(static_cast<size_t>(columns));
    NIBBLE_ASSIGN_OR_RETURN(absl::Span<const uint8_t> read,
                            file.Read(*counts, 0, sizeof(count), bytes));
    std::memcpy(&count, read.data(), sizeof(count));
    NIBBLE_ASSIGN_OR_RETURN(read, file.Read(tensor, 0, tensor.size_bytes, bytes));
    std::memcpy(sums.data(), read.data(), read.size());
    NIBBLE_RETURN_IF_ERROR(importance.Set(name, std::move(sums), count));
  }
  if (importance.size() == 0) {
    return absl::DataLossError("has no tensor named ...in_sum2: is it an importance matrix?");
  }
  return importance;
}

absl::StatusOr<Importance> FromDat(absl::Span<const uint8_t> bytes) {
  ByteReader reader(bytes);
  Importance importance;
  NIBBLE_ASSIGN_OR_RETURN(const int32_t entries, reader.Read<int32_t>("the number of entries"));
  if (entries < 1 || entries > kMaxEntries) {
    return absl::DataLossError(absl::StrCat("claims ", entries, " entries, needed 1 to ",
                                            kMaxEntries, ": is it an importance matrix?"));
  }
  for (int32_t i = 0; i < entries; ++i) {
    NIBBLE_ASSIGN_OR_RETURN(const int32_t length, reader.Read<int32_t>("the length of a name"));
    if (length < 1 || length > kMaxName) {
      return absl::DataLossError(
          absl::StrCat("entry ", i, " has a name of ", length, " bytes, needed 1 to ", kMaxName));
    }
    NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> text, reader.Take(length, "a name"));
    const std::string name(text.begin(), text.end());
    NIBBLE_ASSIGN_OR_RETURN(const int32_t calls, reader.Read<int32_t>("a count of calls"));
    NIBBLE_ASSIGN_OR_RETURN(const int32_t n, reader.Read<int32_t>("a count of columns"));
    if (n < 1 || n > kMaxColumns) {
      return absl::DataLossError(absl::StrCat("the entry of ", QuoteForMessage(name), " has ", n,
                                              " columns, needed 1 to ", kMaxColumns));
    }
    NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> values,
                            reader.Take(uint64_t{4} * n, "the columns of an entry"));
    std::vector<float> sums(static_cast<size_t>(n));
    std::memcpy(sums.data(), values.data(), values.size());
    NIBBLE_RETURN_IF_ERROR(importance.Set(name, std::move(sums), static_cast<float>(calls)));
  }
  return importance;  // what follows is the number of chunks and the text's name
}

// Copied: a mapping of a file that becomes shorter must not be touched.
absl::StatusOr<std::vector<uint8_t>> Bytes(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  if (file.bytes().size() > kMaxImportanceBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("has ", file.bytes().size(),
                                                     " bytes, at most ", kMaxImportanceBytes,
                                                     " are read: is it an importance matrix?"));
  }
  std::vector<uint8_t> bytes(file.bytes().size());
  NIBBLE_RETURN_IF_ERROR(file.ReadAt(0, absl::MakeSpan(bytes)));
  return bytes;
}

absl::StatusOr<Importance> Parse(absl::Span<const uint8_t> bytes, const std::string& path) {
  if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0) return FromDat(bytes);
  NIBBLE_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Parse(bytes, path));
  return FromGguf(file);
}

absl::StatusOr<Importance> ReadAndParse(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, Bytes(path));
  return Parse(bytes, path);
}

}  // namespace

absl::StatusOr<Importance> Importance::Read(const std::string& path) {
  absl::StatusOr<Importance> importance = ReadAndParse(path);
  if (importance.ok() || absl::StartsWith(importance.status().message(), path)) return importance;
  return absl::Status(importance.status().code(),
                      absl::StrCat(path, ": ", importance.status().message()));
}

absl::Status Importance::Write(const std::string& path, int32_t chunks, int32_t chunk_size) const {
  GgufKeys keys;
  keys.SetString("general.type", "imatrix");
  keys.SetStrings("imatrix.datasets", {});
  keys.SetU32("imatrix.chunk_count", static_cast<uint32_t>(chunks));
  keys.SetU32("imatrix.chunk_size", static_cast<uint32_t>(chunk_size));
  std::vector<GgufTensorPlan> plan;
  for (const auto& [name, columns] : columns_) {
    plan.push_back({absl::StrCat(name, kSums), {static_cast<int64_t>(columns.sums.size()), 1}});
    plan.push_back({absl::StrCat(name, ".counts"), {1, 1}});
  }
  NIBBLE_ASSIGN_OR_RETURN(GgufFileWriter writer, GgufFileWriter::Create(path, keys, plan));
  size_t index = 0;
  const auto write = [&](absl::Span<const float> values) {
    return writer.Write(index++, 0,
                        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()),
                                            values.size() * sizeof(float)));
  };
  for (const auto& [name, columns] : columns_) {
    NIBBLE_RETURN_IF_ERROR(write(columns.sums));
    NIBBLE_RETURN_IF_ERROR(write(absl::MakeConstSpan(&columns.rows, 1)));
  }
  return writer.Finish(keys);
}

absl::Status Importance::Set(absl::string_view name, std::vector<float> sums, float rows) {
  NIBBLE_RETURN_IF_ERROR(CheckValues(name, sums));
  NIBBLE_RETURN_IF_ERROR(CheckValues(name, absl::MakeConstSpan(&rows, 1)));
  std::vector<float> means = sums;
  for (float& value : means) value /= rows > 0 ? rows : 1;
  NIBBLE_RETURN_IF_ERROR(CheckValues(name, means));  // a count of 1e-40 leaves f32
  columns_[std::string(name)] = {std::move(sums), std::move(means), rows};
  return absl::OkStatus();
}

absl::Span<const float> Importance::Find(absl::string_view name) const {
  const auto it = columns_.find(name);
  if (it == columns_.end()) return {};
  return it->second.means;
}

}  // namespace nibble
