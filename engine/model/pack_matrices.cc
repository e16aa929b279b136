#include "engine/model/pack_matrices.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/mutex.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// A matrix on its way: its packer, and how many of its pieces are not packed yet.
struct Job {
  const MatrixRequest* request = nullptr;
  std::unique_ptr<MatrixPacker> packer;
  size_t first_piece = 0;
  size_t num_pieces = 0;
  std::atomic<size_t> unfinished{0};
};

struct Piece {
  size_t job = 0;
  RowRange rows;
};

int32_t RowsOfPiece(const MatrixRequest& request) {
  constexpr int64_t kMultiple = MatrixPacker::kRowMultiple;
  const int64_t fitting = kPieceElements / std::max(request.cols, 1) / kMultiple * kMultiple;
  return static_cast<int32_t>(std::max(fitting, kMultiple));
}

class Packing {
 public:
  Packing(Backend& backend, const WeightSource& weights, absl::Span<const MatrixRequest> requests,
          LoadProgress& progress)
      : weights_(weights), progress_(progress), jobs_(requests.size()) {
    for (size_t i = 0; i < requests.size(); ++i) {
      Job& job = jobs_[i];
      job.request = &requests[i];
      job.packer = backend.StartPacking(requests[i].rows);
      job.first_piece = pieces_.size();
      const int32_t step = RowsOfPiece(requests[i]);
      for (int32_t row = 0; row < requests[i].rows; row += step) {
        pieces_.push_back({i, {row, std::min(step, requests[i].rows - row)}});
      }
      job.num_pieces = pieces_.size() - job.first_piece;
      job.unfinished = job.num_pieces;
    }
  }

  // What each thread does. Pieces are claimed in order and none is left half done, so the first
  // error in that order is always found.
  void Work() {
    while (!failed_.load(std::memory_order_relaxed)) {
      const size_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= pieces_.size()) return;
      absl::Status status = PackPiece(pieces_[index]);
      if (status.ok()) status = Finished(pieces_[index]);
      if (!status.ok()) Fail(index, std::move(status));
      progress_.Tell();
    }
  }

  absl::Status status() {
    MutexLock lock(mutex_);
    return status_;
  }

 private:
  absl::Status PackPiece(const Piece& piece) {
    const Job& job = jobs_[piece.job];
    const MatrixRequest& request = *job.request;
    NIBBLE_ASSIGN_OR_RETURN(
        const quant::Matrix matrix,
        weights_.LoadRows(request.name, request.rows, request.cols, piece.rows));
    const absl::Status status = job.packer->Add(piece.rows.first, matrix);
    if (status.ok()) return status;
    return absl::Status(status.code(),
                        absl::StrCat("tensor '", request.name, "': ", status.message()));
  }

  // Who packs the last piece of a matrix finishes it, and packs all of it once more where the
  // values of the pieces turned out to need a wider layout than the first of them.
  absl::Status Finished(const Piece& piece) {
    Job& job = jobs_[piece.job];
    const int64_t bytes = progress_.FileBytes(job.request->name);
    const auto share = [&](int64_t row) { return bytes * row / job.request->rows; };
    progress_.Advance(share(piece.rows.first + piece.rows.count) - share(piece.rows.first));
    if (job.unfinished.fetch_sub(1, std::memory_order_acq_rel) != 1) return absl::OkStatus();
    std::unique_ptr<PackedMatrix> packed = job.packer->Finish();
    if (packed == nullptr) {
      for (size_t i = 0; i < job.num_pieces; ++i) {
        NIBBLE_RETURN_IF_ERROR(PackPiece(pieces_[job.first_piece + i]));
      }
      packed = job.packer->Finish();
      NIBBLE_CHECK(packed != nullptr);
    }
    job.packer.reset();
    *job.request->out = std::move(packed);
    return absl::OkStatus();
  }

  void Fail(size_t index, absl::Status status) {
    MutexLock lock(mutex_);
    if (status_.ok() || index < failed_piece_) {
      status_ = std::move(status);
      failed_piece_ = index;
    }
    failed_.store(true, std::memory_order_relaxed);
  }

  const WeightSource& weights_;
  LoadProgress& progress_;
  std::vector<Job> jobs_;
  std::vector<Piece> pieces_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> failed_{false};
  Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  size_t failed_piece_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

absl::Status PackMatrices(Backend& backend, const WeightSource& weights,
                          absl::Span<const MatrixRequest> requests, LoadProgress& progress) {
  Packing packing(backend, weights, requests, progress);
  backend.RunParts(backend.Info().num_threads, [&](int) { packing.Work(); });
  return packing.status();
}

}  // namespace nibble
