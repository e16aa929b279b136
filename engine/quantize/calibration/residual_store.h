// The residuals of a calibration text's windows between two steps: in memory while they are few,
// all of them in a scratch file once they are more than `memory_bytes`.
//
// The file has no name (O_TMPFILE, or unlinked at once): a killed process leaves nothing. What is
// written to it and read again goes through the page cache, which the system takes back when it
// needs to; a process's own memory it cannot.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/quantize/methods/dense.h"

namespace nibble::quantize {

// 16 MiB is 7,000 tokens of a hidden size of 576, a quick look at a model. Beyond it a step copies
// through the page cache at GB/s what it then spends a thousand times as long on.
inline constexpr int64_t kResidualMemoryBytes = int64_t{16} << 20;

class ResidualStore {
 public:
  // `folder` is where the scratch file would be; empty: there is none, whatever the size.
  ResidualStore(std::string folder, int64_t memory_bytes);
  ~ResidualStore();
  ResidualStore(const ResidualStore&) = delete;
  ResidualStore& operator=(const ResidualStore&) = delete;

  // Before the first Take. Errors of the file: FileError's, RESOURCE_EXHAUSTED where the disk is
  // full.
  absl::Status Add(MatrixF residual);

  size_t size() const { return places_.size(); }
  bool in_file() const { return fd_ >= 0; }

  // Number i, to be worked on; until Return the store may not have it. Any thread, one at a time
  // for each i. DATA_LOSS where the file does not give back what was written.
  absl::StatusOr<MatrixF> Take(size_t i);
  // `changed` false: the residual is what Take gave, and need not be written again.
  absl::Status Return(size_t i, MatrixF residual, bool changed);

 private:
  struct Place {
    MatrixF residual;  // empty while it is taken or in the file
    int64_t rows = 0, cols = 0;
    int64_t offset = 0;     // in the file
    uint64_t checksum = 0;  // of what was written there
  };
  absl::Status Spill();
  absl::Status Write(Place& place, const MatrixF& residual);

  const std::string folder_;
  const int64_t memory_bytes_;
  std::vector<Place> places_;
  int64_t bytes_ = 0;
  int fd_ = -1;
};

}  // namespace nibble::quantize
