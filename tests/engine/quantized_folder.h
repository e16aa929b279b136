// A model as a folder in Hugging Face's layout, rounded to nearest by a method, in the temporary
// directory; it goes with the object.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/hf_folder_files.h"
#include "engine/quantize/folder/hf_folder_sink.h"
#include "engine/quantize/model/quantize_model.h"
#include "engine/quantize_source.h"

namespace nibble {

class QuantizedFolder {
 public:
  // REQUIRES a method that looks at no text ("rtn-e4m3-channel") and that the layout holds.
  QuantizedFolder(const std::string& model, const std::string& method, quantize::HfLayout layout)
      : path_(std::filesystem::temp_directory_path() /
              absl::StrCat("nibble-folder-", getpid(), "-", method)) {
    const QuantizeSource source = QuantizeSource::Open(model).value();
    const ModelConfig config = source.file().Config().value();
    HfFolderFiles files = HfFolderFilesOf(source.file()).value();
    quantize::HfFolderSink sink({.output = path_,
                                 .layout = layout,
                                 .config_json = std::move(files.config_json),
                                 .files = std::move(files.files)});
    const quantize::Method rounding =
        quantize::InLayout(layout, quantize::ParseMethod(method).value()).value();
    const quantize::ModelPlan plan = quantize::PlanModel(source.tensors(), config, rounding, sink);
    const auto weights = source.file().Source(config);
    const auto report =
        quantize::QuantizeModel(source.tensors(), *weights, plan, {}, {}, nullptr, sink);
    EXPECT_TRUE(report.ok()) << report.status();
  }
  QuantizedFolder(const QuantizedFolder&) = delete;
  ~QuantizedFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

}  // namespace nibble
