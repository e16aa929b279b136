// A method applied to a whole model, one layer in memory at a time.
//
// Methods that make good one linear's error in the next (GPTQ, learned clipping) go through the
// layer site by site, so that every linear is calibrated on the inputs that the quantized ones
// before it produce ("true sequential"). AWQ and SmoothQuant move scales between the linears of a
// layer, so they see the whole layer first, in full precision, as their authors do it.
//
// Memory: one layer in f32 about three times, the Hessians of its sites (four, or one), and what
// layer_inputs.h keeps of the calibration text: tokens * hidden * 4 bytes, at most 16 MiB of them
// where there is a folder for scratch.
//
// With a journal (layer_journal.h) a run goes on where another one stopped, to the same results on
// the same instruction set. Finished layers are told again, not made again. What the text has
// become at the first one to do is computed from the beginning: one forward pass a finished layer,
// where GPTQ takes about six and the Hessians (docs/quantization.md has it measured), and nothing
// of it to store, to trust or to sync at every layer.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/quantize/calibration/cut_windows.h"
#include "engine/quantize/calibration/decoder_layer.h"
#include "engine/quantize/methods/method.h"
#include "engine/quantize/methods/quantized_weight.h"
#include "engine/weights/weight_source.h"

namespace nibble::quantize {

// What became of a linear.
struct LinearReport {
  std::string name;
  int64_t elements = 0;
  double bits = 0;      // a weight
  double noise_db = 0;  // SignalToNoise; 0 where only activations and their weights' rows are int8
  // Of the outputs' energy on the calibration text, trace(D H D^T) / trace(W H W^T); absent (-1)
  // where the method saw no inputs.
  double output_error = -1;
};

// Where the results go, in the order of the forward pass.
class LayerSink {
 public:
  virtual ~LayerSink() = default;
  // `values` are what the matrix now stands for. `weight`, the codes, is null where it is not
  // quantized (SmoothQuant's scaled weights, linears without codes), or where the codes are of a
  // rotated matrix.
  virtual absl::Status Matrix(const std::string& name, const MatrixF& values,
                              const QuantizedWeight* weight) = 0;
  virtual absl::Status Vector(const std::string& name, const VectorF& values) = 0;
  // The largest input that int8 codes of the site's linears must reach.
  virtual void InputRange(int32_t layer, Site site, float max) = 0;
};

class LayerJournal;  // layer_journal.h

struct LayerwiseOptions {
  double damping = 0.01;  // GPTQ's
  float smooth_alpha = 0.5f;
  uint64_t seed = 1;  // of rotations
  int threads = 1;
  // Which linears get codes; the others keep their values, scaled where the method scales. Empty:
  // all.
  std::function<bool(const std::string& name)> has_codes;
  // Linears of those that are to do; may be empty.
  std::function<void(int64_t done, int64_t total)> progress;
  const std::atomic<bool>* cancelled = nullptr;  // looked at between linears
  LayerJournal* journal = nullptr;               // null: nothing is kept
  std::string scratch_folder;                    // empty: the text's residuals stay in memory
};

// `windows` may be empty where NeedsCalibration says no. INVALID_ARGUMENT for a shape that the
// scheme cannot hold (names the tensor), ids outside the vocabulary, no windows, or kTrain, which
// is of the whole model at once (training/quantization_aware.h); CANCELLED; otherwise what the
// source, the sink, the journal or the scratch file says.
absl::StatusOr<std::vector<LinearReport>> QuantizeLayers(
    const WeightSource& source, const ModelConfig& config, const Method& method,
    absl::Span<const std::vector<int32_t>> windows, const LayerwiseOptions& options,
    LayerSink& sink);

}  // namespace nibble::quantize
