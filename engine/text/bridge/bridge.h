// The C face of engine/text/bridge: Hugging Face `tokenizers` and `minijinja` behind plain pointers and lengths.
// Included by tokenizer.cc and chat_template.cc only (and by grammar.cc, once llguidance joins).
//
// Ownership: what a caller passes in is borrowed for the call. A handle from `_new` goes back through its `_free`. A
// buffer filled by the bridge (`*_out`, `error`) goes back through `nibble_buffer_free` / `nibble_ids_free`; it is set
// (maybe to empty) by every call, so start from a zeroed one. Nothing else is shared.
// Threads: handles are immutable after `_new` and may be used by any number of threads at once.
// Errors: a code other than NIBBLE_BRIDGE_OK comes with its reason in `error`. No panic crosses: it is caught and
// becomes NIBBLE_BRIDGE_INTERNAL.
#ifndef NIBBLE_ENGINE_TEXT_BRIDGE_BRIDGE_H_
#define NIBBLE_ENGINE_TEXT_BRIDGE_BRIDGE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  NIBBLE_BRIDGE_OK = 0,
  NIBBLE_BRIDGE_INVALID = 1,        // the caller's text, vocabulary or template is wrong
  NIBBLE_BRIDGE_UNIMPLEMENTED = 2,  // names what is not known here
  NIBBLE_BRIDGE_EXHAUSTED = 3,      // names the limit
  NIBBLE_BRIDGE_INTERNAL = 4,       // a bug: the text of a caught panic
};

typedef struct {
  const char* data;  // may be null when size is 0
  size_t size;
} nibble_str;

typedef struct {
  char* data;
  size_t size;
  size_t capacity;
} nibble_buffer;

typedef struct {
  int32_t* data;
  size_t size;
  size_t capacity;
} nibble_ids;

void nibble_buffer_free(nibble_buffer* buffer);
void nibble_ids_free(nibble_ids* ids);

// ---- tokenizer -----------------------------------------------------------------------------------------------------

typedef struct nibble_tokenizer nibble_tokenizer;

enum {  // how text is cut into words before merging
  NIBBLE_SPLIT_GPT2 = 0,
  NIBBLE_SPLIT_SMOLLM = 1,  // every digit alone, then as GPT2
  NIBBLE_SPLIT_LLAMA3 = 2,
  NIBBLE_SPLIT_QWEN2 = 3,
  NIBBLE_SPLIT_SENTENCEPIECE = 4,  // SentencePiece-BPE: merges follow from the scores
};

enum {  // what a token may be made from
  NIBBLE_TOKEN_TEXT = 0,     // by merging
  NIBBLE_TOKEN_USER = 1,     // cut out of every text before merging
  NIBBLE_TOKEN_CONTROL = 2,  // cut out where the caller allows it; never made by merging
  NIBBLE_TOKEN_BYTE = 3,     // SentencePiece's <0xNN>, for characters without a token
  NIBBLE_TOKEN_NONE = 4,     // never made from text
};

typedef struct {
  const nibble_str* tokens;  // [num_tokens], by id
  const uint8_t* kinds;      // [num_tokens], NIBBLE_TOKEN_*
  const float* scores;       // [num_tokens] for SentencePiece, else null
  size_t num_tokens;
  const nibble_str* merges;  // [num_merges] "left right", best first
  size_t num_merges;
  int32_t split;             // NIBBLE_SPLIT_*
  int32_t unk_id;            // -1: none
  uint8_t ignore_merges;     // a whole word that is a token is that token
  uint8_t add_space_prefix;  // SentencePiece: a space before the text and after every token cut out of it
  uint8_t normalize_nfc;     // what is not cut out takes Unicode's form C first
} nibble_vocabulary;

int32_t nibble_tokenizer_new(const nibble_vocabulary* vocabulary, nibble_tokenizer** out, nibble_buffer* error);
void nibble_tokenizer_free(nibble_tokenizer* tokenizer);

// Appends nothing of its own (BOS, EOS). With `parse_control`, control tokens in the text become themselves. With a
// `guard` (one character, or empty), it is dropped from what is not cut out, which is then merged as it stands.
int32_t nibble_tokenizer_encode(const nibble_tokenizer* tokenizer, nibble_str text, nibble_str guard,
                                uint8_t parse_control, nibble_ids* ids_out, nibble_buffer* error);

// ---- chat template -------------------------------------------------------------------------------------------------

typedef struct nibble_template nibble_template;

typedef struct {
  nibble_str role;
  nibble_str content;
} nibble_message;

typedef struct {
  uint64_t fuel;       // interpreter steps of one rendering
  size_t output_size;  // bytes
  size_t depth;        // of calls
} nibble_template_limits;

int32_t nibble_template_new(nibble_str source, nibble_template_limits limits, nibble_template** out,
                            nibble_buffer* error);
void nibble_template_free(nibble_template* chat_template);

typedef struct {
  const nibble_message* messages;
  size_t num_messages;
  nibble_str bos_token;
  nibble_str eos_token;
  int64_t now_unix_seconds;  // what strftime_now shows, as UTC
  uint8_t add_generation_prompt;
} nibble_template_input;

// NIBBLE_BRIDGE_INVALID carries the template's own raise_exception text or its run-time error; `*raised` tells which.
int32_t nibble_template_render(const nibble_template* chat_template, const nibble_template_input* input,
                               nibble_buffer* text_out, uint8_t* raised, nibble_buffer* error);

#ifdef __cplusplus
}
#endif

#endif  // NIBBLE_ENGINE_TEXT_BRIDGE_BRIDGE_H_
