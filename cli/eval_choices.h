// `nibble eval choices`: multiple-choice accuracy, by the protocol of engine/eval/choices.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/choice_file.h"
#include "cli/eval_text.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/model_flags.h"
#include "cli/output.h"
#include "engine/eval/choices.h"
#include "engine/text/tokenizer.h"

namespace nibble {

struct ChoicesFlags {
  ModelFlags model;
  std::string data;
  int64_t limit = 0;
  int32_t window = 2048;
  Bos bos = Bos::kAuto;
  OutputFormat output = OutputFormat::kText;
};

void AddChoicesFlags(Flags& flags, ChoicesFlags& choices);
std::string ChoicesFooter();

// Context, a space and the ending are tokenized as one text; the ending's tokens are those behind
// as many as the context alone has. INVALID_ARGUMENT where that leaves no token.
absl::StatusOr<ChoiceQuestion> TokenizeChoice(const ChoiceText& text, const Tokenizer& tokenizer,
                                              int32_t bos_id);

// {"accuracy":{"percent","standard_error"},"accuracy_by_length":{..},"questions","tokens"}
nlohmann::ordered_json ChoicesJson(const ChoicesResult& result);

int RunChoices(const ChoicesFlags& flags, const Io& io);

}  // namespace nibble
