#include "engine/model/matrix_loader.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "engine/model/pack_matrices.h"
#include "engine/model/packed_cache.h"

namespace nibble {
namespace {

absl::StatusOr<PackedFileKey> KeyOf(Backend& backend, const WeightSource& weights) {
  const PackedLayout layout = backend.packed_layout();
  PackedFileKey key;
  key.layout = layout.name;
  key.layout_version = layout.version;
  NIBBLE_ASSIGN_OR_RETURN(key.source, weights.Identity());
  return key;
}

// The bytes that were packed are those of `key` only if the model is still what it was before.
absl::Status SaveUnchanged(Backend& backend, const WeightSource& weights, const std::string& path,
                           const PackedFileKey& key, absl::Span<const MatrixRequest> requests) {
  NIBBLE_ASSIGN_OR_RETURN(const SourceIdentity now, weights.Identity());
  if (!(now == key.source)) {
    return absl::AbortedError("the model file was written to while it was read");
  }
  return SaveMatrices(backend, path, key, requests);
}

// Weights to be shared become the file's pages in the process that wrote it, too. One that packed
// them beside this one may have been faster: then there is nothing to write.
absl::Status Keep(Backend& backend, const WeightSource& weights, const PackedCache& cache,
                  const PackedFileKey& key, absl::Span<const MatrixRequest> requests) {
  const auto map = [&] { return LoadPacked(backend, cache.path, key, requests, /*share=*/true); };
  if (cache.share && map().ok()) return absl::OkStatus();
  NIBBLE_RETURN_IF_ERROR(SaveUnchanged(backend, weights, cache.path, key, requests));
  return cache.share ? map() : absl::OkStatus();
}

}  // namespace

LoadProgress::LoadProgress(const WeightSource& weights, std::function<void(int64_t, int64_t)> hear)
    : hear_(std::move(hear)), listener_(std::this_thread::get_id()) {
  for (const TensorReport& tensor : weights.Report()) {
    file_bytes_[tensor.name] = tensor.file_bytes;
    total_ += tensor.file_bytes;
  }
}

int64_t LoadProgress::FileBytes(const std::string& name) const {
  const auto found = file_bytes_.find(name);
  return found == file_bytes_.end() ? 0 : found->second;
}

void LoadProgress::Advance(int64_t bytes) { done_.fetch_add(bytes, std::memory_order_relaxed); }

void LoadProgress::Tell() const {
  if (hear_ && std::this_thread::get_id() == listener_) {
    hear_(done_.load(std::memory_order_relaxed), total_);
  }
}

absl::StatusOr<MatrixReport> LoadMatrices(Backend& backend, const WeightSource& weights,
                                          absl::Span<const MatrixRequest> requests,
                                          const PackedCache& cache, const Clock& clock,
                                          LoadProgress& progress) {
  const Instant start = clock.Now();
  MatrixReport report;
  report.threads = backend.Info().num_threads;
  report.cache = cache.path;
  absl::StatusOr<PackedFileKey> key = PackedFileKey();
  if (!cache.path.empty()) {
    key = KeyOf(backend, weights);
    const absl::Status loaded =
        key.ok() ? LoadPacked(backend, cache.path, *key, requests, cache.share) : key.status();
    report.from_cache = loaded.ok();
    if (!loaded.ok() && !absl::IsNotFound(loaded))
      report.cache_unused = std::string(loaded.message());
  }
  if (report.from_cache) {
    for (const MatrixRequest& request : requests)
      progress.Advance(progress.FileBytes(request.name));
  } else {
    NIBBLE_RETURN_IF_ERROR(PackMatrices(backend, weights, requests, progress));
  }
  for (const MatrixRequest& request : requests) report.bytes += (*request.out)->size_bytes();
  report.took = clock.Now() - start;
  if (!cache.path.empty() && !report.from_cache) {
    const Instant packed = clock.Now();
    report.written = key.ok() ? Keep(backend, weights, cache, *key, requests) : key.status();
    report.write_took = clock.Now() - packed;
  }
  return report;
}

}  // namespace nibble
