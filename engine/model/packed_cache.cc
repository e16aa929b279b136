#include "engine/model/packed_cache.h"

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

struct SectionOf {
  size_t record = 0;
  size_t section = 0;
};

// Calls fn for every section of the records, on the backend's host threads.
void ForEachSection(Backend& backend, absl::Span<const PackedRecord> records,
                    absl::FunctionRef<void(SectionOf)> fn) {
  std::vector<SectionOf> all;
  for (size_t r = 0; r < records.size(); ++r) {
    for (size_t s = 0; s < records[r].sections.size(); ++s) all.push_back({r, s});
  }
  std::atomic<size_t> next{0};
  backend.RunParts(backend.Info().num_threads, [&](int) {
    for (size_t i = next++; i < all.size(); i = next++) fn(all[i]);
  });
}

absl::Status CheckContent(Backend& backend, absl::Span<const PackedRecord> records) {
  std::vector<absl::Status> found(records.size() * kMaxPackedSections);
  ForEachSection(backend, records, [&](SectionOf at) {
    found[at.record * kMaxPackedSections + at.section] =
        VerifySection(records[at.record], at.section);
  });
  for (absl::Status& status : found) NIBBLE_RETURN_IF_ERROR(std::move(status));
  return absl::OkStatus();
}

absl::Status CheckKey(const PackedFileKey& found, const PackedFileKey& needed) {
  if (found.layout != needed.layout || found.layout_version != needed.layout_version) {
    return absl::FailedPreconditionError(absl::StrCat("has the packed layout ", found.layout, " ",
                                                      found.layout_version, ", this program needs ",
                                                      needed.layout, " ", needed.layout_version));
  }
  if (found.source.digest != needed.source.digest) {
    return absl::FailedPreconditionError("was made from another model file");
  }
  if (found.source != needed.source) {
    return absl::FailedPreconditionError("was made before the model file was last written");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> MatrixOf(Backend& backend, const PackedFile& file,
                                                       const MatrixRequest& request) {
  const PackedRecord* const record = file.Find(request.name);
  if (record == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("has no matrix '", request.name, "'"));
  }
  PackedBytes bytes;
  bytes.header = record->header;
  for (const PackedSection& section : record->sections) bytes.sections.push_back(section.bytes);
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> matrix,
                          backend.FromBytes(bytes, file.owner()));
  if (matrix->rows() != request.rows || matrix->cols() != request.cols) {
    return absl::DataLossError(absl::StrCat("has matrix '", request.name, "' of [", matrix->rows(),
                                            ", ", matrix->cols(), "], needed [", request.rows, ", ",
                                            request.cols, "]"));
  }
  return matrix;
}

absl::Status MapAll(Backend& backend, const PackedFile& file, const PackedFileKey& key,
                    absl::Span<const MatrixRequest> requests) {
  NIBBLE_RETURN_IF_ERROR(CheckKey(file.key(), key));
  std::vector<std::unique_ptr<PackedMatrix>> matrices;
  for (const MatrixRequest& request : requests) {
    NIBBLE_ASSIGN_OR_RETURN(matrices.emplace_back(), MatrixOf(backend, file, request));
  }
  NIBBLE_RETURN_IF_ERROR(CheckContent(backend, file.records()));
  for (size_t i = 0; i < requests.size(); ++i) *requests[i].out = std::move(matrices[i]);
  return absl::OkStatus();
}

}  // namespace

absl::Status MapMatrices(Backend& backend, const std::string& path, const PackedFileKey& key,
                         absl::Span<const MatrixRequest> requests) {
  NIBBLE_ASSIGN_OR_RETURN(const PackedFile file, PackedFile::Open(path));
  const absl::Status status = MapAll(backend, file, key, requests);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::Status SaveMatrices(Backend& backend, const std::string& path, const PackedFileKey& key,
                          absl::Span<const MatrixRequest> requests) {
  std::vector<PackedRecord> records;
  for (const MatrixRequest& request : requests) {
    PackedBytes bytes = backend.ToBytes(**request.out);
    PackedRecord& record = records.emplace_back();
    record.name = request.name;
    record.header = std::move(bytes.header);
    for (const absl::Span<const uint8_t> section : bytes.sections) {
      record.sections.push_back({.bytes = section});
    }
  }
  ForEachSection(backend, records, [&](SectionOf at) {
    PackedSection& section = records[at.record].sections[at.section];
    section.checksum = Checksum(section.bytes);
  });
  return WritePackedFile(path, key, records);
}

}  // namespace nibble
