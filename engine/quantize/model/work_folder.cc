#include "engine/quantize/model/work_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/methods/gemm.h"
#include "engine/weights/partial_file.h"

namespace nibble::quantize {
namespace {

constexpr char kFormat[] = "nibble quantize, unfinished work, 1";

absl::Span<const uint8_t> AsBytes(absl::string_view text) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

std::string FolderOf(absl::string_view output) {
  while (absl::EndsWith(output, "/") && output.size() > 1) output.remove_suffix(1);
  return absl::StrCat(output, ".resume");
}

bool IsOurs(absl::string_view name) {
  absl::ConsumeSuffix(&name, ".partial");
  return name == "run" || absl::StartsWith(name, "layer-") || absl::StartsWith(name, "scratch.");
}

// Everything but "." and "..".
absl::StatusOr<std::vector<std::string>> FilesIn(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
  if (folder == nullptr) return FileError(path, "listing it", errno);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  return names;
}

std::string TextOf(const WorkIdentity& identity) {
  std::string text = absl::StrCat(kFormat, "\n");
  for (const auto& [key, value] : identity) absl::StrAppend(&text, key, ": ", value, "\n");
  return absl::StrCat(text, "sha256: ", Hex(Sha256(AsBytes(text))), "\n");
}

absl::Status Different(const std::string& path, absl::string_view key, absl::string_view there,
                       absl::string_view here) {
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": unfinished work of another run, whose ", key, " is '", there, "', here it is '",
      here,
      "'; give the command of that run to go on, another output, or --no-resume to begin anew"));
}

std::string GemmName() {
  const GemmKernels* best = &BestGemm();
#if defined(__x86_64__)
  if (best == &kGemmAvx512) return "avx512";
  if (best == &kGemmAvx2) return "avx2";
#endif
  return best == &kGemmBaseline ? "baseline" : "other";
}

}  // namespace

WorkIdentity IdentityOf(const ModelPlan& plan, const LayerwiseOptions& options,
                        absl::Span<const std::vector<int32_t>> windows) {
  RunningSha256 text, codes;
  for (const std::vector<int32_t>& window : windows) {
    const uint64_t size = window.size();
    text.Add({reinterpret_cast<const uint8_t*>(&size), sizeof(size)});
    text.Add({reinterpret_cast<const uint8_t*>(window.data()), size * sizeof(int32_t)});
  }
  for (const ModelTensor& tensor : plan.tensors) {
    codes.Add(AsBytes(absl::StrCat(tensor.name, tensor.coded ? " 1\n" : " 0\n")));
  }
  return {{"source's SHA-256", plan.provenance.source_sha256},
          {"method", plan.method.name},
          {"scales", plan.method.scheme.f16_scales ? "f16" : "f32"},  // a layout may ask for either
          {"options", plan.provenance.options},
          {"damping", absl::StrCat(plan.damping)},
          {"smooth alpha", absl::StrCat(options.smooth_alpha)},
          {"seed", absl::StrCat(options.seed)},
          {"calibration text", plan.provenance.calibration_sha256},
          {"calibration windows", absl::StrCat(windows.size(), ", ", Hex(text.Finish()))},
          {"tensors with codes", Hex(codes.Finish())},
          {"instruction set", GemmName()},
          {"program", plan.provenance.tool}};
}

WorkFolder::WorkFolder(WorkFolderOptions options)
    : options_(std::move(options)),
      path_(FolderOf(options_.output)),
      finished_(static_cast<size_t>(options_.num_layers)) {}

absl::StatusOr<std::unique_ptr<WorkFolder>> WorkFolder::Open(WorkFolderOptions options) {
  auto folder = std::unique_ptr<WorkFolder>(new WorkFolder(std::move(options)));
  NIBBLE_RETURN_IF_ERROR(folder->Lock());
  if (folder->options_.resume) {
    NIBBLE_ASSIGN_OR_RETURN(const bool same, folder->IsOfThisWork());
    if (same) {
      folder->FindLayers();
      folder->ours_ = true;
      return folder;
    }
  }
  folder->ours_ = true;
  NIBBLE_RETURN_IF_ERROR(folder->Empty());
  PartialFile run(folder->path_ + "/run");
  NIBBLE_RETURN_IF_ERROR(run.Create());
  NIBBLE_RETURN_IF_ERROR(run.Write(AsBytes(TextOf(folder->options_.identity))));
  NIBBLE_RETURN_IF_ERROR(run.Publish());
  return folder;
}

// Of files that others put there nothing is removed: a run that finds some does not begin.
absl::Status WorkFolder::Lock() {
  if (mkdir(path_.c_str(), 0755) != 0 && errno != EEXIST) {
    return FileError(path_, "creating it", errno);
  }
  fd_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd_ < 0) return FileError(path_, "opening it", errno);
  NIBBLE_RETURN_IF_ERROR(LockAlone(fd_, path_, "at this work"));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesIn(path_));
  for (const std::string& file : files) {
    if (IsOurs(file)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": holds '", file, "', which is no part of unfinished work; move it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> WorkFolder::IsOfThisWork() const {
  std::ifstream file(path_ + "/run", std::ios::binary);
  if (!file.good()) return false;
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const size_t end = text.rfind("sha256: ");
  const bool whole =
      end != std::string::npos && absl::StartsWith(text, kFormat) &&
      text.substr(end) == absl::StrCat("sha256: ", Hex(Sha256(AsBytes(text.substr(0, end)))), "\n");
  if (!whole) {
    if (options_.note) options_.note(absl::StrCat(path_, "/run is damaged: beginning anew"));
    return false;
  }
  if (text == TextOf(options_.identity)) return true;
  const std::vector<std::string> there = absl::StrSplit(text, '\n');
  for (size_t i = 0; i < options_.identity.size(); ++i) {
    const auto& [key, value] = options_.identity[i];
    absl::string_view line;
    if (i + 1 < there.size()) line = there[i + 1];
    if (line == absl::StrCat(key, ": ", value)) continue;
    if (!absl::ConsumePrefix(&line, absl::StrCat(key, ": "))) line = "not told";
    return Different(path_, key, line, value);
  }
  return Different(path_, "format", there[0], kFormat);
}

absl::Status WorkFolder::Empty() const {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesIn(path_));
  for (const std::string& file : files) {
    const std::string path = absl::StrCat(path_, "/", file);
    if (IsOurs(file) && unlink(path.c_str()) != 0) return FileError(path, "removing it", errno);
  }
  return absl::OkStatus();
}

void WorkFolder::FindLayers() {
  for (int32_t layer = 0; layer < options_.num_layers; ++layer) {
    const absl::Status status = CheckLayerRecord(LayerPath(layer));
    finished_[static_cast<size_t>(layer)] = status.ok();
    if (status.ok() || absl::IsNotFound(status)) continue;
    unlink(LayerPath(layer).c_str());
    if (options_.note) {
      options_.note(
          absl::StrCat(LayerPath(layer), " is damaged and is made again (", status.message(), ")"));
    }
  }
}

WorkFolder::~WorkFolder() {
  writer_.reset();
  if (ours_ && num_finished() == 0) Remove();
  if (fd_ >= 0) close(fd_);
}

void WorkFolder::Remove() {
  writer_.reset();
  if (Empty().ok()) rmdir(path_.c_str());
  ours_ = false;
}

int32_t WorkFolder::num_finished() const {
  return static_cast<int32_t>(std::count(finished_.begin(), finished_.end(), true));
}

std::string WorkFolder::LayerPath(int32_t layer) const {
  return absl::StrFormat("%s/layer-%04d", path_, layer);
}

absl::StatusOr<LayerResult> WorkFolder::Restore(int32_t layer) {
  return ReadLayerRecord(LayerPath(layer));
}

absl::Status WorkFolder::Begin(int32_t layer) {
  NIBBLE_ASSIGN_OR_RETURN(writer_, LayerRecordWriter::Create(LayerPath(layer)));
  layer_ = layer;
  range_status_ = absl::OkStatus();
  return absl::OkStatus();
}

absl::Status WorkFolder::Matrix(const std::string& name, const MatrixF& values,
                                const QuantizedWeight* weight) {
  return writer_->Matrix(name, values, weight);
}

absl::Status WorkFolder::Vector(const std::string& name, const VectorF& values) {
  return writer_->Vector(name, values);
}

void WorkFolder::InputRange(int32_t, Site site, float max) {
  const absl::Status status = writer_->Range(site, max);
  if (range_status_.ok()) range_status_ = status;
}

absl::Status WorkFolder::End(absl::Span<const LinearReport> reports) {
  NIBBLE_RETURN_IF_ERROR(range_status_);
  NIBBLE_RETURN_IF_ERROR(writer_->Finish(reports));
  writer_.reset();
  finished_[static_cast<size_t>(layer_)] = true;
  return absl::OkStatus();
}

}  // namespace nibble::quantize
