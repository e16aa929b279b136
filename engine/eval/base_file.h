// What a base model says at every scored position of a text, kept in a file: candidates are then
// compared with it one after the other, on any day and machine, without running the base again.
//
//   offset  size
//   0       8     "nibblekl"
//   8       4     0x01020304 in the writer's byte order, which is that of all numbers here
//   12      4     version of this format: 1
//   16      8     size of the file
//   24      4     words of the vocabulary
//   28      16    window, skip, stride, bos_id (windows.h), i32 each
//   44      4     bytes of the description
//   48      8     windows
//   56      8     scored positions of all of them
//   64      32    SHA-256 of the text's token ids, i32 each
//   96      8     checksum of the header, this field as 0, followed by the description
//   104           description: which model, how it ran; printable ASCII
//           ...   the positions, in order:
//                   u64 checksum of the rest, with the position's number mixed in
//                   f32 log p of the token that follows, exact
//                   f32 step
//                   u16 code of each word: log p = -step * code, up to a constant; 0 is the
//                   likeliest
//
// 16 + 2 bytes a word of the vocabulary for each position, half of what f32 takes. The step is the
// spread of the position's log p over 65,535, 0.0005 for a spread of 30 nats: a code is off by
// at most half of it, either way. The mean KL moves by less than 1e-7 nats for it
// (docs/quantization.md has it measured); the likeliest word stays the likeliest.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/eval/base_distributions.h"
#include "engine/eval/estimate.h"

namespace nibble {

inline constexpr uint32_t kMaxBaseDescription = 1024;  // bytes

struct BaseFileInfo {
  std::string description;
  int32_t vocab_size = 0;
  WindowOptions windows;
  int64_t num_windows = 0;
  int64_t num_positions = 0;
  int64_t size_bytes = 0;
  int64_t position_bytes = 0;  // of one position
  Estimate nll;                // of the text; only from SaveBaseFile
};

// Runs the windows through `base` and writes the file, complete or not at all (partial_file.h).
// Memory: one position. INVALID_ARGUMENT as CheckWindows; INTERNAL for logits that are not finite;
// the errors of PartialFile, RESOURCE_EXHAUSTED before any work where the disk has no room.
// FAILED_PRECONDITION where `path` is something else than a base file.
// REQUIRES a printable description. `progress` (may be null) hears windows done and total.
absl::StatusOr<BaseFileInfo> SaveBaseFile(LogitsRunner& base, absl::Span<const int32_t> ids,
                                          const WindowOptions& options,
                                          const std::string& description, const std::string& path,
                                          std::function<void(int64_t, int64_t)> progress);

class BaseFile : public BaseDistributions {
 public:
  // NOT_FOUND, PERMISSION_DENIED; UNIMPLEMENTED for another version or byte order; DATA_LOSS says
  // what is wrong. Positions are checked when they are read.
  static absl::StatusOr<std::unique_ptr<BaseFile>> Open(const std::string& path);
  // The same over bytes in memory, which must outlive the object (tests, fuzzing).
  static absl::StatusOr<std::unique_ptr<BaseFile>> Parse(absl::Span<const uint8_t> bytes,
                                                         absl::string_view name);

  virtual const BaseFileInfo& info() const = 0;
};

}  // namespace nibble
