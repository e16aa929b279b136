#include "engine/eval/base_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/config_bounds.h"
#include "engine/eval/base_layout.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/printable.h"
#include "kernels/check.h"

namespace nibble {
namespace {

absl::Status CheckIdentity(const BaseHeader& header, uint64_t file_bytes) {
  if (std::memcmp(header.magic, kBaseMagic, sizeof(header.magic)) != 0) {
    return absl::DataLossError("is not a file of a base's distributions");
  }
  if (header.byte_order == kBaseForeignByteOrder) {
    return absl::UnimplementedError("was written by a machine of the other byte order");
  }
  if (header.byte_order != kBaseByteOrder) {
    return absl::DataLossError(absl::StrCat("has the byte order mark ", header.byte_order));
  }
  if (header.version != kBaseVersion) {
    return absl::UnimplementedError(absl::StrCat("is of format version ", header.version,
                                                 ", this program reads ", kBaseVersion));
  }
  if (header.file_bytes != file_bytes) {
    return absl::DataLossError(absl::StrCat("has ", file_bytes, " bytes, its header says ",
                                            header.file_bytes, "; was it truncated?"));
  }
  if (header.description_bytes > kMaxBaseDescription ||
      header.description_bytes > file_bytes - sizeof(header)) {
    return absl::DataLossError(absl::StrCat("has a description of ", header.description_bytes,
                                            " bytes, at most ", kMaxBaseDescription, " are read"));
  }
  return absl::OkStatus();
}

// That the counts are in range and are what the rest of the file is long enough for, exactly.
absl::Status CheckCounts(const BaseHeader& header) {
  if (header.vocab_size < 1 || header.vocab_size > kMaxVocab) {
    return absl::DataLossError(
        absl::StrCat("has a vocabulary of ", header.vocab_size, ", the range is 1 to ", kMaxVocab));
  }
  const bool in_range = header.window >= 2 && header.window <= kMaxContext && header.skip >= 1 &&
                        header.skip < header.window && header.stride >= 0 &&
                        header.stride <= header.window && header.bos_id >= -1 &&
                        header.bos_id < header.vocab_size && header.num_windows >= 1;
  if (!in_range) {
    return absl::DataLossError(absl::StrCat(
        "has windows of ", header.window, ", skip ", header.skip, ", stride ", header.stride,
        ", bos_id ", header.bos_id, " and ", header.num_windows, " of them, which no text has"));
  }
  const uint64_t rest = header.file_bytes - sizeof(header) - header.description_bytes;
  const auto position_bytes = static_cast<uint64_t>(BasePositionBytes(header.vocab_size));
  const auto claimed = static_cast<uint64_t>(header.num_positions);
  if (header.num_positions < 1 || rest % position_bytes != 0 || rest / position_bytes != claimed) {
    return absl::DataLossError(absl::StrCat("has ", rest, " bytes for ", header.num_positions,
                                            " positions of ", position_bytes));
  }
  return absl::OkStatus();
}

// That there are as many positions as the windows score.
absl::Status CheckPositions(const BaseFileInfo& info) {
  const WindowOptions& options = info.windows;
  const int64_t first = options.window - options.FirstScored(0);
  const int64_t other = options.window - options.FirstScored(1);
  const int64_t more = info.num_windows - 1;
  const bool fits = first >= 1 && other >= 1 && info.num_positions >= first &&
                    (info.num_positions - first) % other == 0 &&
                    (info.num_positions - first) / other == more;
  if (fits) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("has ", info.num_positions, " positions, not those of ",
                                          info.num_windows, " windows"));
}

class ReadBaseFile final : public BaseFile {
 public:
  const BaseFileInfo& info() const override { return info_; }
  int32_t vocab_size() const override { return info_.vocab_size; }
  int32_t max_tokens() const override { return info_.windows.window; }

  absl::Status Check(absl::Span<const int32_t> ids, const WindowOptions& options) const override {
    if (!(options == info_.windows)) return OtherWindows(options);
    if (options.NumWindows(ids.size()) == info_.num_windows && BaseIdsDigest(ids) == ids_) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ": was made from other tokens than these ", ids.size(),
                     ": another text, or a tokenizer that cuts it differently"));
  }

  absl::Status Run(absl::Span<const int32_t> window, int64_t index, int32_t first, int32_t n,
                   Visitor visit) override {
    NIBBLE_CHECK(static_cast<int32_t>(window.size()) == info_.windows.window);
    const int32_t scored = info_.windows.FirstScored(index);
    for (int32_t p = std::max(first, scored - 1); p < first + n; ++p) {
      const int64_t number = FirstOf(index) + (p - (scored - 1));
      NIBBLE_ASSIGN_OR_RETURN(const float target, Decode(number));
      visit(p, BaseRow{logits_, target});
    }
    return absl::OkStatus();
  }

  absl::Status ReadHeader(absl::string_view name, uint64_t file_bytes) {
    name_ = std::string(name);
    BaseHeader header;
    if (file_bytes < sizeof(header)) {
      return absl::DataLossError(absl::StrCat("has ", file_bytes, " bytes, too few for a header"));
    }
    NIBBLE_RETURN_IF_ERROR(ReadAt(0, {reinterpret_cast<uint8_t*>(&header), sizeof(header)}));
    NIBBLE_RETURN_IF_ERROR(CheckIdentity(header, file_bytes));
    std::string description(header.description_bytes, '\0');
    NIBBLE_RETURN_IF_ERROR(ReadAt(
        sizeof(header), {reinterpret_cast<uint8_t*>(description.data()), description.size()}));
    if (BaseHeaderChecksum(header, description) != header.checksum) {
      return absl::DataLossError("has a damaged header: its checksum differs");
    }
    if (!IsPrintableName(description, kMaxBaseDescription)) {
      return absl::DataLossError(absl::StrCat("has the description ", QuoteForMessage(description),
                                              ", needed printable ASCII characters"));
    }
    NIBBLE_RETURN_IF_ERROR(CheckCounts(header));
    info_ = {std::move(description),
             header.vocab_size,
             {header.window, header.skip, header.stride, header.bos_id},
             header.num_windows,
             header.num_positions,
             static_cast<int64_t>(header.file_bytes),
             BasePositionBytes(header.vocab_size),
             {}};
    ids_ = header.ids;
    start_ = static_cast<int64_t>(sizeof(header) + info_.description.size());
    return CheckPositions(info_);
  }

  absl::Span<const uint8_t> bytes;    // of Parse
  std::optional<MappedFile> mapping;  // of Open; read, never touched: it may be truncated meanwhile

 private:
  absl::Status OtherWindows(const WindowOptions& options) const {
    const WindowOptions& has = info_.windows;
    return absl::InvalidArgumentError(absl::StrCat(
        name_, ": was made with --window ", has.window, ", --skip ", has.skip, ", --stride ",
        has.stride, " and bos ", has.bos_id, ", found ", options.window, ", ", options.skip, ", ",
        options.stride, " and ", options.bos_id, "; give the same"));
  }

  absl::Status ReadAt(int64_t offset, absl::Span<uint8_t> out) const {
    if (mapping.has_value()) return mapping->ReadAt(offset, out);
    NIBBLE_CHECK(static_cast<uint64_t>(offset) + out.size() <= bytes.size());
    std::copy_n(bytes.begin() + offset, out.size(), out.begin());
    return absl::OkStatus();
  }

  // The number of the first position of a window.
  int64_t FirstOf(int64_t index) const {
    const WindowOptions& options = info_.windows;
    if (index == 0) return 0;
    return (options.window - options.FirstScored(0)) +
           (index - 1) * (options.window - options.FirstScored(1));
  }

  // Fills logits_; the target's log p.
  absl::StatusOr<float> Decode(int64_t number) {
    NIBBLE_CHECK(number >= 0 && number < info_.num_positions);
    record_.resize(info_.position_bytes);
    logits_.resize(info_.vocab_size);
    NIBBLE_RETURN_IF_ERROR(ReadAt(start_ + number * info_.position_bytes, absl::MakeSpan(record_)));
    BasePosition position;
    std::memcpy(&position, record_.data(), sizeof(position));
    if (position.checksum != BasePositionChecksum(record_, number)) {
      return absl::DataLossError(
          absl::StrCat(name_, ": position ", number, " is damaged: its checksum differs"));
    }
    if (!std::isfinite(position.target_logprob) || position.target_logprob > 0 ||
        !(position.step >= 0 && position.step <= 1)) {
      return absl::DataLossError(absl::StrCat(name_, ": position ", number, " has a log p of ",
                                              position.target_logprob, " and a step of ",
                                              position.step));
    }
    for (int32_t word = 0; word < info_.vocab_size; ++word) {
      uint16_t code;
      std::memcpy(&code, record_.data() + sizeof(position) + 2 * int64_t{word}, sizeof(code));
      logits_[word] = -position.step * static_cast<float>(code);
    }
    return position.target_logprob;
  }

  std::string name_;
  BaseFileInfo info_;
  Digest ids_ = {};
  int64_t start_ = 0;  // of the positions
  std::vector<uint8_t> record_;
  std::vector<float> logits_;
};

absl::StatusOr<std::unique_ptr<BaseFile>> Named(std::unique_ptr<ReadBaseFile> file,
                                                absl::string_view name, uint64_t size) {
  if (absl::Status status = file->ReadHeader(name, size); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  }
  return file;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BaseFile>> BaseFile::Open(const std::string& path) {
  auto file = std::make_unique<ReadBaseFile>();
  NIBBLE_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  const uint64_t size = mapping.bytes().size();
  file->mapping = std::move(mapping);
  return Named(std::move(file), path, size);
}

absl::StatusOr<std::unique_ptr<BaseFile>> BaseFile::Parse(absl::Span<const uint8_t> bytes,
                                                          absl::string_view name) {
  auto file = std::make_unique<ReadBaseFile>();
  file->bytes = bytes;
  return Named(std::move(file), name, bytes.size());
}

}  // namespace nibble
