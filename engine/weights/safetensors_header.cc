#include "engine/weights/safetensors_header.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

struct TypeRow {
  absl::string_view name;
  int bits;
};
// In the order of SafetensorsType.
constexpr TypeRow kTypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64}};

constexpr uint64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

// Reads the header in one pass, keeping nothing but entries: JSON made to be large or deep costs
// no more than its own text.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(SafetensorsHeader& header) : header_(header) {}

  absl::Status status() const { return status_; }

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kTensor:
        place_ = Place::kEntry;
        return true;
      case Place::kMetadata:
        place_ = Place::kMetadataEntry;
        return true;
      default:
        return Refuse("holds an object, needed a string or numbers");
    }
  }

  bool key(string_t& text) override {
    if (place_ == Place::kTop) return TopKey(text);
    if (place_ == Place::kMetadataEntry) return MetadataKey(text);
    return EntryKey(text);
  }

  bool end_object() override {
    if (place_ == Place::kEntry) {
      if (seen_ != (kDtype | kShape | kOffsets)) {
        return Refuse("lacks one of dtype, shape and data_offsets");
      }
      place_ = Place::kTop;
      return true;
    }
    place_ = place_ == Place::kMetadataEntry ? Place::kTop : Place::kEnd;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kEntry || (field_ != kShape && field_ != kOffsets)) {
      return Refuse("holds an array, needed something else");
    }
    place_ = Place::kNumbers;
    return true;
  }

  bool end_array() override {
    if (field_ == kOffsets && num_offsets_ != 2) {
      return Refuse(absl::StrCat("has ", num_offsets_, " data_offsets, needed 2"));
    }
    place_ = Place::kEntry;
    return true;
  }

  bool string(string_t& text) override {
    if (place_ == Place::kMetadataEntry) {
      header_.metadata.back().second = text;
      return true;
    }
    if (place_ != Place::kEntry || field_ != kDtype) {
      return Refuse("holds a string, needed something else");
    }
    const auto found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const TypeRow& row) { return row.name == text; });
    if (found == std::end(kTypes)) {
      status_ = absl::UnimplementedError(absl::StrCat(
          Subject(), " has dtype ", QuoteForMessage(text), ", which this program does not know"));
      return false;
    }
    Tensor().type = static_cast<SafetensorsType>(found - std::begin(kTypes));
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kNumbers) return Refuse("holds a number, needed something else");
    if (value > kMaxInt64) return Refuse(absl::StrCat("holds ", value, ", needed less than 2^63"));
    if (field_ == kShape) {
      if (Tensor().shape.size() == kMaxSafetensorsDims) {
        return Refuse(absl::StrCat("has more than ", kMaxSafetensorsDims, " dimensions"));
      }
      Tensor().shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (num_offsets_ < 2) offsets_[num_offsets_] = static_cast<int64_t>(value);
    if (++num_offsets_ > 2) return Refuse("has more than 2 data_offsets");
    Tensor().offset = offsets_[0];
    Tensor().size_bytes = offsets_[1] - offsets_[0];
    return true;
  }

  bool null() override { return Refuse("holds null"); }
  bool boolean(bool) override { return Refuse("holds true or false"); }
  bool number_integer(number_integer_t) override { return Refuse("holds a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Refuse("holds a number that is not a whole one below 2^63");
  }
  bool binary(binary_t&) override { return Refuse("holds binary data"); }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    status_ = absl::DataLossError(
        absl::StrCat("header is not JSON at its byte ", position, "; is the file damaged?"));
    return false;
  }

 private:
  enum class Place { kStart, kTop, kTensor, kEntry, kNumbers, kMetadata, kMetadataEntry, kEnd };
  enum Field : unsigned { kNone = 0, kDtype = 1, kShape = 2, kOffsets = 4 };

  SafetensorsTensor& Tensor() { return header_.tensors.back(); }

  std::string Subject() const {
    if (place_ == Place::kMetadata || place_ == Place::kMetadataEntry) return "__metadata__";
    if (header_.tensors.empty()) return "header";
    return absl::StrCat("tensor '", header_.tensors.back().name, "'");
  }

  bool Refuse(absl::string_view what) {
    status_ = absl::DataLossError(absl::StrCat(Subject(), " ", what));
    return false;
  }

  bool TopKey(const std::string& text) {
    if (!names_.insert(text).second) {
      status_ = absl::DataLossError(absl::StrCat("key ", QuoteForMessage(text), " appears twice"));
      return false;
    }
    if (text == "__metadata__") {
      place_ = Place::kMetadata;
      return true;
    }
    if (!IsPrintableName(text, kMaxSafetensorsName)) {
      status_ = absl::DataLossError(absl::StrCat("a tensor is named ", QuoteForMessage(text),
                                                 ", needed 1 to ", kMaxSafetensorsName,
                                                 " printable ASCII characters"));
      return false;
    }
    if (header_.tensors.size() == kMaxSafetensorsTensors) {
      return Refuse(absl::StrCat("is not the last, at most ", kMaxSafetensorsTensors, " are read"));
    }
    header_.tensors.emplace_back().name = text;
    seen_ = 0;
    num_offsets_ = 0;
    place_ = Place::kTensor;
    return true;
  }

  bool MetadataKey(const std::string& text) {
    if (header_.metadata.size() == kMaxSafetensorsMetadata) {
      return Refuse(absl::StrCat("has more than ", kMaxSafetensorsMetadata, " keys"));
    }
    if (!metadata_names_.insert(text).second) {
      return Refuse(absl::StrCat("has key ", QuoteForMessage(text), " twice"));
    }
    header_.metadata.emplace_back(text, "");
    return true;
  }

  bool EntryKey(const std::string& text) {
    field_ = text == "dtype"          ? kDtype
             : text == "shape"        ? kShape
             : text == "data_offsets" ? kOffsets
                                      : kNone;
    if (field_ == kNone) {
      return Refuse(absl::StrCat("has field ", QuoteForMessage(text),
                                 ", needed dtype, shape and data_offsets only"));
    }
    if ((seen_ & field_) != 0) return Refuse(absl::StrCat("has ", text, " twice"));
    seen_ |= field_;
    return true;
  }

  SafetensorsHeader& header_;
  absl::Status status_;
  Place place_ = Place::kStart;
  Field field_ = kNone;
  unsigned seen_ = 0;
  size_t num_offsets_ = 0;
  int64_t offsets_[2] = {};
  std::set<std::string> names_, metadata_names_;
};

absl::Status CheckSize(SafetensorsTensor& tensor) {
  const auto refuse = [&](auto... parts) {
    return absl::DataLossError(absl::StrCat("tensor '", tensor.name, "' of ", TypeName(tensor.type),
                                            " [", absl::StrJoin(tensor.shape, ", "), "] ",
                                            parts...));
  };
  if (tensor.size_bytes < 0) return refuse("ends before it begins");
  const bool empty = std::count(tensor.shape.begin(), tensor.shape.end(), 0) > 0;
  const int64_t bits = TypeBits(tensor.type);
  int64_t elements = empty ? 0 : 1;
  for (const int64_t dim : tensor.shape) {
    if (empty) break;
    if (dim > std::numeric_limits<int64_t>::max() / bits / elements) {
      return refuse("has more bits than fit 63 of them");
    }
    elements *= dim;
  }
  if (elements * bits % 8 != 0) return refuse("is not whole bytes");
  if (elements * bits / 8 != tensor.size_bytes) {
    return refuse("has ", tensor.size_bytes, " bytes, needed ", elements * bits / 8);
  }
  tensor.num_elements = elements;
  return absl::OkStatus();
}

absl::Status CheckPlaces(std::vector<SafetensorsTensor>& tensors, uint64_t data_bytes) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.offset, a.size_bytes) < std::pair(b.offset, b.size_bytes);
  });
  uint64_t expected = 0;  // at most 2^63: sizes were differences of numbers below it
  for (const SafetensorsTensor& tensor : tensors) {
    if (static_cast<uint64_t>(tensor.offset) != expected) {
      return absl::DataLossError(absl::StrCat(
          "tensor '", tensor.name, "' begins at byte ", tensor.offset, " of the data, needed ",
          expected, " (tensors follow each other without a hole or an overlap)"));
    }
    expected += static_cast<uint64_t>(tensor.size_bytes);
  }
  if (expected != data_bytes) {
    return absl::DataLossError(absl::StrCat("tensors need ", expected, " bytes, ", data_bytes,
                                            " follow the header; is the file truncated?"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view TypeName(SafetensorsType type) { return kTypes[static_cast<size_t>(type)].name; }
int TypeBits(SafetensorsType type) { return kTypes[static_cast<size_t>(type)].bits; }

absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(absl::string_view json,
                                                        uint64_t data_bytes) {
  SafetensorsHeader header;
  HeaderHandler handler(header);
  // The JSON library takes a zero byte for the end of its input.
  if (const size_t zero = json.find('\0'); zero != absl::string_view::npos) {
    return absl::DataLossError(absl::StrCat("header is not JSON at its byte ", zero));
  }
  const char* begin = json.data();
  const bool parsed = nlohmann::json::sax_parse(begin, begin + json.size(), &handler);
  NIBBLE_RETURN_IF_ERROR(handler.status());
  if (!parsed) return absl::DataLossError("header is not a JSON object");
  for (SafetensorsTensor& tensor : header.tensors) NIBBLE_RETURN_IF_ERROR(CheckSize(tensor));
  NIBBLE_RETURN_IF_ERROR(CheckPlaces(header.tensors, data_bytes));
  return header;
}

}  // namespace nibble
