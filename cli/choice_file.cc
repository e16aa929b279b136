#include "cli/choice_file.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

using Json = nlohmann::json;

absl::Status Wrong(absl::string_view key, absl::string_view needed) {
  return absl::InvalidArgumentError(absl::StrCat("\"", key, "\": needed ", needed));
}

absl::StatusOr<std::string> Text(const Json& json, const std::string& key) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_string()) return Wrong(key, "a text");
  return it->get<std::string>();
}

// The harness's `preprocess`.
std::string Cleaned(const std::string& text) {
  const std::string titled =
      absl::StrReplaceAll(absl::StripAsciiWhitespace(text), {{" [title]", ". "}});
  std::string kept;
  const size_t last_close = titled.rfind(']');  // none is looked for behind it
  for (size_t at = 0; at < titled.size();) {
    const bool closes = titled[at] == '[' && last_close != std::string::npos && at < last_close;
    if (closes) {
      at = titled.find(']', at) + 1;
    } else {
      kept += titled[at++];
    }
  }
  return absl::StrReplaceAll(kept, {{"  ", " "}});
}

std::string Capitalized(std::string text) {
  absl::AsciiStrToLower(&text);
  if (!text.empty()) text[0] = absl::ascii_toupper(static_cast<unsigned char>(text[0]));
  return text;
}

absl::StatusOr<int32_t> Answer(const Json& json, size_t num_endings) {
  const auto it = json.find("label");
  int64_t answer = -1;
  if (it != json.end() && it->is_number_integer()) answer = it->get<int64_t>();
  if (it != json.end() && it->is_string() && !absl::SimpleAtoi(it->get<std::string>(), &answer)) {
    answer = -1;
  }
  if (answer < 0 || answer >= static_cast<int64_t>(num_endings)) {
    return Wrong("label", absl::StrCat("the number of an ending, 0 to ", num_endings - 1));
  }
  return static_cast<int32_t>(answer);
}

}  // namespace

absl::StatusOr<ChoiceText> ParseChoiceLine(absl::string_view line) {
  if (static_cast<int64_t>(line.size()) > kMaxChoiceLineBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the line has ", line.size(), " bytes, the limit is ", kMaxChoiceLineBytes));
  }
  const Json json = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("it is no JSON object");
  const bool published = json.contains("activity_label");
  ChoiceText choice;
  if (published) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string activity, Text(json, "activity_label"));
    NIBBLE_ASSIGN_OR_RETURN(const std::string first, Text(json, "ctx_a"));
    NIBBLE_ASSIGN_OR_RETURN(const std::string second, Text(json, "ctx_b"));
    choice.context = Cleaned(absl::StrCat(activity, ": ", first, " ", Capitalized(second)));
  } else {
    NIBBLE_ASSIGN_OR_RETURN(choice.context, Text(json, "ctx"));
  }
  if (choice.context.empty()) return Wrong("ctx", "a text that is not empty");
  const auto endings = json.find("endings");
  if (endings == json.end() || !endings->is_array() || endings->size() < 2 ||
      endings->size() > kMaxChoices) {
    return Wrong("endings", absl::StrCat("a list of 2 to ", kMaxChoices, " texts"));
  }
  for (const Json& ending : *endings) {
    if (!ending.is_string()) return Wrong("endings", "texts only");
    const std::string text = ending.get<std::string>();
    choice.endings.push_back(published ? Cleaned(text) : text);
    if (choice.endings.back().empty()) return Wrong("endings", "texts that are not empty");
  }
  NIBBLE_ASSIGN_OR_RETURN(choice.answer, Answer(json, choice.endings.size()));
  return choice;
}

absl::StatusOr<std::vector<ChoiceText>> ReadChoiceFile(const std::string& path, int64_t limit) {
  std::ifstream file(path);
  std::vector<ChoiceText> all;
  int64_t number = 0;
  for (std::string line;
       (limit == 0 || static_cast<int64_t>(all.size()) < limit) && std::getline(file, line);) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    absl::StatusOr<ChoiceText> choice = ParseChoiceLine(line);
    if (!choice.ok()) {
      return absl::Status(
          choice.status().code(),
          absl::StrCat("--data \"", path, "\", line ", number, ": ", choice.status().message()));
    }
    all.push_back(*std::move(choice));
  }
  if (all.empty()) {
    return absl::NotFoundError(absl::StrCat("--data \"", path,
                                            "\": found no question, needed a file with one JSON "
                                            "object a line"));
  }
  return all;
}

}  // namespace nibble
