#include "cli/eval_table_mix.h"

#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/version.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/gguf_quantizer.h"
#include "engine/quantize_source.h"
#include "engine/weights/partial_file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// A folder of our own, removed with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() = default;
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }

  absl::Status Create() {
    std::error_code error;
    std::string name = (fs::temp_directory_path(error) / "nibble-table-XXXXXX").string();
    if (error) return FileError("TMPDIR", "find", error.value());
    if (mkdtemp(name.data()) == nullptr) return FileError(name, "create", errno);
    path_ = std::move(name);
    return absl::OkStatus();
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

double LayerBits(const std::vector<TensorRecipe>& recipes, const QuantizeReport& report) {
  double bytes = 0, elements = 0;
  for (size_t i = 0; i < recipes.size(); ++i) {
    if (recipes[i].dims.size() < 2 || !absl::StartsWith(recipes[i].name, "blk.")) continue;
    bytes += static_cast<double>(report.tensors[i].target_bytes);
    elements += static_cast<double>(report.tensors[i].num_elements);
  }
  return elements > 0 ? 8 * bytes / elements : 0;
}

}  // namespace

absl::StatusOr<MixedModel> QuantizeToMix(const std::string& path, const MixInfo& mix,
                                         int32_t num_threads,
                                         std::function<void(int64_t, int64_t)> progress,
                                         const std::atomic<bool>& cancelled) {
  NIBBLE_ASSIGN_OR_RETURN(const QuantizeSource source, QuantizeSource::Open(path));
  RecipeOptions recipe;
  recipe.mix = mix;
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<TensorRecipe> recipes,
                          PlanTypes(source.tensors(), recipe));
  TemporaryFolder folder;
  NIBBLE_RETURN_IF_ERROR(folder.Create());
  QuantizeOptions options;
  options.mix = mix;
  options.output = absl::StrCat(folder.path(), "/", mix.name, ".gguf");
  NIBBLE_ASSIGN_OR_RETURN(options.keys, source.Keys());
  options.provenance.tool = absl::StrCat("nibble ", kVersion);
  options.num_threads = num_threads;
  options.progress = std::move(progress);
  options.cancelled = &cancelled;
  NIBBLE_ASSIGN_OR_RETURN(const QuantizeReport report,
                          QuantizeGguf(source.tensors(), recipes, options));
  MixedModel mixed;
  mixed.bits = LayerBits(recipes, report);
  NIBBLE_ASSIGN_OR_RETURN(mixed.file, ModelFile::Open(options.output));
  return mixed;  // the file stays open, and mapped, without its name
}

}  // namespace nibble
