// libFuzzer target: arbitrary bytes as one of the JSON files of a model folder, the others being
// valid. The first byte chooses the file ('0' config.json .. '5' nibble_quantize.json).
//   cmake --preset fuzz && ninja -C build/fuzz hf_folder_fuzz hf_folder_fuzz_seeds
//   mkdir -p corpus && build/fuzz/tests/fuzz/hf_folder_fuzz_seeds corpus
//   TEST_TMPDIR=/dev/shm build/fuzz/tests/fuzz/hf_folder_fuzz -max_total_time=60 -max_len=16384
//   corpus
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "engine/folder_record.h"
#include "engine/hf_model.h"
#include "engine/weights/hf/quantization.h"
#include "tests/fuzz/hf_folder_files.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// A folder of each kind, made once.
class Folders {
 public:
  Folders()
      : single_(testing::FuzzFolder().Write("fuzz_single")),
        sharded_(testing::FuzzFolder().Write("fuzz_sharded")) {
    fs::rename(fs::path(sharded_) / "model.safetensors", fs::path(sharded_) / testing::kFuzzShard);
  }
  ~Folders() {
    fs::remove_all(single_);
    fs::remove_all(sharded_);
  }

  // The folder with `text` as that file, until Restore.
  const std::string& Spoil(const testing::FuzzFile& file, absl::string_view text) {
    const std::string& folder = file.is_index ? sharded_ : single_;
    testing::WriteText(fs::path(folder) / file.name, text);
    return folder;
  }
  void Restore(const testing::FuzzFile& file) {
    const std::string& folder = file.is_index ? sharded_ : single_;
    testing::WriteText(fs::path(folder) / file.name, file.valid);
  }

 private:
  const std::string single_, sharded_;
};

void ReadText(const HfModel& model, const ModelConfig& config) {
  (void)ReadHfTokenizerSpec(model.folder(), model.config(), config.vocab_size);
  (void)ReadHfChatTemplate(model.folder());
}

void ReadFolder(const std::string& path) {
  const auto model = HfModel::Open(path);
  if (!model.ok()) return;
  ModelConfig config;
  if (!ReadHfConfig((*model)->config(), path, config).ok()) return;
  (void)CheckHfTensors(*(*model)->Source(config), path, config);
  ReadText(**model, config);
}

// Without the disk, where one object is all there is to read.
void ReadConfig(absl::string_view text) {
  const auto json = JsonObject::Parse(text, "config.json", JsonLimits());
  if (!json.ok()) return;
  for (const std::string& key : json->Keys()) (void)json->Describe(key);
  ModelConfig config;
  (void)ReadHfConfig(*json, "fuzz", config);
  (void)ReadQuantConfig(*json);
  if (const auto inner = json->Object("quantization_config"); inner.ok()) {
    (void)ReadQuantConfig(*inner);
  }
  (void)ReadProvenance(*json);
}

}  // namespace
}  // namespace nibble

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static nibble::Folders* const folders = new nibble::Folders();
  static const auto* const files = new auto(nibble::testing::FuzzFiles());
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  nibble::ReadConfig(text);
  const size_t which = data[0] - size_t{'0'};
  if (which >= files->size()) return 0;
  const nibble::testing::FuzzFile& file = files->at(which);
  nibble::ReadFolder(folders->Spoil(file, text));
  folders->Restore(file);
  return 0;
}
