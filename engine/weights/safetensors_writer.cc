#include "engine/weights/safetensors_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// The data section begins at a multiple of the widest element (8 bytes), as the library has it.
constexpr size_t kAlignment = 8;

// Tensors' numbers in the order of the file.
std::vector<size_t> FileOrder(absl::Span<const SafetensorsTensorPlan> tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return TypeBits(tensors[a].type) > TypeBits(tensors[b].type);
  });
  return order;
}

}  // namespace

int64_t BytesOf(const SafetensorsTensorPlan& tensor) {
  int64_t elements = 1;
  for (const int64_t dim : tensor.shape) elements *= dim;
  return elements * TypeBits(tensor.type) / 8;
}

SafetensorsFileWriter::SafetensorsFileWriter(const std::string& path)
    : file_(std::make_unique<PartialFile>(path)) {}

absl::StatusOr<SafetensorsFileWriter> SafetensorsFileWriter::Create(
    const std::string& path, const SafetensorsMetadata& metadata,
    absl::Span<const SafetensorsTensorPlan> tensors) {
  SafetensorsFileWriter writer(path);
  writer.starts_.resize(tensors.size());
  writer.sizes_.resize(tensors.size());
  nlohmann::json header = nlohmann::json::object();
  for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
  int64_t offset = 0;
  for (const size_t i : FileOrder(tensors)) {
    const int64_t size = BytesOf(tensors[i]);
    header[tensors[i].name] = {{"dtype", std::string(TypeName(tensors[i].type))},
                               {"shape", tensors[i].shape},
                               {"data_offsets", {offset, offset + size}}};
    writer.starts_[i] = offset;
    writer.sizes_[i] = size;
    offset += size;
  }
  NIBBLE_CHECK(header.size() == tensors.size() + (metadata.empty() ? 0 : 1));
  std::string preamble = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  preamble.resize((preamble.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  std::string length;
  for (int i = 0; i < 8; ++i) length.push_back(static_cast<char>(preamble.size() >> (8 * i)));
  preamble.insert(0, length);
  for (int64_t& start : writer.starts_) start += static_cast<int64_t>(preamble.size());
  writer.size_bytes_ = static_cast<int64_t>(preamble.size()) + offset;
  NIBBLE_RETURN_IF_ERROR(writer.file_->Create());
  NIBBLE_RETURN_IF_ERROR(writer.file_->Reserve(static_cast<uint64_t>(writer.size_bytes_)));
  NIBBLE_RETURN_IF_ERROR(writer.file_->WriteAt(
      0, {reinterpret_cast<const uint8_t*>(preamble.data()), preamble.size()}));
  return writer;
}

absl::Status SafetensorsFileWriter::Write(size_t index, int64_t offset,
                                          absl::Span<const uint8_t> bytes) {
  NIBBLE_CHECK(index < sizes_.size() && offset >= 0);
  NIBBLE_CHECK(offset + static_cast<int64_t>(bytes.size()) <= sizes_[index]);
  return file_->WriteAt(static_cast<uint64_t>(starts_[index] + offset), bytes);
}

absl::Status SafetensorsFileWriter::Finish() { return file_->Publish(); }

}  // namespace nibble
