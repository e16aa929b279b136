// How much each input column of a matrix matters: the mean square of the activations that meet it,
// over a calibration text. Called an importance matrix, though it is a vector a matrix.
//
// Files are those of llama.cpp's imatrix: GGUF (general.type "imatrix"; for each matrix NAME an f32
// tensor NAME.in_sum2 [columns] of sums of squares and NAME.counts [1] of how many were summed), or
// the older .dat (i32 number of entries; for each an i32 length and the name, i32 calls, i32 n, n
// f32 of sums).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace nibble {

// A model of 405 billion weights has 70 MiB of it.
inline constexpr uint64_t kMaxImportanceBytes = uint64_t{1} << 30;

class Importance {
 public:
  // DATA_LOSS where the file is neither kind, is cut short, or holds a number that is negative or
  // not finite; RESOURCE_EXHAUSTED over kMaxImportanceBytes; the errors of MappedFile::Open.
  static absl::StatusOr<Importance> Read(const std::string& path);

  // Writes the GGUF kind. Errors of PartialFile.
  absl::Status Write(const std::string& path, int32_t chunks, int32_t chunk_size) const;

  // Sums of squares over `rows` activations of matrix `name`; replaces what was there. 0 rows: the
  // sums are means already. DATA_LOSS for a sum, a mean or `rows` that is negative or not finite:
  // such a column would choose the scales of all.
  absl::Status Set(absl::string_view name, std::vector<float> sums, float rows);
  // Mean squares. Empty: nothing is known of it.
  absl::Span<const float> Find(absl::string_view name) const;
  size_t size() const { return columns_.size(); }

 private:
  struct Columns {
    std::vector<float> sums, means;
    float rows = 0;
  };
  std::map<std::string, Columns, std::less<>> columns_;
};

}  // namespace nibble
