// libFuzzer target: arbitrary bytes as a prompt, as a message, and as the tokens of a stream.
//   cmake --preset fuzz && ninja -C build/fuzz text_fuzz
//   build/fuzz/tests/fuzz/text_fuzz -max_total_time=60 -max_len=4096
#include <cstddef>
#include <cstdint>

#include "engine/text/chat_template.h"
#include "engine/text/text_stream.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "kernels/check.h"
#include "tests/engine/text/text_vectors.h"

namespace nibble {
namespace {

struct Rooms {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  std::vector<std::string> special;
};

const Rooms& SharedRooms() {
  static const Rooms* const rooms = [] {
    auto* made = new Rooms;
    made->tokenizer = Tokenizer::Create(SpecOf(ReadVectors("vocab_gpt_2.json"))).value();
    made->chat_template =
        ChatTemplate::Create("<|im_start|>{{ messages[0].content }}<|im_end|>", {}).value();
    for (int32_t id = 0; id < made->tokenizer->vocab_size(); ++id) {
      if (made->tokenizer->IsSpecial(id)) {
        made->special.emplace_back(made->tokenizer->TokenBytes(id, true));
      }
    }
    return made;
  }();
  return *rooms;
}

// What is encoded decodes to itself; what is not UTF-8 is refused.
void CheckEncode(const std::string& text) {
  const Rooms& rooms = SharedRooms();
  for (const bool parse_special : {false, true}) {
    const auto ids = rooms.tokenizer->Encode(text, {parse_special, false});
    NIBBLE_CHECK(ids.ok() == (ReplaceBrokenUtf8(text) == text));
    if (ids.ok()) NIBBLE_CHECK(rooms.tokenizer->Decode(*ids, true).value() == text);
  }
}

// No message makes a control token, and none is changed.
void CheckMessage(const std::string& content) {
  const Rooms& rooms = SharedRooms();
  const std::vector<ChatMessage> messages = {{"user", content}};
  const auto rendered = rooms.chat_template->Apply(messages, true, rooms.special);
  if (!rendered.ok()) return;
  const auto ids = rooms.tokenizer->EncodeRendered(rendered->text, rendered->guard).value();
  NIBBLE_CHECK(ids.size() >= 2);
  const std::vector<int32_t> inner(ids.begin() + 1, ids.end() - 1);
  for (const int32_t id : inner) NIBBLE_CHECK(!rooms.tokenizer->IsSpecial(id));
  NIBBLE_CHECK(rooms.tokenizer->Decode(inner, true).value() == content);
}

// Whatever the tokens are, what is delivered is whole UTF-8 and little is held back.
void CheckStream(const uint8_t* data, size_t size) {
  const Tokenizer& tokenizer = *SharedRooms().tokenizer;
  const std::vector<std::string> stop = {"\n\n", "the end", "é!"};
  TextStream stream(tokenizer, stop, size % 2 == 0);
  std::string text;
  for (size_t i = 0; i + 1 < size; i += 2) {
    const int32_t id = (data[i] | data[i + 1] << 8) % tokenizer.vocab_size();
    text += stream.Append(id).text;
    NIBBLE_CHECK(stream.held_bytes() <= 11);
  }
  text += stream.Finish();
  NIBBLE_CHECK(ReplaceBrokenUtf8(text) == text);
}

}  // namespace
}  // namespace nibble

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  nibble::CheckEncode(bytes);
  nibble::CheckMessage(bytes);
  nibble::CheckStream(data, size);
  return 0;
}
