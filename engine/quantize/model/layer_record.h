// A finished layer in a file, so that an interrupted run need not make it again.
//
//   "nblayer1"            8 bytes
//   frames, in order      u64 size, u64 checksum (XXH3) of the payload, payload: u8 kind, the rest
//                         as layer_record.cc has it; a matrix, a vector, a range, the reports
//   the reports' frame    is the last one: a file that ends before it, or goes on after it, is
//                         damaged
//
// Numbers in the machine's byte order: a record is for the machine that wrote it. Codes take a byte
// each. Written as PATH.partial, synced and renamed (engine/weights/partial_file.h): a file of this
// name was once whole, and the checksums tell what the disk has done to it since.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/quantize/calibration/layer_journal.h"
#include "engine/weights/partial_file.h"

namespace nibble::quantize {

class LayerRecordWriter {
 public:
  // Errors of all calls: PartialFile's, RESOURCE_EXHAUSTED where the disk is full.
  static absl::StatusOr<std::unique_ptr<LayerRecordWriter>> Create(const std::string& path);

  absl::Status Matrix(const std::string& name, const MatrixF& values,
                      const QuantizedWeight* weight);
  absl::Status Vector(const std::string& name, const VectorF& values);
  absl::Status Range(Site site, float max);
  // Syncs it and gives it its name.
  absl::Status Finish(absl::Span<const LinearReport> reports);

 private:
  explicit LayerRecordWriter(const std::string& path) : file_(path) {}
  absl::Status Frame(const std::vector<uint8_t>& payload);

  PartialFile file_;
};

// NOT_FOUND where there is none; DATA_LOSS says what is wrong. Memory: the file, and the result.
absl::StatusOr<LayerResult> ReadLayerRecord(const std::string& path);
// Whether every frame is there and as it was written. Reads the file once, a frame in memory.
absl::Status CheckLayerRecord(const std::string& path);

}  // namespace nibble::quantize
