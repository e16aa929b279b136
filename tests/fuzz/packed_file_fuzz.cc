// libFuzzer target: arbitrary bytes as a file of packed weights, down to the matrices they become.
//   cmake --preset fuzz && ninja -C build/fuzz packed_file_fuzz packed_file_fuzz_seeds
//   mkdir -p corpus && build/fuzz/tests/fuzz/packed_file_fuzz_seeds corpus
//   build/fuzz/tests/fuzz/packed_file_fuzz -max_total_time=60 -max_len=65536 corpus
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/weights/packed_file.h"
#include "engine/weights/packed_layout.h"
#include "kernels/backend.h"
#include "kernels/cpu/packed_matrix.h"

namespace nibble {
namespace {

// 64-byte aligned, as a mapping is, and with the checksum right: a fuzzer cannot guess one.
class Sealed {
 public:
  Sealed(const uint8_t* data, size_t size) : bytes_(size + 64) {
    const size_t pad = 64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64;
    bytes_.resize(size + pad);
    start_ = bytes_.data() + pad;
    std::memcpy(start_, data, size);
    size_ = size;
    PackedHeader header;
    if (size < sizeof(header)) return;
    std::memcpy(&header, start_, sizeof(header));
    header.file_bytes = size;
    header.checksum = 0;
    if (header.table_bytes <= size - sizeof(header)) {
      header.checksum = HeaderChecksum(header, {start_ + sizeof(header), header.table_bytes});
    }
    std::memcpy(start_, &header, sizeof(header));
  }
  absl::Span<const uint8_t> bytes() const { return {start_, size_}; }

 private:
  std::vector<uint8_t> bytes_;
  uint8_t* start_ = nullptr;
  size_t size_ = 0;
};

void ReadMatrix(Backend& backend, const PackedRecord& record) {
  PackedBytes bytes;
  bytes.header = record.header;
  for (size_t i = 0; i < record.sections.size(); ++i) {
    (void)VerifySection(record, i);
    bytes.sections.push_back(record.sections[i].bytes);
  }
  const auto matrix = backend.FromBytes(bytes, nullptr);
  if (!matrix.ok()) return;
  std::vector<float> row((*matrix)->cols());
  const auto& packed = static_cast<const cpu::CpuMatrix&>(**matrix);
  packed.DequantizeRow(0, row.data());
  packed.DequantizeRow(packed.rows() - 1, row.data());
}

}  // namespace
}  // namespace nibble

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static nibble::Backend* const backend = [] {
    nibble::CpuOptions options;
    options.num_threads = 1;
    return nibble::CreateCpuBackend(options).value().release();
  }();
  const nibble::Sealed sealed(data, size);
  const auto file = nibble::PackedFile::Parse(sealed.bytes(), "fuzz.packed");
  if (!file.ok()) return 0;
  for (const nibble::PackedRecord& record : file->records()) {
    nibble::ReadMatrix(*backend, record);
  }
  return 0;
}
