#include "cli/tokenize.h"

#include <iterator>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/local_model.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::string> EncodeToJson(const Tokenizer& tokenizer, const std::string& text,
                                         const TokenizeFlags& flags) {
  EncodeOptions options;
  options.parse_special = flags.parse_special;
  options.add_special = flags.add_special;
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.Encode(text, options));
  return Json(ids).dump();
}

absl::StatusOr<std::string> DecodeFromJson(const Tokenizer& tokenizer, const std::string& text,
                                           const TokenizeFlags& flags) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_array()) {
    return absl::InvalidArgumentError("found no JSON array, needed one of ids, such as [1, 2, 3]");
  }
  std::vector<int32_t> ids;
  for (const Json& id : json) {
    if (!id.is_number_integer() || id < 0 || id >= tokenizer.vocab_size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "found ", id.dump(), ", needed token ids from 0 to ", tokenizer.vocab_size() - 1));
    }
    ids.push_back(id.get<int32_t>());
  }
  return tokenizer.Decode(ids, flags.parse_special);
}

// One line of --jsonl.
absl::StatusOr<std::string> ConvertLine(const Tokenizer& tokenizer, const std::string& line,
                                        const TokenizeFlags& flags) {
  if (flags.decode) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string text, DecodeFromJson(tokenizer, line, flags));
    return Json(text).dump();
  }
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_string()) {
    return absl::InvalidArgumentError("found no JSON string, needed one a line, such as \"hello\"");
  }
  return EncodeToJson(tokenizer, json.get<std::string>(), flags);
}

int TokenizeLines(const Tokenizer& tokenizer, const TokenizeFlags& flags, const Io& io) {
  int64_t number = 0;
  for (std::string line; std::getline(io.in, line);) {
    ++number;
    const absl::StatusOr<std::string> converted = ConvertLine(tokenizer, line, flags);
    if (!converted.ok()) {
      return Fail(io,
                  absl::Status(converted.status().code(),
                               absl::StrCat("line ", number, ": ", converted.status().message())));
    }
    io.out << *converted << "\n";
  }
  io.out.flush();
  return kExitOk;
}

}  // namespace

void AddTokenizeFlags(Flags& flags, TokenizeFlags& tokenize) {
  flags.Add("--model", tokenize.model, "GGUF file, or folder with config.json and safetensors")
      ->type_name("PATH");
  flags.Add("--parse-special", tokenize.parse_special,
            "Control tokens such as <|im_end|> in the text count as such; with --decode they are "
            "written out");
  flags.Add("--add-special", tokenize.add_special, "Add BOS and EOS where the model file says so");
  flags.Add("--jsonl", tokenize.jsonl, "One JSON string a line in, one JSON array a line out");
  flags.Add("--decode", tokenize.decode, "JSON arrays of ids in, text out");
}

int Tokenize(const Tokenizer& tokenizer, const TokenizeFlags& flags, const Io& io) {
  if (flags.jsonl) return TokenizeLines(tokenizer, flags, io);
  const std::string input((std::istreambuf_iterator<char>(io.in)), {});
  const absl::StatusOr<std::string> output = flags.decode ? DecodeFromJson(tokenizer, input, flags)
                                                          : EncodeToJson(tokenizer, input, flags);
  if (!output.ok()) return Fail(io, output.status());
  // Decoded text is written as it is, so that a round trip gives the same bytes.
  io.out << *output << (flags.decode ? "" : "\n") << std::flush;
  return kExitOk;
}

int RunTokenize(const TokenizeFlags& flags, const Io& io) {
  if (const absl::Status usage = CheckModelGiven(flags.model); !usage.ok()) {
    return WrongUsage(io, usage);
  }
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = OpenTokenizer(flags.model);
  if (!tokenizer.ok()) return Fail(io, tokenizer.status());
  return Tokenize(**tokenizer, flags, io);
}

}  // namespace nibble
