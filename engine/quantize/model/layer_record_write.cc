#include <algorithm>
#include <cstring>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/model/layer_record.h"
#include "engine/quantize/model/layer_record_layout.h"

namespace nibble::quantize {
namespace {

using Kind = LayerRecordKind;

class Payload {
 public:
  explicit Payload(Kind kind) { Add(static_cast<uint8_t>(kind)); }

  template <typename T>
  void Add(T value) {
    static_assert(std::is_arithmetic_v<T>);
    Raw(&value, sizeof(value));
  }
  void Add(const std::string& text) {
    Add(uint64_t{text.size()});
    Raw(text.data(), text.size());
  }
  template <typename T>
  void AddAll(absl::Span<const T> values) {
    Add(uint64_t{values.size()});
    Raw(values.data(), values.size() * sizeof(T));
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  void Raw(const void* data, size_t size) {
    const size_t at = bytes_.size();
    bytes_.resize(at + size);
    if (size > 0) std::memcpy(bytes_.data() + at, data, size);
  }
  std::vector<uint8_t> bytes_;
};

void AddScheme(const Scheme& scheme, Payload& out) {
  out.Add(static_cast<uint8_t>(scheme.grid));
  out.Add(static_cast<int32_t>(scheme.bits));
  out.Add(static_cast<uint8_t>(scheme.granularity));
  out.Add(scheme.group);
  out.Add(static_cast<uint8_t>(scheme.range));
  out.Add(static_cast<uint8_t>(scheme.f16_scales));
  out.Add(static_cast<uint8_t>(scheme.double_quantized));
}

void AddCodes(const QuantizedWeight& weight, Payload& out) {
  AddScheme(weight.scheme, out);
  out.Add(weight.rows);
  out.Add(weight.cols);
  // Of one sign convention a matrix: -128 .. 127 or 0 .. 255.
  const bool has_sign =
      std::any_of(weight.codes.begin(), weight.codes.end(), [](int16_t code) { return code < 0; });
  out.Add(static_cast<uint8_t>(has_sign));
  const std::vector<uint8_t> codes(weight.codes.begin(), weight.codes.end());
  out.AddAll(absl::MakeConstSpan(codes));
  std::vector<float> scales;
  std::vector<int32_t> zeros;
  for (const GroupParams& params : weight.params) {
    scales.push_back(params.scale);
    zeros.push_back(params.zero);
  }
  out.AddAll(absl::MakeConstSpan(scales));
  out.AddAll(absl::MakeConstSpan(zeros));
  out.AddAll(absl::MakeConstSpan(weight.maxima));
  out.AddAll(absl::MakeConstSpan(weight.group_of_column));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LayerRecordWriter>> LayerRecordWriter::Create(
    const std::string& path) {
  auto writer = std::unique_ptr<LayerRecordWriter>(new LayerRecordWriter(path));
  NIBBLE_RETURN_IF_ERROR(writer->file_.Create());
  NIBBLE_RETURN_IF_ERROR(writer->file_.Write(
      {reinterpret_cast<const uint8_t*>(kLayerRecordMagic.data()), kLayerRecordMagic.size()}));
  return writer;
}

absl::Status LayerRecordWriter::Frame(const std::vector<uint8_t>& payload) {
  const uint64_t header[2] = {payload.size(), Checksum(payload)};
  NIBBLE_RETURN_IF_ERROR(file_.Write({reinterpret_cast<const uint8_t*>(header), sizeof(header)}));
  return file_.Write(payload);
}

absl::Status LayerRecordWriter::Matrix(const std::string& name, const MatrixF& values,
                                       const QuantizedWeight* weight) {
  Payload payload(weight != nullptr ? Kind::kCodes : Kind::kValues);
  payload.Add(name);
  if (weight != nullptr) {
    AddCodes(*weight, payload);
  } else {
    payload.Add(int64_t{values.rows()});
    payload.Add(int64_t{values.cols()});
    payload.AddAll(absl::MakeConstSpan(values.data(), static_cast<size_t>(values.size())));
  }
  return Frame(payload.bytes());
}

absl::Status LayerRecordWriter::Vector(const std::string& name, const VectorF& values) {
  Payload payload(Kind::kVector);
  payload.Add(name);
  payload.AddAll(absl::MakeConstSpan(values.data(), static_cast<size_t>(values.size())));
  return Frame(payload.bytes());
}

absl::Status LayerRecordWriter::Range(Site site, float max) {
  Payload payload(Kind::kRange);
  payload.Add(static_cast<uint8_t>(site));
  payload.Add(max);
  return Frame(payload.bytes());
}

absl::Status LayerRecordWriter::Finish(absl::Span<const LinearReport> reports) {
  Payload payload(Kind::kReports);
  payload.Add(uint64_t{reports.size()});
  for (const LinearReport& report : reports) {
    payload.Add(report.name);
    payload.Add(report.elements);
    payload.Add(report.bits);
    payload.Add(report.noise_db);
    payload.Add(report.output_error);
  }
  NIBBLE_RETURN_IF_ERROR(Frame(payload.bytes()));
  return file_.Publish();
}

}  // namespace nibble::quantize
