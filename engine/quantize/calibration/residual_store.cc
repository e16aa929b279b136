#include "engine/quantize/calibration/residual_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/weights/partial_file.h"

namespace nibble::quantize {
namespace {

int64_t BytesOf(const MatrixF& matrix) { return matrix.size() * int64_t{sizeof(float)}; }

uint64_t ChecksumOf(const MatrixF& matrix) {
  return Checksum(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(matrix.data()),
                                      static_cast<size_t>(BytesOf(matrix))));
}

absl::StatusOr<int> OpenScratch(const std::string& folder) {
  const int nameless = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
  if (nameless >= 0) return nameless;
  if (errno != EOPNOTSUPP && errno != EISDIR) return FileError(folder, "a scratch file", errno);
  std::string path = folder + "/scratch.XXXXXX";  // file systems without O_TMPFILE
  const int named = mkostemp(path.data(), O_CLOEXEC);
  if (named < 0) return FileError(path, "creating it", errno);
  unlink(path.c_str());
  return named;
}

}  // namespace

ResidualStore::ResidualStore(std::string folder, int64_t memory_bytes)
    : folder_(std::move(folder)), memory_bytes_(memory_bytes) {}

ResidualStore::~ResidualStore() {
  if (fd_ >= 0) close(fd_);
}

absl::Status ResidualStore::Add(MatrixF residual) {
  Place place;
  place.rows = residual.rows();
  place.cols = residual.cols();
  place.offset = bytes_;
  bytes_ += BytesOf(residual);
  if (!in_file() && !folder_.empty() && bytes_ > memory_bytes_) NIBBLE_RETURN_IF_ERROR(Spill());
  if (in_file()) {
    NIBBLE_RETURN_IF_ERROR(Write(place, residual));
  } else {
    place.residual = std::move(residual);
  }
  places_.push_back(std::move(place));
  return absl::OkStatus();
}

absl::Status ResidualStore::Spill() {
  NIBBLE_ASSIGN_OR_RETURN(fd_, OpenScratch(folder_));
  for (Place& place : places_) {
    NIBBLE_RETURN_IF_ERROR(Write(place, place.residual));
    place.residual.resize(0, 0);
  }
  return absl::OkStatus();
}

absl::Status ResidualStore::Write(Place& place, const MatrixF& residual) {
  const auto* bytes = reinterpret_cast<const char*>(residual.data());
  int64_t done = 0;
  while (done < BytesOf(residual)) {
    const ssize_t n = pwrite(fd_, bytes + done, static_cast<size_t>(BytesOf(residual) - done),
                             place.offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(folder_, "writing a scratch file of the text's residuals", errno);
    done += n;
  }
  place.checksum = ChecksumOf(residual);
  return absl::OkStatus();
}

absl::StatusOr<MatrixF> ResidualStore::Take(size_t i) {
  Place& place = places_[i];
  if (!in_file()) return std::exchange(place.residual, MatrixF());
  MatrixF residual(place.rows, place.cols);
  auto* bytes = reinterpret_cast<char*>(residual.data());
  int64_t done = 0;
  while (done < BytesOf(residual)) {
    const ssize_t n = pread(fd_, bytes + done, static_cast<size_t>(BytesOf(residual) - done),
                            place.offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(folder_, "reading a scratch file of the text's residuals", errno);
    if (n == 0) break;
    done += n;
  }
  if (done < BytesOf(residual) || ChecksumOf(residual) != place.checksum) {
    return absl::DataLossError(absl::StrCat(
        folder_, ": a scratch file does not give back what was written to it; is the disk sound?"));
  }
  return residual;
}

absl::Status ResidualStore::Return(size_t i, MatrixF residual, bool changed) {
  Place& place = places_[i];
  if (!in_file()) {
    place.residual = std::move(residual);
    return absl::OkStatus();
  }
  return changed ? Write(place, residual) : absl::OkStatus();
}

}  // namespace nibble::quantize
