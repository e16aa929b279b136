#include "cli/eval_choices.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

constexpr double kPercent = 100;
constexpr int32_t kSequences = 8;  // at once: enough for a step of their tokens

absl::Status Validate(const ChoicesFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.model.model));
  if (flags.data.empty()) {
    return absl::InvalidArgumentError("--data: found nothing, needed a file of questions");
  }
  return absl::OkStatus();
}

int32_t CharactersOf(const std::string& text) {
  return static_cast<int32_t>(std::count_if(text.begin(), text.end(), [](char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0) != 0x80;  // not within a character
  }));
}

absl::StatusOr<std::vector<ChoiceQuestion>> TokenizeAll(const std::vector<ChoiceText>& texts,
                                                        const Tokenizer& tokenizer,
                                                        int32_t bos_id) {
  std::vector<ChoiceQuestion> questions;
  for (const ChoiceText& text : texts) {
    absl::StatusOr<ChoiceQuestion> question = TokenizeChoice(text, tokenizer, bos_id);
    if (!question.ok()) {
      return absl::Status(question.status().code(),
                          absl::StrCat("--data: question ", questions.size() + 1, " ",
                                       question.status().message()));
    }
    questions.push_back(*std::move(question));
  }
  return questions;
}

// The cache is made for it; one longer than --window is refused by name.
int32_t LongestOf(const std::vector<ChoiceQuestion>& questions) {
  size_t longest = 0;
  for (const ChoiceQuestion& question : questions) {
    for (const Choice& choice : question.choices) longest = std::max(longest, choice.ids.size());
  }
  return static_cast<int32_t>(std::min<size_t>(longest, 1 << 20));
}

absl::StatusOr<ChoicesResult> Evaluate(const ChoicesFlags& flags, const Io& io) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<ChoiceText> texts,
                          ReadChoiceFile(flags.data, flags.limit));
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(flags.model, {}));
  NIBBLE_ASSIGN_OR_RETURN(const int32_t bos_id, BosId(*model.tokenizer, flags.bos));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<ChoiceQuestion> questions,
                          TokenizeAll(texts, *model.tokenizer, bos_id));
  const int32_t window =
      std::min({LongestOf(questions), flags.window, model.config.context_length});
  RunnerOptions options = OneWindowRunner(flags.model, window, model.config);
  options.max_sequences = kSequences;
  options.kv_cache_bytes *= kSequences;
  NIBBLE_RETURN_IF_ERROR(LoadWeights(model, options, {}));
  const SteadyClock clock;
  Progress progress(io.err, io.err_is_terminal, "choices", nullptr, &clock);
  return EvaluateChoices(*model.runner, questions, [&progress](int64_t done, int64_t total) {
    progress.Update(done, total);
  });
}

nlohmann::ordered_json PercentJson(const Estimate& estimate) {
  return {{"percent", kPercent * estimate.mean},
          {"standard_error", kPercent * estimate.standard_error}};
}

}  // namespace

std::string ChoicesFooter() {
  return R"(
Data: one JSON object a line, {"ctx": TEXT, "endings": [TEXT, TEXT, ..], "label": NUMBER OF THE RIGHT ONE, FROM 0};
HellaSwag's published files are read as they are. Other keys do not matter.

Protocol
  Context, a space and an ending are tokenized as one text, with a BOS before it where the model file asks for one
  (--bos auto). The model's answer is the ending with the largest sum of log p of its tokens (accuracy), or that sum
  divided by the ending's characters (accuracy_by_length, also called acc_norm). +- is one standard error.

Example
  nibble eval choices --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data hellaswag_val.jsonl --limit 1000
)";
}

void AddChoicesFlags(Flags& flags, ChoicesFlags& choices) {
  AddModelFlag(flags, choices.model);
  flags.Add("--data", choices.data, "Questions, one JSON object a line")->type_name("FILE");
  flags.Add("--limit", choices.limit, "Only the first N questions; 0: all")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  flags.Add("--window", choices.window, "Tokens of the longest context with its ending")
      ->check(CLI::Range(2, 1 << 20));
  AddBosFlag(flags, choices.bos);
  AddDeviceFlags(flags, choices.model);
  AddKvCacheTypeFlag(flags, choices.model);
  flags.Add("--max-batch-tokens", choices.model.runner.max_batch_tokens, "Tokens of one step")
      ->check(CLI::Range(1, 1 << 16));
  AddOutputFlag(flags, choices.output);
}

absl::StatusOr<ChoiceQuestion> TokenizeChoice(const ChoiceText& text, const Tokenizer& tokenizer,
                                              int32_t bos_id) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<int32_t> context, tokenizer.Encode(text.context, {}));
  ChoiceQuestion question;
  question.answer = text.answer;
  for (const std::string& ending : text.endings) {
    Choice choice;
    NIBBLE_ASSIGN_OR_RETURN(choice.ids,
                            tokenizer.Encode(absl::StrCat(text.context, " ", ending), {}));
    choice.first_scored = static_cast<int32_t>(context.size());
    choice.num_characters = CharactersOf(ending);
    if (bos_id >= 0) {
      choice.ids.insert(choice.ids.begin(), bos_id);
      ++choice.first_scored;
    }
    if (choice.first_scored < 1 || choice.first_scored >= static_cast<int32_t>(choice.ids.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("has an ending that adds no token to its context, or a context of none: \"",
                       ending, "\""));
    }
    question.choices.push_back(std::move(choice));
  }
  return question;
}

nlohmann::ordered_json ChoicesJson(const ChoicesResult& result) {
  return {{"accuracy", PercentJson(result.accuracy)},
          {"accuracy_by_length", PercentJson(result.accuracy_by_length)},
          {"questions", result.questions},
          {"tokens", result.tokens}};
}

int RunChoices(const ChoicesFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  const absl::StatusOr<ChoicesResult> result = Evaluate(flags, io);
  if (!result.ok()) return Fail(io, result.status());
  if (flags.output == OutputFormat::kJson) {
    PrintJson(io.out, ChoicesJson(*result));
  } else {
    io.out << absl::StreamFormat(
                  "accuracy %.2f %% +- %.2f  by length %.2f %% +- %.2f  (%d questions)\n",
                  kPercent * result->accuracy.mean, kPercent * result->accuracy.standard_error,
                  kPercent * result->accuracy_by_length.mean,
                  kPercent * result->accuracy_by_length.standard_error, result->questions)
           << std::flush;
  }
  return kExitOk;
}

}  // namespace nibble
