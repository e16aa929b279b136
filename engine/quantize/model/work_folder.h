// What an interrupted run leaves beside its output, and the next one of the same work begins from:
// the finished layers, in a folder named OUTPUT.resume.
//
//   run         what the work is: lines "key: value", and a line with their SHA-256
//   layer-0007  a finished layer (layer_record.h)
//   *.partial   what was being written when the run ended; scratch.*: nothing that lasts
//
// The folder belongs to one process while it is open (flock). Only files of these names are ever
// removed. Destroyed with no layer finished, or after Remove, nothing of it stays.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/quantize/calibration/layer_journal.h"
#include "engine/quantize/model/layer_record.h"
#include "engine/quantize/model/model_sink.h"

namespace nibble::quantize {

// What must be the same for two runs to make the same bytes, as names and values for people: the
// source and the text by their SHA-256, the method, its options, which tensors get codes, the
// instruction set of the products, the program.
using WorkIdentity = std::vector<std::pair<std::string, std::string>>;
WorkIdentity IdentityOf(const ModelPlan& plan, const LayerwiseOptions& options,
                        absl::Span<const std::vector<int32_t>> windows);

struct WorkFolderOptions {
  std::string output;  // of the run; the folder is OUTPUT.resume
  WorkIdentity identity;
  int32_t num_layers = 0;
  bool resume = true;  // false: what is there is removed
  // Hears of layers that are damaged and will be made again; may be empty.
  std::function<void(const std::string&)> note;
};

class WorkFolder final : public LayerJournal {
 public:
  // Looks through all layers that are there, and drops those that are damaged. FAILED_PRECONDITION
  // where the folder holds the layers of other work (names the first difference, and what there is
  // to do) or files that are none of ours; UNAVAILABLE where another process has it open;
  // otherwise the errors of PartialFile.
  static absl::StatusOr<std::unique_ptr<WorkFolder>> Open(WorkFolderOptions options);
  ~WorkFolder() override;

  const std::string& path() const { return path_; }
  int32_t num_finished() const;

  bool Has(int32_t layer) const override { return finished_[static_cast<size_t>(layer)]; }
  absl::StatusOr<LayerResult> Restore(int32_t layer) override;
  absl::Status Begin(int32_t layer) override;
  absl::Status Matrix(const std::string& name, const MatrixF& values,
                      const QuantizedWeight* weight) override;
  absl::Status Vector(const std::string& name, const VectorF& values) override;
  void InputRange(int32_t layer, Site site, float max) override;
  absl::Status End(absl::Span<const LinearReport> reports) override;

  // The work is done: the folder goes. What the disk says to that is not this run's trouble.
  void Remove();

 private:
  explicit WorkFolder(WorkFolderOptions options);

  std::string LayerPath(int32_t layer) const;
  absl::Status Lock();
  // Whether `run` is there and whole, and of this work.
  absl::StatusOr<bool> IsOfThisWork() const;
  absl::Status Empty() const;
  void FindLayers();

  const WorkFolderOptions options_;
  const std::string path_;
  int fd_ = -1;
  bool ours_ = false;  // its files are this work's, or none
  std::vector<bool> finished_;
  int32_t layer_ = -1;                         // that is being written
  std::unique_ptr<LayerRecordWriter> writer_;  // its
  absl::Status range_status_;                  // of InputRange, told by End
};

}  // namespace nibble::quantize
