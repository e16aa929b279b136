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

absl::StatusOr<std::unique_ptr<PackedMatrix>> MatrixOf(Backend& backend, const PackedRecord& record,
                                                       const MatrixRequest& request,
                                                       const std::shared_ptr<const void>& owner) {
  PackedBytes bytes;
  bytes.header = record.header;
  for (const PackedSection& section : record.sections) bytes.sections.push_back(section.bytes);
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> matrix, backend.FromBytes(bytes, owner));
  if (matrix->rows() != request.rows || matrix->cols() != request.cols) {
    return absl::DataLossError(absl::StrCat("has matrix '", request.name, "' of [", matrix->rows(),
                                            ", ", matrix->cols(), "], needed [", request.rows, ", ",
                                            request.cols, "]"));
  }
  return matrix;
}

// What is used is what was verified: a copy is compared after it was made.
absl::Status VerifyMatrix(Backend& backend, const PackedMatrix& matrix, PackedRecord record) {
  const PackedBytes bytes = backend.ToBytes(matrix);
  for (size_t i = 0; i < record.sections.size(); ++i) {
    record.sections[i].bytes = bytes.sections[i];
    NIBBLE_RETURN_IF_ERROR(VerifySection(record, i));
  }
  return absl::OkStatus();
}

absl::Status LoadOne(Backend& backend, const PackedFile& file, const MatrixRequest& request,
                     bool share, std::unique_ptr<PackedMatrix>* out) {
  const PackedRecord* const record = file.Find(request.name);
  if (record == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("has no matrix '", request.name, "'"));
  }
  NIBBLE_ASSIGN_OR_RETURN(*out,
                          MatrixOf(backend, *record, request, share ? file.owner() : nullptr));
  for (const PackedSection& section : record->sections) {
    if (!share) file.Drop(section);
  }
  return VerifyMatrix(backend, **out, *record);
}

absl::Status LoadAll(Backend& backend, const PackedFile& file, const PackedFileKey& key,
                     absl::Span<const MatrixRequest> requests, bool share) {
  NIBBLE_RETURN_IF_ERROR(CheckKey(file.key(), key));
  std::vector<std::unique_ptr<PackedMatrix>> matrices(requests.size());
  std::vector<absl::Status> statuses(requests.size());
  std::atomic<size_t> next{0};
  backend.RunParts(backend.Info().num_threads, [&](int) {
    for (size_t i = next++; i < requests.size(); i = next++) {
      statuses[i] = LoadOne(backend, file, requests[i], share, &matrices[i]);
    }
  });
  for (absl::Status& status : statuses) NIBBLE_RETURN_IF_ERROR(std::move(status));
  for (size_t i = 0; i < requests.size(); ++i) *requests[i].out = std::move(matrices[i]);
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadPacked(Backend& backend, const std::string& path, const PackedFileKey& key,
                        absl::Span<const MatrixRequest> requests, bool share) {
  NIBBLE_ASSIGN_OR_RETURN(const PackedFile file, PackedFile::Open(path));
  const absl::Status status = LoadAll(backend, file, key, requests, share);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::Status SaveMatrices(Backend& backend, const std::string& path, const PackedFileKey& key,
                          absl::Span<const MatrixRequest> requests) {
  std::vector<PackedRecord> records;
  std::vector<std::shared_ptr<const void>> owners;  // of copies, until they are written
  for (const MatrixRequest& request : requests) {
    PackedBytes bytes = backend.ToBytes(**request.out);
    PackedRecord& record = records.emplace_back();
    record.name = request.name;
    record.header = std::move(bytes.header);
    for (const absl::Span<const uint8_t> section : bytes.sections) {
      record.sections.push_back({.bytes = section});
    }
    owners.push_back(std::move(bytes.owner));
  }
  ForEachSection(backend, records, [&](SectionOf at) {
    PackedSection& section = records[at.record].sections[at.section];
    section.checksum = Checksum(section.bytes);
  });
  return WritePackedFile(path, key, records);
}

}  // namespace nibble
