// `nibble tokenize`: text to token ids and back, over stdin and stdout.
#pragma once

#include <string>

#include "cli/flags.h"
#include "cli/io.h"
#include "engine/text/tokenizer.h"

namespace nibble {

struct TokenizeFlags {
  std::string model;
  bool parse_special = false;
  bool add_special = false;
  bool jsonl = false;
  bool decode = false;
};

void AddTokenizeFlags(Flags& flags, TokenizeFlags& tokenize);

int RunTokenize(const TokenizeFlags& flags, const Io& io);

// The same with a tokenizer at hand; `flags.model` is not looked at.
int Tokenize(const Tokenizer& tokenizer, const TokenizeFlags& flags, const Io& io);

}  // namespace nibble
