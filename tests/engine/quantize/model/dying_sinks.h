// A sink and a journal that pass on all they are told, in a process that ends at a chosen call.
#pragma once

#include <unistd.h>

#include <string>
#include <vector>

#include "engine/quantize/calibration/layer_journal.h"
#include "engine/quantize/model/model_sink.h"

namespace nibble::quantize {

// Ends the process as a kill does, before the `calls`-th call: no destructor runs.
class Fuse {
 public:
  explicit Fuse(int calls) : left_(calls) {}
  void Call() {
    if (--left_ == 0) _exit(kKilled);
  }
  static constexpr int kKilled = 9;

 private:
  int left_;
};

class DyingSink final : public ModelSink {
 public:
  DyingSink(ModelSink& real, Fuse& fuse) : real_(real), fuse_(fuse) {}
  absl::Status Accepts(const Method& method) const override { return real_.Accepts(method); }
  bool WantsCodes(const std::string& name) const override { return real_.WantsCodes(name); }
  absl::Status Begin(const ModelPlan& plan) override { return Dying(real_.Begin(plan)); }
  absl::Status Codes(const std::string& name, const QuantizedWeight& weight) override {
    return Dying(real_.Codes(name, weight));
  }
  absl::StatusOr<double> Rows(const std::string& name, int64_t first,
                              const MatrixF& values) override {
    fuse_.Call();
    return real_.Rows(name, first, values);
  }
  bool Keeps(const std::string& name) const override { return real_.Keeps(name); }
  absl::Status Raw(const std::string& name, int64_t offset,
                   absl::Span<const uint8_t> bytes) override {
    return Dying(real_.Raw(name, offset, bytes));
  }
  absl::Status Finish(const std::vector<TensorError>& errors) override {
    fuse_.Call();
    return Dying(real_.Finish(errors));
  }

 private:
  absl::Status Dying(absl::Status status) {
    fuse_.Call();
    return status;
  }
  ModelSink& real_;
  Fuse& fuse_;
};

class DyingJournal final : public LayerJournal {
 public:
  DyingJournal(LayerJournal& real, Fuse& fuse) : real_(real), fuse_(fuse) {}
  bool Has(int32_t layer) const override { return real_.Has(layer); }
  absl::StatusOr<LayerResult> Restore(int32_t layer) override {
    fuse_.Call();
    return real_.Restore(layer);
  }
  absl::Status Begin(int32_t layer) override { return Dying(real_.Begin(layer)); }
  absl::Status Matrix(const std::string& name, const MatrixF& values,
                      const QuantizedWeight* weight) override {
    return Dying(real_.Matrix(name, values, weight));
  }
  absl::Status Vector(const std::string& name, const VectorF& values) override {
    return Dying(real_.Vector(name, values));
  }
  void InputRange(int32_t layer, Site site, float max) override {
    real_.InputRange(layer, site, max);
  }
  absl::Status End(absl::Span<const LinearReport> reports) override {
    fuse_.Call();
    return Dying(real_.End(reports));
  }

 private:
  absl::Status Dying(absl::Status status) {
    fuse_.Call();
    return status;
  }
  LayerJournal& real_;
  Fuse& fuse_;
};

}  // namespace nibble::quantize
