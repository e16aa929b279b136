// libFuzzer target: arbitrary bytes through everything that reads a safetensors file, down to the
// loaded matrices of every quantized layout; the file's own metadata is its config.json.
//   cmake --preset fuzz && ninja -C build/fuzz safetensors_fuzz
//   mkdir -p corpus && build/fuzz/tests/fuzz/safetensors_fuzz -max_total_time=60 -max_len=65536
//     corpus tests/oracle/checkpoints/matrices
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

#include "engine/weights/hf/hf_source.h"
#include "engine/weights/hf/linear_layout.h"

namespace {

constexpr int64_t kMostElements = 1 << 22;  // unreachable within max_len but by hostile shapes

// Of every tensor, what may be a module's name in front of it.
std::set<std::string> Modules(const nibble::TensorSet& set) {
  std::set<std::string> modules;
  for (const auto& [name, tensor] : set.tensors()) {
    for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
      modules.insert(name.substr(0, dot));
    }
  }
  return modules;
}

void LoadModule(const nibble::ModuleTensors& tensors, const nibble::QuantConfig& config) {
  const auto layout = nibble::OpenLinear(tensors, config);
  if (!layout.ok()) return;
  const int32_t rows = (*layout)->rows();
  if (int64_t{rows} * (*layout)->cols() > kMostElements) return;
  const auto matrix = (*layout)->Load(0, rows);
  if (!matrix.ok()) return;
  if (!nibble::quant::Validate(*matrix).ok()) __builtin_trap();
  (void)nibble::GatherRows(*matrix, std::vector<int32_t>{rows - 1, 0});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto file = nibble::SafetensorsFile::Parse(absl::MakeConstSpan(data, size), "fuzz.safetensors");
  if (!file.ok()) return 0;
  nibble::QuantConfig config;
  for (const auto& [key, value] : file->metadata()) {
    if (key != "config") continue;
    const auto json = nibble::JsonObject::Parse(value, "config.json", {});
    if (!json.ok()) continue;
    if (const auto read = nibble::ReadQuantConfig(*json); read.ok()) config = *read;
  }
  std::vector<nibble::SafetensorsFile> files;
  files.push_back(*std::move(file));
  const auto set = nibble::TensorSet::Make(std::move(files));
  if (!set.ok()) return 0;
  for (const std::string& module : Modules(*set)) {
    LoadModule(nibble::ModuleTensors(*set, module), config);
  }
  const auto source = nibble::MakeHfSource(*set, config, {.interleave_head_dim = 4});
  (void)source->Report();
  (void)source->Identity();
  return 0;
}
