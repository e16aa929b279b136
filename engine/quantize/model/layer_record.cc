#include "engine/quantize/model/layer_record.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/model/layer_record_layout.h"
#include "engine/weights/byte_reader.h"
#include "engine/weights/mapped_file.h"

namespace nibble::quantize {
namespace {

using Kind = LayerRecordKind;

template <typename T>
absl::StatusOr<std::vector<T>> ReadAll(ByteReader& reader, absl::string_view what) {
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t count, reader.Read<uint64_t>(what));
  if (count > reader.remaining() / sizeof(T)) {
    return absl::DataLossError(absl::StrCat(what, " claims ", count, " entries"));
  }
  NIBBLE_ASSIGN_OR_RETURN(const auto bytes, reader.Take(count * sizeof(T), what));
  std::vector<T> values(count);
  if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

absl::StatusOr<Scheme> ReadScheme(ByteReader& reader) {
  constexpr char kWhat[] = "a scheme";
  Scheme scheme;
  NIBBLE_ASSIGN_OR_RETURN(const auto grid, reader.Read<uint8_t>(kWhat));
  NIBBLE_ASSIGN_OR_RETURN(scheme.bits, reader.Read<int32_t>(kWhat));
  NIBBLE_ASSIGN_OR_RETURN(const auto granularity, reader.Read<uint8_t>(kWhat));
  NIBBLE_ASSIGN_OR_RETURN(scheme.group, reader.Read<int32_t>(kWhat));
  NIBBLE_ASSIGN_OR_RETURN(const auto range, reader.Read<uint8_t>(kWhat));
  NIBBLE_ASSIGN_OR_RETURN(const auto f16, reader.Read<uint8_t>(kWhat));
  NIBBLE_ASSIGN_OR_RETURN(const auto nested, reader.Read<uint8_t>(kWhat));
  if (grid > static_cast<uint8_t>(GridKind::kE5m2) ||
      granularity > static_cast<uint8_t>(Granularity::kBlock) || range > 1 ||
      (granularity == static_cast<uint8_t>(Granularity::kGroup) && scheme.group < 1)) {
    return absl::DataLossError("a scheme is none that there is");
  }
  scheme.grid = static_cast<GridKind>(grid);
  scheme.granularity = static_cast<Granularity>(granularity);
  scheme.range = static_cast<RangeChoice>(range);
  scheme.f16_scales = f16 != 0;
  scheme.double_quantized = nested != 0;
  return scheme;
}

absl::StatusOr<QuantizedWeight> ReadCodes(ByteReader& reader) {
  NIBBLE_ASSIGN_OR_RETURN(const Scheme scheme, ReadScheme(reader));
  NIBBLE_ASSIGN_OR_RETURN(const auto rows, reader.Read<int32_t>("rows"));
  NIBBLE_ASSIGN_OR_RETURN(const auto cols, reader.Read<int32_t>("columns"));
  NIBBLE_ASSIGN_OR_RETURN(const auto has_sign, reader.Read<uint8_t>("the codes' sign"));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> codes, ReadAll<uint8_t>(reader, "codes"));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> scales, ReadAll<float>(reader, "scales"));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<int32_t> zeros, ReadAll<int32_t>(reader, "zeros"));
  if (rows < 1 || cols < 1 || codes.size() != static_cast<uint64_t>(rows) * cols ||
      !CheckShape(scheme, rows, cols).ok()) {
    return absl::DataLossError("codes are not of their matrix's shape");
  }
  QuantizedWeight weight = MakeQuantizedWeight(scheme, rows, cols);
  if (scales.size() != weight.params.size() || zeros.size() != weight.params.size()) {
    return absl::DataLossError("scales are not of their matrix's shape");
  }
  for (size_t i = 0; i < codes.size(); ++i) {
    weight.codes[i] = has_sign != 0 ? static_cast<int8_t>(codes[i]) : codes[i];
  }
  for (size_t i = 0; i < scales.size(); ++i) weight.params[i] = {scales[i], zeros[i]};
  NIBBLE_ASSIGN_OR_RETURN(weight.maxima, ReadAll<float>(reader, "maxima"));
  NIBBLE_ASSIGN_OR_RETURN(weight.group_of_column, ReadAll<int32_t>(reader, "g_idx"));
  if ((!weight.maxima.empty() && weight.maxima.size() != weight.params.size()) ||
      (!weight.group_of_column.empty() &&
       weight.group_of_column.size() != static_cast<size_t>(cols))) {
    return absl::DataLossError("maxima or g_idx are not of their matrix's shape");
  }
  return weight;
}

absl::StatusOr<MatrixF> ReadValues(ByteReader& reader) {
  NIBBLE_ASSIGN_OR_RETURN(const auto rows, reader.Read<int64_t>("rows"));
  NIBBLE_ASSIGN_OR_RETURN(const auto cols, reader.Read<int64_t>("columns"));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> values, ReadAll<float>(reader, "values"));
  if (rows < 1 || cols < 1 ||
      values.size() / static_cast<uint64_t>(cols) != static_cast<uint64_t>(rows) ||
      values.size() % static_cast<uint64_t>(cols) != 0) {
    return absl::DataLossError("values are not of their matrix's shape");
  }
  return MatrixF(Eigen::Map<const MatrixF>(values.data(), rows, cols));
}

absl::StatusOr<std::vector<LinearReport>> ReadReports(ByteReader& reader) {
  NIBBLE_ASSIGN_OR_RETURN(const auto count, reader.Read<uint64_t>("reports"));
  std::vector<LinearReport> reports;
  for (uint64_t i = 0; i < count; ++i) {
    LinearReport report;
    NIBBLE_ASSIGN_OR_RETURN(const absl::string_view name, reader.ReadString("a name"));
    report.name = std::string(name);
    NIBBLE_ASSIGN_OR_RETURN(report.elements, reader.Read<int64_t>("elements"));
    NIBBLE_ASSIGN_OR_RETURN(report.bits, reader.Read<double>("bits"));
    NIBBLE_ASSIGN_OR_RETURN(report.noise_db, reader.Read<double>("noise"));
    NIBBLE_ASSIGN_OR_RETURN(report.output_error, reader.Read<double>("an error"));
    reports.push_back(std::move(report));
  }
  return reports;
}

absl::Status ReadFrame(Kind kind, ByteReader& reader, LayerResult& result) {
  if (kind == Kind::kReports) {
    NIBBLE_ASSIGN_OR_RETURN(result.reports, ReadReports(reader));
    return absl::OkStatus();
  }
  if (kind == Kind::kRange) {
    NIBBLE_ASSIGN_OR_RETURN(const auto site, reader.Read<uint8_t>("a site"));
    NIBBLE_ASSIGN_OR_RETURN(const auto max, reader.Read<float>("a range"));
    result.ranges.push_back({static_cast<Site>(std::min<uint8_t>(site, 3)), max});
    return absl::OkStatus();
  }
  NIBBLE_ASSIGN_OR_RETURN(const absl::string_view text, reader.ReadString("a name"));
  std::string name(text);
  if (kind == Kind::kVector) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> values, ReadAll<float>(reader, "values"));
    result.vectors.emplace_back(
        std::move(name),
        Eigen::Map<const VectorF>(values.data(), static_cast<int64_t>(values.size())));
  } else if (kind == Kind::kCodes) {
    NIBBLE_ASSIGN_OR_RETURN(QuantizedWeight weight, ReadCodes(reader));
    result.matrices.push_back({std::move(name), MatrixF(), std::move(weight)});
  } else {
    NIBBLE_ASSIGN_OR_RETURN(MatrixF values, ReadValues(reader));
    result.matrices.push_back({std::move(name), std::move(values), std::nullopt});
  }
  return absl::OkStatus();
}

// Calls fn with the kind and the payload of every frame. The mapping's pages are not kept.
template <typename Fn>
absl::Status EachFrame(const std::string& path, Fn fn) {
  NIBBLE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const auto damaged = [&path](absl::string_view why) {
    return absl::DataLossError(absl::StrCat(path, ": ", why));
  };
  std::vector<uint8_t> payload;
  int64_t at = 0;
  const auto size = static_cast<int64_t>(file.bytes().size());
  const auto read = [&](int64_t n, void* out) {
    return file.ReadAt(std::exchange(at, at + n),
                       {static_cast<uint8_t*>(out), static_cast<size_t>(n)});
  };
  char magic[kLayerRecordMagic.size()];
  NIBBLE_RETURN_IF_ERROR(read(sizeof(magic), magic));
  if (absl::string_view(magic, sizeof(magic)) != kLayerRecordMagic)
    return damaged("is no record of a layer");
  for (bool last = false; !last;) {
    uint64_t header[2];  // size, checksum
    NIBBLE_RETURN_IF_ERROR(read(sizeof(header), header));
    if (header[0] < 1 || header[0] > static_cast<uint64_t>(size - std::min(at, size))) {
      return damaged("is truncated");
    }
    payload.resize(header[0]);
    NIBBLE_RETURN_IF_ERROR(read(static_cast<int64_t>(header[0]), payload.data()));
    if (Checksum(payload) != header[1]) return damaged("has a wrong checksum");
    if (payload[0] > static_cast<uint8_t>(Kind::kReports)) return damaged("has an unknown part");
    const auto kind = static_cast<Kind>(payload[0]);
    last = kind == Kind::kReports;
    NIBBLE_RETURN_IF_ERROR(fn(kind, absl::MakeConstSpan(payload).subspan(1)));
  }
  return at == size ? absl::OkStatus() : damaged("goes on after its end");
}

}  // namespace

absl::StatusOr<LayerResult> ReadLayerRecord(const std::string& path) {
  LayerResult result;
  NIBBLE_RETURN_IF_ERROR(EachFrame(path, [&](Kind kind, absl::Span<const uint8_t> payload) {
    ByteReader reader(payload);
    return ReadFrame(kind, reader, result);
  }));
  return result;
}

absl::Status CheckLayerRecord(const std::string& path) {
  return EachFrame(path, [](Kind, absl::Span<const uint8_t>) { return absl::OkStatus(); });
}

}  // namespace nibble::quantize
