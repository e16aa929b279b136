// A matrix that a packing wrote, as a safetensors file in memory, to be read as module "m".
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/quantize/folder/matrix_packing.h"
#include "engine/weights/hf/linear_layout.h"
#include "engine/weights/hf/tensor_set.h"
#include "tests/engine/weights/safetensors_writer.h"

namespace nibble::quantize::testing {

// The file's tensors; as metadata the config.json that goes with them, which is also how
// tests/fuzz/safetensors_fuzz.cc takes it.
inline absl::StatusOr<nibble::testing::SafetensorsWriter> PackedModule(
    const MatrixPacking& packing, const QuantizedWeight& weight) {
  auto packed = packing.Pack(weight);
  if (!packed.ok()) return packed.status();
  nibble::testing::SafetensorsWriter file;
  const std::vector<PackedTensor> plan = packing.Plan(weight.rows, weight.cols);
  for (size_t i = 0; i < plan.size(); ++i) {
    file.Add("m." + plan[i].suffix, TypeName(plan[i].type), plan[i].shape, packed->at(i));
  }
  return file;
}

// The same, read: what the reader makes of it is `layout`.
struct ReadModule {
  std::vector<uint8_t> bytes;
  std::unique_ptr<TensorSet> set;
  absl::StatusOr<std::unique_ptr<LinearLayout>> layout = absl::UnknownError("not read");
};

inline ReadModule Read(const nibble::testing::SafetensorsWriter& file,
                       const nlohmann::ordered_json& config) {
  ReadModule module;
  module.bytes = file.Build();
  std::vector<SafetensorsFile> files;
  auto parsed = SafetensorsFile::Parse(module.bytes, "m.safetensors");
  if (!parsed.ok()) {
    module.layout = parsed.status();
    return module;
  }
  files.push_back(*std::move(parsed));
  module.set = std::make_unique<TensorSet>(*TensorSet::Make(std::move(files)));
  const auto json = JsonObject::Parse(config.dump(), "config.json", {});
  const auto read = ReadQuantConfig(*json);
  module.layout = read.ok() ? OpenLinear(ModuleTensors(*module.set, "m"), *read) : read.status();
  return module;
}

}  // namespace nibble::quantize::testing
