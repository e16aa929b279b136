#include "engine/weights/hf/tensor_set_writer.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/weights/hf/tensor_set.h"

namespace nibble {
namespace {

// The shards' first tensors, and behind them the number of tensors.
std::vector<size_t> Cuts(absl::Span<const SafetensorsTensorPlan> tensors, int64_t max_bytes) {
  std::vector<size_t> cuts = {0};
  int64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t size = BytesOf(tensors[i]);
    if (bytes > 0 && bytes > max_bytes - size) {
      cuts.push_back(i);
      bytes = 0;
    }
    bytes += size;
  }
  cuts.push_back(tensors.size());
  return cuts;
}

std::string ShardName(size_t shard, size_t count) {
  if (count == 1) return "model.safetensors";
  return absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, count);
}

}  // namespace

absl::StatusOr<TensorSetWriter> TensorSetWriter::Create(
    const std::string& folder, absl::Span<const SafetensorsTensorPlan> tensors,
    int64_t max_shard_bytes) {
  const std::vector<size_t> cuts = Cuts(tensors, max_shard_bytes);
  const size_t count = cuts.size() - 1;
  if (count > kMaxShards) {
    return absl::ResourceExhaustedError(absl::StrCat(folder, ": needs ", count, " files of ",
                                                     max_shard_bytes, " bytes, at most ",
                                                     kMaxShards, " are written; take larger ones"));
  }
  TensorSetWriter writer;
  writer.folder_ = folder;
  nlohmann::json weight_map = nlohmann::json::object();
  int64_t total = 0;
  for (size_t shard = 0; shard < count; ++shard) {
    const std::string name = ShardName(shard, count);
    const auto part = tensors.subspan(cuts[shard], cuts[shard + 1] - cuts[shard]);
    NIBBLE_ASSIGN_OR_RETURN(
        SafetensorsFileWriter file,
        SafetensorsFileWriter::Create(absl::StrCat(folder, "/", name), {{"format", "pt"}}, part));
    writer.files_.push_back(std::move(file));
    for (size_t i = 0; i < part.size(); ++i) {
      writer.places_.push_back({shard, i});
      weight_map[part[i].name] = name;
      total += BytesOf(part[i]);
    }
  }
  if (count > 1) {
    const nlohmann::json index = {{"metadata", {{"total_size", total}}},
                                  {"weight_map", std::move(weight_map)}};
    writer.index_json_ = index.dump(2) + "\n";
  }
  return writer;
}

absl::Status TensorSetWriter::Write(size_t index, int64_t offset, absl::Span<const uint8_t> bytes) {
  const Place place = places_.at(index);
  return files_[place.file].Write(place.index, offset, bytes);
}

absl::Status TensorSetWriter::Finish() {
  for (SafetensorsFileWriter& file : files_) NIBBLE_RETURN_IF_ERROR(file.Finish());
  if (index_json_.empty()) return absl::OkStatus();
  PartialFile index(absl::StrCat(folder_, "/model.safetensors.index.json"));
  NIBBLE_RETURN_IF_ERROR(index.Create());
  NIBBLE_RETURN_IF_ERROR(
      index.Write({reinterpret_cast<const uint8_t*>(index_json_.data()), index_json_.size()}));
  return index.Publish();
}

int64_t TensorSetWriter::size_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFileWriter& file : files_) bytes += file.size_bytes();
  return bytes;
}

}  // namespace nibble
