#include "engine/quantize/gguf_quantizer.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "engine/base/mutex.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/ggml/encode.h"
#include "engine/weights/ggml_types.h"
#include "engine/weights/gguf_writer.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// Elements of one piece: enough that a piece takes milliseconds, little enough that all threads
// have work to the end and progress is smooth.
constexpr int64_t kPieceElements = 1 << 16;

struct Piece {
  size_t tensor = 0;
  int64_t first_row = 0, rows = 0;
};

// The sums a tensor's relative error is made of, of one piece.
struct Deviation {
  double error = 0, signal = 0;
};

class Quantization {
 public:
  Quantization(const SourceTensors& source, const std::vector<TensorRecipe>& recipes,
               const QuantizeOptions& options, GgufFileWriter& writer)
      : source_(source), recipes_(recipes), options_(options), writer_(writer) {
    for (size_t t = 0; t < recipes.size(); ++t) {
      const int64_t row = recipes[t].dims[0];
      const int64_t rows = source.tensors()[t].num_elements / row;
      const int64_t multiple = source.row_multiple();
      const int64_t at_once = std::max<int64_t>(1, kPieceElements / row / multiple) * multiple;
      for (int64_t first = 0; first < rows; first += at_once) {
        pieces_.push_back({t, first, std::min(at_once, rows - first)});
      }
      total_ += rows * row;
    }
    deviations_.resize(pieces_.size());
  }

  absl::Status Run() {
    std::vector<std::thread> threads;
    for (int32_t i = 1; i < options_.num_threads; ++i) {
      threads.emplace_back([this] { Work(); });
    }
    Work();
    for (std::thread& thread : threads) thread.join();
    MutexLock lock(mutex_);
    return status_;
  }

  // Summed in the pieces' order: the same for any number of threads.
  std::vector<double> RelativeErrors() const {
    std::vector<Deviation> sums(recipes_.size());
    for (size_t p = 0; p < pieces_.size(); ++p) {
      sums[pieces_[p].tensor].error += deviations_[p].error;
      sums[pieces_[p].tensor].signal += deviations_[p].signal;
    }
    std::vector<double> errors;
    for (const Deviation& sum : sums) {
      errors.push_back(sum.signal > 0 ? std::sqrt(sum.error / sum.signal) : 0);
    }
    return errors;
  }

 private:
  void Work() {
    while (true) {
      const size_t p = next_.fetch_add(1);
      if (p >= pieces_.size() || stopped_.load()) return;
      const bool cancelled = options_.cancelled != nullptr && options_.cancelled->load();
      const absl::Status status =
          cancelled ? absl::CancelledError("stopped; nothing was written") : Convert(p);
      MutexLock lock(mutex_);
      if (!status.ok()) {
        if (status_.ok()) status_ = status;
        stopped_.store(true);
        return;
      }
      const Piece& piece = pieces_[p];
      done_ += piece.rows * recipes_[piece.tensor].dims[0];
      if (options_.progress) options_.progress(done_, total_);
    }
  }

  absl::Status Convert(size_t p) {
    const Piece& piece = pieces_[p];
    const TensorRecipe& recipe = recipes_[piece.tensor];
    const int64_t row = recipe.dims[0], n = piece.rows * row;
    const int64_t source_row = BytesOf(recipe.source, row);
    std::vector<uint8_t> buffer;
    NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> bytes,
                            source_.ReadRows(piece.tensor, piece.first_row, piece.rows, buffer));
    const int64_t target_row = BytesOf(recipe.target, row);
    if (recipe.copied) return writer_.Write(piece.tensor, piece.first_row * source_row, bytes);
    if (const absl::Status finite = CheckFinite(recipe.source, bytes); !finite.ok()) {
      return absl::Status(finite.code(),
                          absl::StrCat(source_.name(), ": tensor '", recipe.name, "', from row ",
                                       piece.first_row, ": ", finite.message()));
    }
    std::vector<float> values(static_cast<size_t>(n)), back(static_cast<size_t>(n));
    DequantizeBlocks(recipe.source, bytes, n, values.data());
    std::vector<uint8_t> encoded(static_cast<size_t>(piece.rows * target_row));
    const absl::Span<const float> importance = options_.importance != nullptr
                                                   ? options_.importance->Find(recipe.name)
                                                   : absl::Span<const float>();
    for (int64_t r = 0; r < piece.rows; ++r) {
      EncodeRow(recipe.target, absl::MakeConstSpan(values).subspan(r * row, row), importance,
                encoded.data() + r * target_row);
    }
    DequantizeBlocks(recipe.target, encoded, n, back.data());
    Deviation& deviation = deviations_[p];
    for (int64_t i = 0; i < n; ++i) {
      const double x = values[i], off = x - back[i];
      deviation.error += off * off;
      deviation.signal += x * x;
    }
    return writer_.Write(piece.tensor, piece.first_row * target_row, encoded);
  }

  const SourceTensors& source_;
  const std::vector<TensorRecipe>& recipes_;
  const QuantizeOptions& options_;
  GgufFileWriter& writer_;
  std::vector<Piece> pieces_;
  std::vector<Deviation> deviations_;  // of each piece, written by who converts it
  int64_t total_ = 0;
  std::atomic<size_t> next_{0};
  std::atomic<bool> stopped_{false};
  Mutex mutex_;
  int64_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

absl::Status CheckImportance(const std::vector<TensorRecipe>& recipes,
                             const Importance* importance) {
  for (const TensorRecipe& recipe : recipes) {
    if (importance == nullptr || recipe.copied) continue;
    const absl::Span<const float> columns = importance->Find(recipe.name);
    if (columns.empty() || static_cast<int64_t>(columns.size()) == recipe.dims[0]) continue;
    return absl::InvalidArgumentError(absl::StrCat("the importance of '", recipe.name, "' has ",
                                                   columns.size(), " columns, the tensor ",
                                                   recipe.dims[0], "; is it of another model?"));
  }
  return absl::OkStatus();
}

// `errors` has one number a recipe.
GgufKeys KeysFor(const std::vector<TensorRecipe>& recipes, const QuantizeOptions& options,
                 const std::vector<double>& errors) {
  std::vector<std::string> names;
  std::vector<float> changed;
  for (size_t t = 0; t < recipes.size(); ++t) {
    if (recipes[t].copied) continue;
    names.push_back(recipes[t].name);
    changed.push_back(static_cast<float>(errors[t]));
  }
  GgufKeys keys = options.keys;
  Provenance provenance = options.provenance;
  provenance.method = "ggml";
  SetProvenance(provenance, options.mix, names, changed, keys);
  return keys;
}

}  // namespace

int64_t BytesOf(GgmlType type, int64_t num_elements) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  return num_elements / info.block_elements * info.block_bytes;
}

absl::StatusOr<std::string> FileSha256(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file.is_open()) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  RunningSha256 hash;
  std::vector<char> buffer(size_t{1} << 20);
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) ||
         file.gcount() > 0) {
    hash.Add(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(buffer.data()),
                                 static_cast<size_t>(file.gcount())));
  }
  if (file.bad()) return absl::UnavailableError(absl::StrCat(path, ": reading it broke off"));
  return Hex(hash.Finish());
}

absl::StatusOr<QuantizeReport> QuantizeGguf(const SourceTensors& source,
                                            const std::vector<TensorRecipe>& recipes,
                                            const QuantizeOptions& options) {
  NIBBLE_CHECK(recipes.size() == source.tensors().size() && options.num_threads >= 1);
  NIBBLE_RETURN_IF_ERROR(CheckImportance(recipes, options.importance));
  QuantizeReport report;
  report.source_sha256 = options.provenance.source_sha256;
  std::vector<GgufTensorPlan> plan;
  for (const TensorRecipe& recipe : recipes) {
    plan.push_back({recipe.name, recipe.dims, recipe.target});
  }
  const std::vector<double> unknown(recipes.size(), 0.0);  // as many bytes as the errors will take
  NIBBLE_ASSIGN_OR_RETURN(
      GgufFileWriter writer,
      GgufFileWriter::Create(options.output, KeysFor(recipes, options, unknown), plan));
  Quantization work(source, recipes, options, writer);
  NIBBLE_RETURN_IF_ERROR(work.Run());
  const std::vector<double> errors = work.RelativeErrors();
  for (size_t t = 0; t < recipes.size(); ++t) {
    const SourceTensor& tensor = source.tensors()[t];
    report.tensors.push_back({.name = tensor.name,
                              .source = recipes[t].source,
                              .target = recipes[t].target,
                              .num_elements = tensor.num_elements,
                              .source_bytes = tensor.size_bytes,
                              .target_bytes = BytesOf(recipes[t].target, tensor.num_elements),
                              .relative_error = errors[t]});
  }
  report.output_bytes = writer.size_bytes();
  NIBBLE_RETURN_IF_ERROR(writer.Finish(KeysFor(recipes, options, errors)));
  return report;
}

}  // namespace nibble
