#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/packed_matrix.h"

namespace nibble {
namespace {

// Below this a barrier costs more than it saves: a row of 576 columns takes about a microsecond.
constexpr int32_t kMinRowsPerPart = 8;

}  // namespace

void EmbedCpu(ThreadPool& pool, const EmbedParams& params) {
  const auto& table = static_cast<const cpu::CpuMatrix&>(*params.table);
  NIBBLE_CHECK(table.cols() == params.out.cols && params.out.dtype == DType::kF32);
  const int32_t rows = params.out.rows;
  const int32_t parts = std::max(1, std::min(rows / kMinRowsPerPart, pool.size()));
  pool.Run(parts, [&](int part) {
    const auto first = static_cast<int32_t>(static_cast<int64_t>(rows) * part / parts);
    const auto last = static_cast<int32_t>(static_cast<int64_t>(rows) * (part + 1) / parts);
    for (int32_t r = first; r < last; ++r) {
      const int32_t id = params.ids[r] >= 0 ? params.ids[r] : params.drawn[-1 - params.ids[r]];
      NIBBLE_CHECK(id >= 0 && id < table.rows());
      table.DequantizeRow(id, params.out.f32_row(r));
    }
  });
}

}  // namespace nibble
