#include "engine/weights/gguf_tensors.h"

#include <limits>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

absl::Status ReadDims(ByteReader& reader, GgufTensor& tensor) {
  NIBBLE_ASSIGN_OR_RETURN(const uint32_t num_dims,
                          reader.Read<uint32_t>("a tensor's number of dimensions"));
  if (num_dims < 1 || num_dims > kMaxGgufDims) {
    return absl::DataLossError(absl::StrCat("tensor '", tensor.name, "' has ", num_dims,
                                            " dimensions, needed 1 to ", kMaxGgufDims));
  }
  tensor.num_elements = 1;
  for (uint32_t i = 0; i < num_dims; ++i) {
    NIBBLE_ASSIGN_OR_RETURN(const uint64_t dim, reader.Read<uint64_t>("a tensor's dimensions"));
    const auto room =
        static_cast<uint64_t>(std::numeric_limits<int64_t>::max() / tensor.num_elements);
    if (dim == 0 || dim > room) {
      return absl::DataLossError(
          absl::StrCat("tensor '", tensor.name, "' has dimension ", i, " of ", dim,
                       ", needed 1 or more and fewer than 2^63 elements in all"));
    }
    tensor.dims.push_back(static_cast<int64_t>(dim));
    tensor.num_elements *= static_cast<int64_t>(dim);
  }
  return absl::OkStatus();
}

absl::Status SetSize(GgufTensor& tensor) {
  const GgmlTypeInfo info = TypeInfo(tensor.ggml_type);
  if (info.block_bytes == 0) {
    return absl::UnimplementedError(absl::StrCat("tensor '", tensor.name, "' has ", info.name,
                                                 ", which is not a type this program knows"));
  }
  if (tensor.dims[0] % info.block_elements != 0) {
    return absl::DataLossError(absl::StrCat("tensor '", tensor.name, "' has rows of ",
                                            tensor.dims[0], " elements, ", info.name,
                                            " needs a multiple of ", info.block_elements));
  }
  const int64_t blocks = tensor.num_elements / info.block_elements;
  if (blocks > std::numeric_limits<int64_t>::max() / info.block_bytes) {
    return absl::DataLossError(absl::StrCat("tensor '", tensor.name, "' has [",
                                            absl::StrJoin(tensor.dims, ", "), "] elements of ",
                                            info.name, ", more than 2^63 bytes"));
  }
  tensor.size_bytes = blocks * info.block_bytes;
  return absl::OkStatus();
}

absl::StatusOr<GgufTensor> ReadTensor(ByteReader& reader, uint64_t index) {
  GgufTensor tensor;
  NIBBLE_ASSIGN_OR_RETURN(const absl::string_view name,
                          reader.ReadString(absl::StrCat("the name of tensor ", index)));
  if (!IsPrintableName(name, kMaxGgufTensorName)) {
    return absl::DataLossError(absl::StrCat("tensor ", index, " is named ", QuoteForMessage(name),
                                            ", needed 1 to ", kMaxGgufTensorName,
                                            " printable ASCII characters"));
  }
  tensor.name = std::string(name);
  NIBBLE_RETURN_IF_ERROR(ReadDims(reader, tensor));
  NIBBLE_ASSIGN_OR_RETURN(tensor.ggml_type, reader.Read<int32_t>("a tensor's type"));
  NIBBLE_RETURN_IF_ERROR(SetSize(tensor));
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t offset, reader.Read<uint64_t>("a tensor's offset"));
  if (offset > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::DataLossError(
        absl::StrCat("tensor '", tensor.name, "' has offset ", offset, ", needed less than 2^63"));
  }
  tensor.offset = static_cast<int64_t>(offset);
  return tensor;
}

}  // namespace

absl::StatusOr<std::vector<GgufTensor>> ReadTensorTable(ByteReader& reader, uint64_t count) {
  if (count > kMaxGgufTensors) {
    return absl::DataLossError(
        absl::StrCat("claims ", count, " tensors, at most ", kMaxGgufTensors, " are read"));
  }
  std::vector<GgufTensor> tensors;
  std::set<std::string> names;
  for (uint64_t i = 0; i < count; ++i) {
    NIBBLE_ASSIGN_OR_RETURN(GgufTensor tensor, ReadTensor(reader, i));
    if (!names.insert(tensor.name).second) {
      return absl::DataLossError(absl::StrCat("tensor '", tensor.name, "' appears twice"));
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

absl::Status CheckTensorOffsets(absl::Span<const GgufTensor> tensors, uint64_t alignment,
                                uint64_t data_bytes) {
  uint64_t expected = 0;  // <= data_bytes + alignment, so it cannot overflow
  for (const GgufTensor& tensor : tensors) {
    const auto offset = static_cast<uint64_t>(tensor.offset);
    const auto size = static_cast<uint64_t>(tensor.size_bytes);
    if (offset != expected) {
      return absl::DataLossError(
          absl::StrCat("tensor '", tensor.name, "' is at offset ", offset, ", needed ", expected,
                       " (tensors follow each other, padded to ", alignment, ")"));
    }
    if (offset > data_bytes || size > data_bytes - offset) {
      return absl::DataLossError(
          absl::StrCat("tensor '", tensor.name, "' needs ", size, " bytes at offset ", offset,
                       ", the data section has ", data_bytes, "; is the file truncated?"));
    }
    expected = (offset + size + alignment - 1) / alignment * alignment;
  }
  return absl::OkStatus();
}

}  // namespace nibble
