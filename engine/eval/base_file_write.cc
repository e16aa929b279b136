// SaveBaseFile.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/eval/base_file.h"
#include "engine/eval/base_layout.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/partial_file.h"
#include "engine/weights/printable.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// A position's codes behind a BasePosition.
class Encoder {
 public:
  explicit Encoder(int32_t vocab_size)
      : codes_(vocab_size), record_(BasePositionBytes(vocab_size)) {}

  // False where a logit is not finite. The target's log p is then in target_logprob().
  bool Encode(absl::Span<const float> logits, int32_t target, int64_t number) {
    const auto high = std::max_element(logits.begin(), logits.end());  // the first of equals
    double sum = 0;
    float low = *high;
    for (float logit : logits) {
      if (!std::isfinite(logit)) return false;
      low = std::min(low, logit);
      sum += std::exp(static_cast<double>(logit) - *high);
    }
    target_logprob_ = static_cast<double>(logits[target]) - *high - std::log(sum);
    BasePosition position;
    position.target_logprob = static_cast<float>(target_logprob_);
    const double spread = std::min(static_cast<double>(*high) - low, kBaseMostSpread);
    position.step = static_cast<float>(spread / kBaseMostCode);
    EncodeWords(logits, static_cast<size_t>(high - logits.begin()), position.step);
    std::memcpy(record_.data() + sizeof(position), codes_.data(), codes_.size() * 2);
    std::memcpy(record_.data(), &position, sizeof(position));
    position.checksum = BasePositionChecksum(record_, number);
    std::memcpy(record_.data(), &position, sizeof(position));
    return true;
  }

  absl::Span<const uint8_t> record() const { return record_; }
  double target_logprob() const { return target_logprob_; }

 private:
  // Only the likeliest word, the first of equals, has code 0: whoever reads finds the same one.
  void EncodeWords(absl::Span<const float> logits, size_t best, float step) {
    const double high = logits[best];
    for (size_t word = 0; word < logits.size(); ++word) {
      const double code = step > 0 ? std::round((high - logits[word]) / step) : 0;
      codes_[word] = static_cast<uint16_t>(std::clamp<double>(code, 1, kBaseMostCode));
    }
    codes_[best] = 0;
  }

  std::vector<uint16_t> codes_;
  std::vector<uint8_t> record_;
  double target_logprob_ = 0;
};

BaseHeader MakeHeader(absl::Span<const int32_t> ids, const WindowOptions& options,
                      int32_t vocab_size, const std::string& description) {
  BaseHeader header;
  std::memcpy(header.magic, kBaseMagic, sizeof(header.magic));
  header.byte_order = kBaseByteOrder;
  header.version = kBaseVersion;
  header.vocab_size = vocab_size;
  header.window = options.window;
  header.skip = options.skip;
  header.stride = options.stride;
  header.bos_id = options.bos_id;
  header.description_bytes = static_cast<uint32_t>(description.size());
  header.num_windows = options.NumWindows(ids.size());
  header.num_positions = options.NumScored(ids.size());
  header.ids = BaseIdsDigest(ids);
  header.file_bytes = sizeof(header) + description.size() +
                      static_cast<uint64_t>(header.num_positions * BasePositionBytes(vocab_size));
  header.checksum = BaseHeaderChecksum(header, description);
  return header;
}

// A flag's slip must not cost anybody a file: replaced is what was a base file.
absl::Status CheckReplaceable(const std::string& path) {
  const absl::StatusOr<MappedFile> there = MappedFile::Open(path);
  if (absl::IsNotFound(there.status())) return absl::OkStatus();
  const size_t magic_bytes = sizeof(BaseHeader::magic);
  if (there.ok() && there->bytes().size() >= magic_bytes &&
      std::memcmp(there->bytes().data(), kBaseMagic, magic_bytes) == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": exists and is not a file of a base's distributions; name another file"));
}

class Writer {
 public:
  Writer(LogitsRunner& base, const WindowOptions& options, const std::string& path)
      : options_(options),
        base_(MakeRunningBase(base, options)),
        file_(path),
        encoder_(base_->vocab_size()) {}

  absl::Status Begin(const BaseHeader& header, const std::string& description) {
    NIBBLE_RETURN_IF_ERROR(file_.Create());
    NIBBLE_RETURN_IF_ERROR(file_.Reserve(header.file_bytes));
    NIBBLE_RETURN_IF_ERROR(
        file_.Write({reinterpret_cast<const uint8_t*>(&header), sizeof(header)}));
    return file_.Write({reinterpret_cast<const uint8_t*>(description.data()), description.size()});
  }

  absl::Status AddWindow(absl::Span<const int32_t> ids, int64_t index) {
    std::vector<int32_t> window(ids.begin(), ids.end());
    if (options_.bos_id >= 0) window[0] = options_.bos_id;
    const int32_t end = options_.window - 1;  // the last token is a target only
    for (int32_t first = 0; first < end; first += base_->max_tokens()) {
      absl::Status written;
      const auto visit = [&](int32_t position, const BaseRow& row) {
        if (written.ok()) written = AddPosition(row, window[position + 1], position, index);
      };
      const int32_t n = std::min(base_->max_tokens(), end - first);
      NIBBLE_RETURN_IF_ERROR(base_->Run(window, index, first, n, visit));
      NIBBLE_RETURN_IF_ERROR(written);
    }
    return absl::OkStatus();
  }

  absl::Status Finish(int64_t num_positions) {
    NIBBLE_CHECK(static_cast<int64_t>(nll_.size()) == num_positions);
    return file_.Publish();
  }

  Estimate nll() const { return EstimateMean(nll_); }

 private:
  absl::Status AddPosition(const BaseRow& row, int32_t target, int32_t position, int64_t index) {
    if (!encoder_.Encode(row.logits, target, static_cast<int64_t>(nll_.size()))) {
      return absl::InternalError(absl::StrCat("the base's logits at position ", position,
                                              " of window ", index, " are not finite"));
    }
    nll_.push_back(-encoder_.target_logprob());
    return file_.Write(encoder_.record());
  }

  const WindowOptions options_;
  const std::unique_ptr<BaseDistributions> base_;
  PartialFile file_;
  Encoder encoder_;
  std::vector<double> nll_;
};

}  // namespace

absl::StatusOr<BaseFileInfo> SaveBaseFile(LogitsRunner& base, absl::Span<const int32_t> ids,
                                          const WindowOptions& options,
                                          const std::string& description, const std::string& path,
                                          std::function<void(int64_t, int64_t)> progress) {
  NIBBLE_CHECK(IsPrintableName(description, kMaxBaseDescription));
  NIBBLE_RETURN_IF_ERROR(CheckWindows(base.limits(), ids.size(), options));
  NIBBLE_RETURN_IF_ERROR(CheckReplaceable(path));
  const BaseHeader header = MakeHeader(ids, options, base.limits().vocab_size, description);
  Writer writer(base, options, path);
  NIBBLE_RETURN_IF_ERROR(writer.Begin(header, description));
  for (int64_t w = 0; w < header.num_windows; ++w) {
    NIBBLE_RETURN_IF_ERROR(writer.AddWindow(ids.subspan(w * options.Stride(), options.window), w));
    if (progress) progress(w + 1, header.num_windows);
  }
  NIBBLE_RETURN_IF_ERROR(writer.Finish(header.num_positions));
  return BaseFileInfo{description,
                      header.vocab_size,
                      options,
                      header.num_windows,
                      header.num_positions,
                      static_cast<int64_t>(header.file_bytes),
                      BasePositionBytes(header.vocab_size),
                      writer.nll()};
}

}  // namespace nibble
