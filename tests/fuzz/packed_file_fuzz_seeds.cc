// Writes the first corpus of packed_file_fuzz into the directory named: a small valid file, with a
// matrix of every storage.
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "engine/weights/packed_file.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {
namespace {

absl::Status WriteSeeds(const std::string& directory) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({}).value();
  std::vector<std::unique_ptr<PackedMatrix>> matrices;
  std::vector<PackedRecord> records;
  for (const quant::Format format : {quant::Format::kInt4Affine, quant::Format::kInt8,
                                     quant::Format::kBf16, quant::Format::kF32}) {
    const bool is_float = format == quant::Format::kBf16 || format == quant::Format::kF32;
    matrices.push_back(
        backend->Pack(quant::RandomMatrix({.format = format, .group = is_float ? 0 : 32}, 1))
            .value());
    const PackedBytes bytes = backend->ToBytes(*matrices.back());
    PackedRecord record{.name = absl::StrCat("m", records.size()), .header = bytes.header};
    for (const auto& section : bytes.sections) {
      record.sections.push_back({.bytes = section, .checksum = Checksum(section)});
    }
    records.push_back(std::move(record));
  }
  PackedFileKey key;
  key.layout = "cpu";
  return WritePackedFile(directory + "/all.packed", key, records);
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  if (argc != 2 || !nibble::WriteSeeds(argv[1]).ok()) {
    std::fprintf(stderr, "usage: packed_file_fuzz_seeds DIRECTORY (which must exist)\n");
    return 2;
  }
  return 0;
}
