// RandomBlocks and TinyModel of gguf_writer.h.
#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer_spec.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble::testing {
namespace {

constexpr char kChatMl[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

constexpr absl::string_view kMerges[] = {"t h", "th e", "i n",   "a n", "an d",
                                         "e r", "o n",  "Ġ the", "Ġ a", "o r"};

class Random {
 public:
  explicit Random(uint32_t seed) : generator_(seed) {}
  uint8_t Byte() { return static_cast<uint8_t>(generator_()); }
  // In (-1, 1). Not std::uniform_real_distribution, whose results differ between libraries.
  float Signed() { return (static_cast<float>(generator_() >> 8) + 0.5f) * 0x1p-23f - 1.0f; }

 private:
  std::mt19937 generator_;
};

void StoreF16(float value, uint8_t* to) {
  const uint16_t half = F32ToF16(value);
  std::memcpy(to, &half, sizeof(half));
}

// UTF-8 of the character that byte-level BPE writes for a byte: itself where printable, else U+0100
// and up.
std::string ByteCharacter(int byte) {
  const auto printable = [](int b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD && b <= 0xFF);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

void AddVocabulary(GgufWriter& writer) {
  std::vector<std::string> tokens;
  std::vector<std::string> merges;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(ByteCharacter(byte));
  std::vector<int32_t> types(kTinyVocab, static_cast<int32_t>(TokenType::kNormal));
  for (const absl::string_view merge : kMerges) {
    const size_t space = merge.find(' ');
    merges.emplace_back(merge);
    tokens.push_back(absl::StrCat(merge.substr(0, space), merge.substr(space + 1)));
  }
  while (tokens.size() < kTinyEndOfText) {
    types[tokens.size()] = static_cast<int32_t>(TokenType::kUnused);
    tokens.push_back(absl::StrCat("[PAD", tokens.size(), "]"));
  }
  for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    types[tokens.size()] = static_cast<int32_t>(TokenType::kControl);
    tokens.emplace_back(control);
  }
  writer.String("tokenizer.ggml.model", "gpt2");
  writer.String("tokenizer.ggml.pre", "gpt-2");
  writer.Strings("tokenizer.ggml.tokens", tokens);
  writer.Ints("tokenizer.ggml.token_type", types);
  writer.Strings("tokenizer.ggml.merges", merges);
  writer.U32("tokenizer.ggml.bos_token_id", kTinyImStart);
  writer.U32("tokenizer.ggml.eos_token_id", kTinyImEnd);
  writer.U32("tokenizer.ggml.unknown_token_id", kTinyEndOfText);
  writer.Bool("tokenizer.ggml.add_bos_token", false);
  writer.String("tokenizer.chat_template", kChatMl);
}

void AddHyperparameters(const TinyModelOptions& options, GgufWriter& writer) {
  const std::string prefix = absl::StrCat(options.architecture, ".");
  writer.String("general.architecture", options.architecture);
  writer.String("general.name", absl::StrCat("tiny ", options.architecture));
  writer.U32(prefix + "block_count", options.layers);
  writer.U32(prefix + "context_length", options.context);
  writer.U32(prefix + "embedding_length", options.hidden);
  writer.U32(prefix + "feed_forward_length", options.ffn);
  writer.U32(prefix + "attention.head_count", options.heads);
  writer.U32(prefix + "attention.head_count_kv", options.kv_heads);
  writer.F32(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  writer.F32(prefix + "rope.freq_base", 10000.0f);
  writer.U32(prefix + "rope.dimension_count", options.hidden / options.heads);
  writer.U32(prefix + "vocab_size", kTinyVocab);
}

class TensorWriter {
 public:
  TensorWriter(GgufWriter& writer, uint32_t seed) : writer_(writer), seed_(seed) {}

  // Values are of the size that keeps a layer's output about as large as its input.
  void Matrix(const std::string& name, uint64_t out, uint64_t in, GgmlType type) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(in));
    writer_.Add(name, {in, out}, type,
                RandomBlocks(type, static_cast<int64_t>(in * out), ++seed_, scale));
  }
  // Around `center`, within 0.1 of it.
  void Vector(const std::string& name, uint64_t n, float center) {
    Random random(++seed_);
    std::vector<uint8_t> data(n * sizeof(float));
    for (uint64_t i = 0; i < n; ++i) {
      const float value = center + 0.1f * random.Signed();
      std::memcpy(data.data() + i * sizeof(float), &value, sizeof(float));
    }
    writer_.Add(name, {n}, GgmlType::kF32, std::move(data));
  }

 private:
  GgufWriter& writer_;
  uint32_t seed_;
};

void AddLayer(const TinyModelOptions& options, uint32_t layer, TensorWriter& tensors) {
  const std::string prefix = absl::StrCat("blk.", layer, ".");
  const uint64_t kv = uint64_t{options.kv_heads} * (options.hidden / options.heads);
  tensors.Vector(prefix + "attn_norm.weight", options.hidden, 1.0f);
  tensors.Matrix(prefix + "attn_q.weight", options.hidden, options.hidden, options.matrix_type);
  tensors.Matrix(prefix + "attn_k.weight", kv, options.hidden, options.matrix_type);
  tensors.Matrix(prefix + "attn_v.weight", kv, options.hidden, options.matrix_type);
  if (options.architecture == "qwen2") {
    tensors.Vector(prefix + "attn_q.bias", options.hidden, 0.0f);
    tensors.Vector(prefix + "attn_k.bias", kv, 0.0f);
    tensors.Vector(prefix + "attn_v.bias", kv, 0.0f);
  }
  tensors.Matrix(prefix + "attn_output.weight", options.hidden, options.hidden,
                 options.matrix_type);
  tensors.Vector(prefix + "ffn_norm.weight", options.hidden, 1.0f);
  tensors.Matrix(prefix + "ffn_gate.weight", options.ffn, options.hidden, options.matrix_type);
  tensors.Matrix(prefix + "ffn_up.weight", options.ffn, options.hidden, options.matrix_type);
  tensors.Matrix(prefix + "ffn_down.weight", options.hidden, options.ffn, options.matrix_type);
}

// Sets the f16 (or plain) fields of one block whose bytes are random, so that its values are of
// size `scale`.
void SetScales(GgmlType type, float scale, Random& random, uint8_t* block) {
  const float around = scale * (1.0f + 0.3f * random.Signed());
  const auto uniform = scale * 1.7f * random.Signed();  // of standard deviation `scale`
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(block, &uniform, sizeof(float));
      return;
    case GgmlType::kF16:
      return StoreF16(uniform, block);
    case GgmlType::kBF16: {
      const uint16_t half = F32ToBf16(uniform);
      std::memcpy(block, &half, sizeof(half));
      return;
    }
    case GgmlType::kQ4_0:
      return StoreF16(around / 4.6f, block);
    case GgmlType::kQ4_1:
      StoreF16(around / 4.6f, block);
      return StoreF16(-7.5f * around / 4.6f, block + 2);
    case GgmlType::kQ5_0:
      return StoreF16(around / 9.2f, block);
    case GgmlType::kQ5_1:
      StoreF16(around / 9.2f, block);
      return StoreF16(-15.5f * around / 9.2f, block + 2);
    case GgmlType::kQ8_0:
      return StoreF16(around / 74.0f, block);
    case GgmlType::kQ4_K:
      StoreF16(around / (4.6f * 32.0f), block);
      return StoreF16(7.5f * around / (4.6f * 32.0f), block + 2);
    case GgmlType::kQ5_K:
      StoreF16(around / (9.2f * 32.0f), block);
      return StoreF16(15.5f * around / (9.2f * 32.0f), block + 2);
    case GgmlType::kQ6_K:
      return StoreF16(around / (18.0f * 74.0f), block + 208);
    case GgmlType::kQ2_K:
      StoreF16(around / (1.15f * 7.5f), block + 80);
      return StoreF16(1.5f * around / (1.15f * 7.5f), block + 82);
    case GgmlType::kQ3_K:
      return StoreF16(around / (2.3f * 18.0f), block + 108);
    case GgmlType::kIQ4_XS:
      return StoreF16(around / (68.0f * 18.0f), block);
    case GgmlType::kNVFP4:  // e4m3 without its sign, around 2^-4
      for (int i = 0; i < 4; ++i) block[i] = static_cast<uint8_t>(24 + block[i] % 16);
      return;
    case GgmlType::kIQ4_NL:
      return StoreF16(around / 68.0f, block);
    case GgmlType::kMXFP4:  // the next lower power of two
      block[0] = static_cast<uint8_t>(128 + std::ilogb(around / 5.0f));
      return;
    default:
      FAIL() << "not a readable type";
  }
}

}  // namespace

std::vector<uint8_t> RandomBlocks(GgmlType type, int64_t n, uint32_t seed, float scale) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  std::vector<uint8_t> bytes(n / info.block_elements * info.block_bytes);
  Random random(seed);
  for (uint8_t& byte : bytes) byte = random.Byte();
  for (size_t at = 0; at < bytes.size(); at += info.block_bytes)
    SetScales(type, scale, random, bytes.data() + at);
  return bytes;
}

GgufWriter TinyModel(const TinyModelOptions& options) {
  GgufWriter writer;
  AddHyperparameters(options, writer);
  AddVocabulary(writer);
  TensorWriter tensors(writer, options.seed * 1000);
  tensors.Matrix("token_embd.weight", kTinyVocab, options.hidden, options.embedding_type);
  for (uint32_t layer = 0; layer < options.layers; ++layer) AddLayer(options, layer, tensors);
  tensors.Vector("output_norm.weight", options.hidden, 1.0f);
  if (!options.tied_head)
    tensors.Matrix("output.weight", kTinyVocab, options.hidden, options.matrix_type);
  return writer;
}

std::vector<uint8_t> TinyLlamaGguf(uint32_t seed) {
  TinyModelOptions options;
  options.seed = seed;
  return TinyModel(options).Build();
}

}  // namespace nibble::testing
