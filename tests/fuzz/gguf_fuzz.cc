// libFuzzer target: arbitrary bytes through everything that reads a GGUF file, down to the loaded
// matrices.
//   cmake --preset fuzz && ninja -C build/fuzz gguf_fuzz gguf_fuzz_seeds
//   mkdir -p corpus && build/fuzz/tests/fuzz/gguf_fuzz_seeds corpus
//   build/fuzz/tests/fuzz/gguf_fuzz -max_total_time=60 -max_len=65536 corpus
#include <cstddef>
#include <cstdint>

#include "engine/gguf_model.h"
#include "engine/model_file.h"
#include "engine/weights/weight_source.h"

namespace {

void LoadAll(const nibble::GgufFile& file) {
  const std::unique_ptr<nibble::WeightSource> source = nibble::MakeGgufSource(file);
  for (const nibble::GgufTensor& tensor : file.tensors()) {
    if (tensor.num_elements > (1 << 24))
      continue;  // unreachable within max_len; keeps the casts honest
    const auto n = static_cast<int32_t>(tensor.dims[0]);
    if (tensor.dims.size() == 1) (void)source->LoadVector(tensor.name, n);
    if (tensor.dims.size() == 2)
      (void)source->LoadMatrix(tensor.name, static_cast<int32_t>(tensor.dims[1]), n);
  }
  (void)source->Report();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::StatusOr<nibble::GgufFile> file =
      nibble::GgufFile::Parse(absl::MakeConstSpan(data, size), "fuzz.gguf");
  if (!file.ok()) return 0;
  for (const std::string& key : file->Keys()) (void)file->Describe(key);
  (void)nibble::ReadModelConfig(*file);
  (void)nibble::ReadTokenizerSpec(*file);
  LoadAll(*file);
  return 0;
}
