// MakeRandomSource: weights drawn when they are asked for.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/hash.h"
#include "engine/random_model.h"
#include "engine/weights/canonical.h"
#include "kernels/check.h"
#include "kernels/fp8.h"
#include "kernels/half.h"
#include "kernels/quant/tables.h"

namespace nibble {
namespace {

using quant::Format;

using quant::kNf4Table;

struct Extent {
  int32_t rows = 0;  // 1 for a vector
  int32_t cols = 0;
  bool is_matrix = true;
};

std::map<std::string, Extent> ExtentsOf(const ModelConfig& config) {
  const int32_t hidden = config.hidden_size, ffn = config.ffn_size;
  const int32_t q = config.num_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  std::map<std::string, Extent> all = {{"token_embd.weight", {config.vocab_size, hidden}},
                                       {"output_norm.weight", {1, hidden, false}}};
  if (!config.tied_head) all["output.weight"] = {config.vocab_size, hidden};
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string block = absl::StrCat("blk.", layer, ".");
    all[block + "attn_norm.weight"] = all[block + "ffn_norm.weight"] = {1, hidden, false};
    all[block + "attn_q.weight"] = {q, hidden};
    all[block + "attn_k.weight"] = all[block + "attn_v.weight"] = {kv, hidden};
    all[block + "attn_output.weight"] = {hidden, q};
    all[block + "ffn_gate.weight"] = all[block + "ffn_up.weight"] = {ffn, hidden};
    all[block + "ffn_down.weight"] = {hidden, ffn};
  }
  return all;
}

bool IsHalfByte(Format format) { return format == Format::kInt4Affine || format == Format::kLut4; }

// An e4m3 of 2^-3 to 1.875, either sign: none is NaN, none far from the others.
uint8_t MiddleE4m3(uint8_t byte) { return static_cast<uint8_t>((byte & 0x9F) | 0x20); }

// What a drawn byte (or nibble) is worth before its scale.
float ValueOfCode(Format format, int code) {
  switch (format) {
    case Format::kInt4Affine:
      return static_cast<float>(code - 8);
    case Format::kLut4:
      return kNf4Table[code];
    case Format::kFp8:
      return E4m3ToF32(MiddleE4m3(static_cast<uint8_t>(code)));
    default:
      return static_cast<float>(static_cast<int8_t>(code));
  }
}

float RootMeanSquare(Format format) {
  const int codes = IsHalfByte(format) ? 16 : 256;
  float squares = 0;
  for (int code = 0; code < codes; ++code) squares += std::pow(ValueOfCode(format, code), 2.0f);
  return std::sqrt(squares / static_cast<float>(codes));
}

class RandomSource final : public WeightSource {
 public:
  explicit RandomSource(const RandomModel& model)
      : model_(model),
        extents_(ExtentsOf(model.config)),
        root_mean_square_(RootMeanSquare(model.format.format)) {}

  bool Has(absl::string_view name) const override { return extents_.count(std::string(name)) != 0; }

  absl::StatusOr<quant::Matrix> LoadRows(absl::string_view name, int32_t rows, int32_t cols,
                                         RowRange range) const override {
    if (absl::Status status = Check(name, {rows, cols, true}); !status.ok()) return status;
    NIBBLE_CHECK(range.first >= 0 && range.count >= 1 && range.count <= rows - range.first);
    const RandomFormat& as = model_.format;
    quant::Matrix matrix{.format = as.format, .rows = range.count, .cols = cols, .group = as.group};
    DrawCodes(StreamOf(name), range, matrix);
    if (as.format == Format::kBf16) return matrix;
    if (as.group == 0) matrix.group = cols;
    matrix.row_group = as.row_group;
    if (as.format == Format::kLut4)
      std::copy(std::begin(kNf4Table), std::end(kNf4Table), matrix.table);
    // Outputs as large as inputs; a scale that an f16 holds.
    const float exact = 1.0f / std::sqrt(static_cast<float>(cols)) / root_mean_square_;
    const float scale = F16ToF32(F32ToF16(exact));
    const int64_t across = (cols + matrix.group - 1) / matrix.group;
    const int64_t down = (range.count + matrix.row_group - 1) / matrix.row_group;
    matrix.scales.assign(across * down, scale);
    if (as.format == Format::kInt4Affine) matrix.offsets.assign(across * down, -8.0f * scale);
    return matrix;
  }

  absl::StatusOr<std::vector<float>> LoadVector(absl::string_view name, int32_t n) const override {
    if (absl::Status status = Check(name, {1, n, false}); !status.ok()) return status;
    return std::vector<float>(n, 1.0f);
  }

  std::vector<TensorReport> Report() const override {
    std::vector<TensorReport> reports;
    for (const auto& [name, extent] : extents_) reports.push_back(ReportOf(name, extent));
    return reports;
  }

  absl::StatusOr<SourceIdentity> Identity() const override {
    SourceIdentity identity;
    identity.digest =
        Sha256({reinterpret_cast<const uint8_t*>(model_.name.data()), model_.name.size()});
    return identity;
  }

 private:
  absl::Status Check(absl::string_view name, const Extent& needed) const {
    const auto it = extents_.find(std::string(name));
    if (it == extents_.end()) {
      return absl::NotFoundError(absl::StrCat(model_.name, ": tensor '", name, "' is absent"));
    }
    const Extent& has = it->second;
    if (has.rows == needed.rows && has.cols == needed.cols && has.is_matrix == needed.is_matrix) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat(model_.name, ": tensor '", name, "' is [", has.rows, ", ", has.cols,
                     "], the config needs [", needed.rows, ", ", needed.cols, "]"));
  }

  uint64_t StreamOf(absl::string_view name) const {
    const uint64_t of_name = Checksum({reinterpret_cast<const uint8_t*>(name.data()), name.size()});
    return Scatter(model_.seed) ^ of_name;
  }

  int64_t RowBytes(int32_t cols) const {
    const Format format = model_.format.format;
    return IsHalfByte(format) ? cols / 2 : format == Format::kBf16 ? cols * 2 : cols;
  }

  // Eight bytes at a time, counted within the row: a row is the same in any range.
  void DrawCodes(uint64_t stream, RowRange range, quant::Matrix& matrix) const {
    const int64_t row_bytes = RowBytes(matrix.cols);
    matrix.codes.resize(range.count * row_bytes);
    uint8_t* out = matrix.codes.data();
    for (int32_t r = 0; r < range.count; ++r, out += row_bytes) {
      const uint64_t row = Scatter(stream + static_cast<uint64_t>(range.first + r));
      for (int64_t i = 0; i < row_bytes; i += 8) {
        const uint64_t drawn = Scatter(row + static_cast<uint64_t>(i));
        std::memcpy(out + i, &drawn, static_cast<size_t>(std::min<int64_t>(8, row_bytes - i)));
      }
    }
    if (matrix.format == Format::kFp8) {
      for (uint8_t& code : matrix.codes) code = MiddleE4m3(code);
    }
    if (matrix.format == Format::kBf16) MakeUniform(matrix);
  }

  // 16 drawn bits become a bf16, evenly spread with the variance that a scale gives the others.
  static void MakeUniform(quant::Matrix& matrix) {
    const float half_width = std::sqrt(3.0f / static_cast<float>(matrix.cols));
    for (size_t i = 0; i < matrix.codes.size(); i += 2) {
      int16_t drawn;
      std::memcpy(&drawn, &matrix.codes[i], 2);
      const uint16_t code = F32ToBf16(half_width * static_cast<float>(drawn) / 32768.0f);
      std::memcpy(&matrix.codes[i], &code, 2);
    }
  }

  TensorReport ReportOf(const std::string& name, const Extent& extent) const {
    TensorReport report;
    report.name = name;
    const int64_t elements = int64_t{extent.rows} * extent.cols;
    if (!extent.is_matrix) {
      report.shape = {extent.cols};
      report.file_type = report.canonical = "f32";
      report.file_bytes = report.canonical_bytes = elements * 4;
      return report;
    }
    report.shape = {extent.rows, extent.cols};
    const RandomFormat& as = model_.format;
    const bool integer = as.format != Format::kFp8 && as.format != Format::kBf16;
    const CanonicalForm form{.format = as.format,
                             .group = as.format == Format::kBf16 ? 0
                                      : as.group == 0            ? extent.cols
                                                                 : as.group,
                             .offsets = as.format == Format::kInt4Affine,
                             .scale_bytes = integer ? 2 : 4,
                             .zero_point = as.format == Format::kInt4Affine};
    report.file_type = as.name;
    report.canonical = CanonicalName(form);
    report.form = form;
    report.file_bytes = report.canonical_bytes = CanonicalBytes(form, elements);
    if (as.row_group > 1) {  // a scale for a block, not for each of its rows
      const auto blocks = [](int64_t side) {
        return (side + quant::kFp8Block - 1) / quant::kFp8Block;
      };
      report.file_bytes = report.canonical_bytes =
          elements + blocks(extent.rows) * blocks(extent.cols) * form.scale_bytes;
    }
    return report;
  }

  const RandomModel model_;
  const std::map<std::string, Extent> extents_;
  const float root_mean_square_;
};

}  // namespace

std::unique_ptr<WeightSource> MakeRandomSource(const RandomModel& model) {
  return std::make_unique<RandomSource>(model);
}

}  // namespace nibble
