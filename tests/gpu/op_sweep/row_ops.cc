// A copy (the ceiling of bandwidth as a kernel of ours meets it), the norm, and drawing tokens.
#include <algorithm>
#include <memory>
#include <numeric>

#include "engine/base/status_macros.h"
#include "tests/gpu/op_sweep/sweep.h"

namespace nibble::sweep {
namespace {

// 1 GB read, 1 GB written.
absl::Status TimeCopy(const MakeBackend& make, const Options& options, Report report) {
  const int32_t rows = options.small ? 16 : 65536, cols = options.small ? 64 : 8192;
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, make());
  const DType dtype = backend->activation_dtype();
  NIBBLE_ASSIGN_OR_RETURN(const Rows from, Rows::Create(*backend, dtype, rows, cols, 1));
  NIBBLE_ASSIGN_OR_RETURN(const Rows to, Rows::Create(*backend, dtype, rows, cols, 2));
  std::vector<int32_t> ids(rows);
  std::iota(ids.begin(), ids.end(), 0);
  NIBBLE_ASSIGN_OR_RETURN(const DeviceBuffer device_ids, Ints(*backend, ids));
  GatherRowsParams params;
  params.x = from.tensor();
  params.rows = static_cast<const int32_t*>(device_ids.data());
  params.out = to.tensor();
  Figure figure{.op = "copy", .variant = "rows", .shape = "1 GB", .rows = rows};
  figure.bytes = 2 * int64_t{rows} * cols * static_cast<int64_t>(SizeOf(dtype));
  NIBBLE_RETURN_IF_ERROR(
      Time(*backend, options, {1, 1}, 1, [&] { backend->GatherRows(params); }, figure));
  report(figure);
  return absl::OkStatus();
}

absl::Status TimeNorm(const MakeBackend& make, const Options& options, int32_t rows,
                      Report report) {
  constexpr int32_t kOps = 32;  // of one step: from L2, as in a layer
  const int32_t cols = options.small ? 64 : 4096;
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, make());
  const DType dtype = backend->activation_dtype();
  NIBBLE_ASSIGN_OR_RETURN(const Rows x, Rows::Create(*backend, dtype, rows, cols, 1));
  NIBBLE_ASSIGN_OR_RETURN(const Rows out, Rows::Create(*backend, dtype, rows, cols, 2));
  NIBBLE_ASSIGN_OR_RETURN(const Rows weight, Rows::Create(*backend, DType::kF32, 1, cols, 3));
  RmsNormParams params;
  params.x = x.tensor();
  params.out = out.tensor();
  params.weight = weight.tensor().f32();
  params.epsilon = 1e-5f;
  Figure figure{.op = "rms_norm", .variant = "in L2", .shape = "4096", .rows = rows};
  figure.bytes = 2 * int64_t{rows} * cols * static_cast<int64_t>(SizeOf(dtype)) + cols * 4;
  const auto step = [&] {
    for (int32_t i = 0; i < kOps; ++i) backend->RmsNorm(params);
  };
  NIBBLE_RETURN_IF_ERROR(Time(*backend, options, {1, 1}, kOps, step, figure));
  report(figure);
  return absl::OkStatus();
}

struct Draw {
  const char* name;
  SampleRow row;
};
std::vector<Draw> Draws() {
  SampleRow greedy, plain, cut;
  plain.temperature = cut.temperature = 1;
  cut.top_k = 40;
  cut.top_p = 0.9f;
  return {{"greedy", greedy}, {"temperature", plain}, {"top_k, top_p", cut}};
}

// With its copies and its wait: it cannot be a part of a step.
absl::Status TimeSample(const MakeBackend& make, const Options& options, const Draw& draw,
                        int32_t rows, Report report) {
  const int32_t vocab = options.small ? 1000 : 128256;
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, make());
  NIBBLE_ASSIGN_OR_RETURN(const Rows logits, Rows::Create(*backend, DType::kF32, rows, vocab, 1));
  std::vector<SampleRow> settings(rows, draw.row);
  for (int32_t r = 0; r < rows; ++r) {
    settings[r].logits_row = r;
    settings[r].seed = 100 + r;
  }
  std::vector<SampledToken> tokens(rows);
  SampleParams params;
  params.logits = logits.tensor();
  params.rows = settings;
  params.out = tokens.data();
  Figure figure{.op = "sample", .variant = draw.name, .shape = "128256", .rows = rows};
  figure.bytes = int64_t{rows} * vocab * 4;
  // Not decode rows, so that nothing captures it.
  NIBBLE_RETURN_IF_ERROR(
      Time(*backend, options, {2, 1}, 1, [&] { backend->Sample(params); }, figure));
  report(figure);
  return absl::OkStatus();
}

}  // namespace

absl::Status SweepRowOps(const MakeBackend& make, const Options& options, Report report) {
  NIBBLE_RETURN_IF_ERROR(TimeCopy(make, options, report));
  const std::vector<int32_t> row_counts =
      options.small ? std::vector<int32_t>{2} : std::vector<int32_t>{1, 32, 256};
  for (const int32_t rows : row_counts)
    NIBBLE_RETURN_IF_ERROR(TimeNorm(make, options, rows, report));
  for (const Draw& draw : Draws()) {
    for (const int32_t rows : row_counts)
      NIBBLE_RETURN_IF_ERROR(TimeSample(make, options, draw, rows, report));
  }
  return absl::OkStatus();
}

}  // namespace nibble::sweep
