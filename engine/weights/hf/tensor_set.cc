#include "engine/weights/hf/tensor_set.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/weights/printable.h"
#include "kernels/check.h"
#include "kernels/fp8.h"
#include "kernels/half.h"

namespace nibble {
namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr JsonLimits kIndexLimits = {
    .bytes = 32 << 20, .values = kMaxSafetensorsTensors + 1024, .depth = 8};

// A run of columns shorter than this share of a row is read alone, a longer one with its row.
constexpr int64_t kWholeRowShare = 4;

template <typename T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

float WidenOne(SafetensorsType type, const uint8_t* bytes) {
  switch (type) {
    case SafetensorsType::kF32:
      return Load<float>(bytes);
    case SafetensorsType::kF16:
      return F16ToF32(Load<uint16_t>(bytes));
    case SafetensorsType::kBF16:
      return Bf16ToF32(Load<uint16_t>(bytes));
    case SafetensorsType::kF8E4m3:
      return E4m3ToF32(*bytes);
    case SafetensorsType::kF8E8m0:
      return *bytes == 0xFF ? NAN : std::ldexp(1.0f, *bytes - 127);
    default:
      NIBBLE_CHECK(!"a float type");
  }
}

bool IsFloat(SafetensorsType type) {
  return type == SafetensorsType::kF32 || type == SafetensorsType::kF16 ||
         type == SafetensorsType::kBF16 || type == SafetensorsType::kF8E4m3 ||
         type == SafetensorsType::kF8E8m0;
}

// The shards in order of their names, and which tensor the index says is in which.
struct Index {
  std::set<std::string> shards;
  std::map<std::string, std::string> shard_of;
};

absl::StatusOr<Index> ReadIndex(const ModelFolder& folder) {
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject json, folder.ReadJson(kIndex, kIndexLimits));
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject map, json.Object("weight_map"));
  if (map.empty()) return json.Unfit("weight_map", "needed tensors and their files");
  Index index;
  for (const std::string& tensor : map.Keys()) {
    NIBBLE_ASSIGN_OR_RETURN(std::string shard, map.String(tensor));
    index.shards.insert(shard);
    index.shard_of.emplace(tensor, std::move(shard));
    if (index.shards.size() > kMaxShards) {
      return absl::ResourceExhaustedError(
          absl::StrCat(folder.name(), "/", kIndex, ": names more than ", kMaxShards, " files"));
    }
  }
  return index;
}

absl::Status NoWeights(const ModelFolder& folder) {
  for (const char* pickle : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (!folder.Has(pickle)) continue;
    return absl::UnimplementedError(
        absl::StrCat(folder.name(), "/", pickle,
                     ": is a Python pickle, which runs code when it is read; convert the model to "
                     "safetensors"));
  }
  return absl::NotFoundError(
      absl::StrCat(folder.name(), ": has neither ", kSingle, " nor ", kIndex));
}

}  // namespace

std::string StoredTensor::Describe() const {
  return absl::StrCat(TypeName(type()), " [", absl::StrJoin(shape(), ", "), "]");
}

absl::Status StoredTensor::Problem(absl::StatusCode code, absl::string_view message) const {
  return absl::Status(code,
                      absl::StrCat(file_->name(), ": tensor '", tensor_->name, "' ", message));
}

absl::StatusOr<std::vector<uint8_t>> StoredTensor::Bytes(int64_t offset, int64_t size) const {
  std::vector<uint8_t> out(static_cast<size_t>(size));
  NIBBLE_RETURN_IF_ERROR(file_->Read(*tensor_, offset, absl::MakeSpan(out)));
  return out;
}

absl::StatusOr<std::vector<uint8_t>> StoredTensor::Window(int64_t first_row, int64_t num_rows,
                                                          int64_t first_col,
                                                          int64_t num_cols) const {
  NIBBLE_CHECK(shape().size() == 2 && TypeBits(type()) % 8 == 0);
  const int64_t width = TypeBits(type()) / 8;
  const int64_t row = shape()[1] * width, run = num_cols * width, skip = first_col * width;
  NIBBLE_CHECK(first_row >= 0 && num_rows <= shape()[0] - first_row && first_col >= 0 &&
               num_cols <= shape()[1] - first_col);
  if (num_cols == shape()[1]) return Bytes(first_row * row, num_rows * row);
  std::vector<uint8_t> out(static_cast<size_t>(num_rows * run));
  if (num_cols > shape()[1] / kWholeRowShare) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> rows,
                            Bytes(first_row * row, num_rows * row));
    for (int64_t r = 0; r < num_rows; ++r) {
      std::memcpy(out.data() + r * run, rows.data() + r * row + skip, static_cast<size_t>(run));
    }
    return out;
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    NIBBLE_RETURN_IF_ERROR(file_->Read(
        *tensor_, (first_row + r) * row + skip,
        absl::MakeSpan(out).subspan(static_cast<size_t>(r * run), static_cast<size_t>(run))));
  }
  return out;
}

absl::StatusOr<std::vector<float>> StoredTensor::Widen(absl::Span<const uint8_t> bytes) const {
  if (!IsFloat(type())) {
    return Problem(absl::StatusCode::kUnimplemented,
                   absl::StrCat("is of type ", TypeName(type()),
                                ", needed F32, F16, BF16, F8_E4M3 or F8_E8M0"));
  }
  const auto width = static_cast<size_t>(TypeBits(type()) / 8);
  std::vector<float> values(bytes.size() / width);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = WidenOne(type(), bytes.data() + i * width);
    if (!(std::abs(values[i]) <= kLargestStored)) {
      return Problem(absl::StatusCode::kDataLoss,
                     "holds a value that is not finite or above 2^110");
    }
  }
  return values;
}

absl::StatusOr<std::vector<float>> StoredTensor::Floats(int64_t first, int64_t count) const {
  if (!IsFloat(type())) return Widen({});
  const int64_t width = TypeBits(type()) / 8;
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, Bytes(first * width, count * width));
  return Widen(bytes);
}

absl::StatusOr<std::vector<float>> StoredTensor::FloatWindow(int64_t first_row, int64_t num_rows,
                                                             int64_t first_col,
                                                             int64_t num_cols) const {
  if (!IsFloat(type())) return Widen({});
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                          Window(first_row, num_rows, first_col, num_cols));
  return Widen(bytes);
}

absl::Status TensorSet::Add(SafetensorsFile file) {
  const SafetensorsFile& kept = files_.emplace_back(std::move(file));
  for (const SafetensorsTensor& tensor : kept.tensors()) {
    const auto [it, is_new] = tensors_.emplace(tensor.name, StoredTensor(kept, tensor));
    if (is_new) continue;
    return absl::DataLossError(
        absl::StrCat(kept.name(), ": tensor '", tensor.name, "' is in another file as well"));
  }
  if (tensors_.size() > kMaxSafetensorsTensors) {
    return absl::ResourceExhaustedError(absl::StrCat(
        kept.name(), ": brings more than ", kMaxSafetensorsTensors, " tensors, as many are read"));
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorSet> TensorSet::Make(std::vector<SafetensorsFile> files) {
  TensorSet set;
  for (SafetensorsFile& file : files) NIBBLE_RETURN_IF_ERROR(set.Add(std::move(file)));
  return set;
}

absl::StatusOr<TensorSet> TensorSet::Open(const ModelFolder& folder) {
  TensorSet set;
  if (folder.Has(kSingle)) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string path, folder.PathOf(kSingle));
    NIBBLE_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    NIBBLE_RETURN_IF_ERROR(set.Add(std::move(file)));
    return set;
  }
  if (!folder.Has(kIndex)) return NoWeights(folder);
  NIBBLE_ASSIGN_OR_RETURN(const Index index, ReadIndex(folder));
  std::map<std::string, const SafetensorsFile*> opened;
  for (const std::string& shard : index.shards) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string path, folder.PathOf(shard));
    NIBBLE_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    NIBBLE_RETURN_IF_ERROR(set.Add(std::move(file)));
    opened.emplace(shard, &set.files_.back());
  }
  for (const auto& [tensor, shard] : index.shard_of) {
    if (opened.at(shard)->Find(tensor) != nullptr) continue;
    return absl::DataLossError(absl::StrCat(folder.name(), "/", kIndex, ": tensor ",
                                            QuoteForMessage(tensor), " is not in ", shard));
  }
  return set;
}

const StoredTensor* TensorSet::Find(absl::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace nibble
