#include "engine/weights/source_identity.h"

#include <algorithm>
#include <vector>

#include "engine/base/status_macros.h"

namespace nibble {
namespace {

constexpr int64_t kSampleBytes = 4096;  // a page: what a read costs at least

}  // namespace

absl::StatusOr<SourceIdentity> IdentityOf(const GgufFile& file) {
  SourceIdentity identity;
  identity.size_bytes = static_cast<uint64_t>(file.size_bytes());
  NIBBLE_ASSIGN_OR_RETURN(identity.modified_ns, file.ModifiedNs());
  const Digest preamble = Sha256(file.Preamble());
  std::vector<uint8_t> digests(preamble.begin(), preamble.end());
  std::vector<uint8_t> buffer;
  for (const GgufTensor& tensor : file.tensors()) {
    NIBBLE_ASSIGN_OR_RETURN(
        const absl::Span<const uint8_t> sample,
        file.Read(tensor, 0, std::min(kSampleBytes, tensor.size_bytes), buffer));
    const Digest digest = Sha256(sample);
    digests.insert(digests.end(), digest.begin(), digest.end());
  }
  identity.digest = Sha256(digests);
  return identity;
}

}  // namespace nibble
