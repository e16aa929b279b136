#include "engine/weights/hf/model_folder.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

absl::Status StatusOf(const std::error_code& error, absl::string_view subject) {
  const std::string message = absl::StrCat(subject, ": ", error.message());
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    return absl::NotFoundError(message);
  }
  if (error == std::errc::permission_denied || error == std::errc::operation_not_permitted) {
    return absl::PermissionDeniedError(message);
  }
  return absl::UnavailableError(message);
}

bool IsOneComponent(absl::string_view file) {
  return !file.empty() && file.size() <= 255 && file != "." && file != ".." &&
         !absl::StrContains(file, "/") && !absl::StrContains(file, absl::string_view("\0", 1));
}

}  // namespace

absl::StatusOr<ModelFolder> ModelFolder::Open(const std::string& path) {
  std::string name = path;
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  std::error_code error;
  const fs::path real = fs::canonical(name, error);
  if (error) return StatusOf(error, name);
  const bool is_folder = fs::is_directory(real, error);
  if (error) return StatusOf(error, name);
  if (!is_folder) return absl::InvalidArgumentError(absl::StrCat(name, ": is not a folder"));
  return ModelFolder(std::move(name), real.string());
}

bool ModelFolder::Has(absl::string_view file) const {
  if (!IsOneComponent(file)) return false;
  std::error_code error;
  const fs::file_status status = fs::symlink_status(fs::path(real_) / std::string(file), error);
  return !error && fs::exists(status);
}

absl::StatusOr<std::string> ModelFolder::PathOf(absl::string_view file) const {
  if (!IsOneComponent(file)) {
    return absl::PermissionDeniedError(absl::StrCat(name_, ": file ", QuoteForMessage(file),
                                                    " is not a plain name inside of the folder"));
  }
  std::error_code error;
  const fs::path real = fs::canonical(fs::path(real_) / std::string(file), error);
  const std::string subject = absl::StrCat(name_, "/", file);
  if (error) return StatusOf(error, subject);
  const std::string prefix = real_ == "/" ? real_ : absl::StrCat(real_, "/");
  if (!absl::StartsWith(real.string(), prefix)) {
    return absl::PermissionDeniedError(
        absl::StrCat(subject,
                     ": is a link out of the folder, needed the file itself; download the "
                     "model with --local-dir"));
  }
  return real.string();
}

absl::StatusOr<std::string> ModelFolder::ReadText(absl::string_view file, size_t max_bytes) const {
  NIBBLE_ASSIGN_OR_RETURN(const std::string path, PathOf(file));
  NIBBLE_ASSIGN_OR_RETURN(const MappedFile mapping, MappedFile::Open(path));
  if (mapping.bytes().size() > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(name_, "/", file, ": has ",
                                                     mapping.bytes().size(), " bytes, at most ",
                                                     max_bytes, " are read"));
  }
  std::string text(mapping.bytes().size(), '\0');
  NIBBLE_RETURN_IF_ERROR(
      mapping.ReadAt(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(text.data()), text.size())));
  return text;
}

absl::StatusOr<JsonObject> ModelFolder::ReadJson(absl::string_view file,
                                                 const JsonLimits& limits) const {
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, ReadText(file, limits.bytes));
  return JsonObject::Parse(text, absl::StrCat(name_, "/", file), limits);
}

}  // namespace nibble
