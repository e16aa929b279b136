// The caching half of matrix_loader.h: packed matrices from a PackedFile and into one.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/model/matrix_loader.h"
#include "engine/weights/packed_file.h"

namespace nibble {

// Fills every request from the file at `path`, if it holds these matrices of this source in this
// backend's layout and every byte of them is what was written: all content is checked, on the
// backend's host threads. With `share`, matrices stay pages of the file, which other processes that
// do the same share; otherwise they are copied to where the device reads weights fastest, and the
// file is needed no more. Fills none, and says why, where anything is wrong: NOT_FOUND where there
// is no file; FAILED_PRECONDITION for one of another model, an older model or another layout; and
// the errors of PackedFile::Open and Backend::FromBytes.
absl::Status LoadPacked(Backend& backend, const std::string& path, const PackedFileKey& key,
                        absl::Span<const MatrixRequest> requests, bool share);

// Writes the matrices that `requests` were filled with. Errors as WritePackedFile.
absl::Status SaveMatrices(Backend& backend, const std::string& path, const PackedFileKey& key,
                          absl::Span<const MatrixRequest> requests);

}  // namespace nibble
