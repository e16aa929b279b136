// libFuzzer target: arbitrary bytes as a file of a base's distributions, down to the divergence of
// a candidate from it.
//   cmake --preset fuzz && ninja -C build/fuzz base_file_fuzz base_file_fuzz_seeds
//   mkdir -p corpus && build/fuzz/tests/fuzz/base_file_fuzz_seeds corpus
//   build/fuzz/tests/fuzz/base_file_fuzz -max_total_time=60 -max_len=16384 corpus
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/eval/base_file.h"
#include "engine/eval/base_layout.h"
#include "engine/eval/divergence.h"
#include "engine/model/logits_runner.h"

namespace nibble {
namespace {

constexpr int64_t kMostIds = 1 << 14;

// Every word equally likely.
class FlatLogits final : public LogitsRunner {
 public:
  FlatLogits(int32_t vocab_size, int32_t window) : logits_(vocab_size) {
    limits_.vocab_size = vocab_size;
    limits_.max_context = limits_.max_batch_tokens = window;
    limits_.block_size = window;
    limits_.num_blocks = limits_.max_sequences = 1;
  }
  RunnerLimits limits() const override { return limits_; }
  absl::StatusOr<StepResult> Run(const Batch&) override { return absl::UnimplementedError("Run"); }
  absl::Status RunForLogits(const Batch& batch, LogitsVisitor visit) override {
    const BatchRow& row = batch.rows[0];
    const int32_t end = row.num_computed + row.num_scheduled;
    for (int32_t p = std::max(row.num_computed, row.prompt_scored); p < end; ++p) {
      visit(0, p, logits_);
    }
    return absl::OkStatus();
  }

 private:
  RunnerLimits limits_;
  std::vector<float> logits_;
};

// Of the text that the header claims; empty where that is none, or a long one.
std::vector<int32_t> IdsFor(const BaseHeader& header) {
  const bool plausible = header.window >= 2 && header.window <= kMostIds && header.stride >= 0 &&
                         header.num_windows >= 1 && header.num_windows <= kMostIds &&
                         header.vocab_size >= 1;
  if (!plausible) return {};
  const int64_t stride = header.stride > 0 ? header.stride : header.window;
  const int64_t n = header.window + (header.num_windows - 1) * stride;
  if (n > kMostIds) return {};
  std::vector<int32_t> ids(n);
  for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(i * i % header.vocab_size);
  return ids;
}

// What a fuzzer cannot guess is made right: the size, the text's digest, the checksums.
void Seal(std::vector<uint8_t>& bytes, const std::vector<int32_t>& ids, BaseHeader header) {
  header.file_bytes = bytes.size();
  header.ids = BaseIdsDigest(ids);
  const size_t rest = bytes.size() - sizeof(header);
  if (header.description_bytes > rest) return;
  header.checksum = BaseHeaderChecksum(
      header,
      {reinterpret_cast<const char*>(bytes.data()) + sizeof(header), header.description_bytes});
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (header.vocab_size < 1) return;
  const auto size = static_cast<size_t>(BasePositionBytes(header.vocab_size));
  uint8_t* at = bytes.data() + sizeof(header) + header.description_bytes;
  const size_t count = (rest - header.description_bytes) / size;
  for (size_t number = 0; number < count; ++number, at += size) {
    const uint64_t checksum = BasePositionChecksum({at, size}, static_cast<int64_t>(number));
    std::memcpy(at, &checksum, sizeof(checksum));
  }
}

void Compare(BaseFile& file, const std::vector<int32_t>& ids) {
  FlatLogits candidate(file.vocab_size(), file.info().windows.window);
  const auto result = EvaluateDivergence(file, candidate, ids, file.info().windows, nullptr);
  if (result.ok() && !(result->kl.mean >= -1e-3)) __builtin_trap();
}

}  // namespace
}  // namespace nibble

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)nibble::BaseFile::Parse({data, size}, "raw.base");
  nibble::BaseHeader header;
  if (size < sizeof(header)) return 0;
  std::memcpy(&header, data, sizeof(header));
  std::vector<uint8_t> bytes(data, data + size);
  const std::vector<int32_t> ids = nibble::IdsFor(header);
  nibble::Seal(bytes, ids, header);
  const auto file = nibble::BaseFile::Parse(bytes, "fuzz.base");
  if (file.ok() && !ids.empty()) nibble::Compare(**file, ids);
  return 0;
}
