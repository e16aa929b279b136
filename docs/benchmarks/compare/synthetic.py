"""A GGUF of Llama-3.2-1B's shape with random weights: what a 1B model costs, where none can be had.

Hidden 2048, 16 layers, 32 heads, 8 kv heads of 64, ffn 8192, RoPE base 500000, no RoPE scaling; Q4_0 with a tied Q6_K
embedding, the types llama-quantize gives a Q4_0 file of this shape by default. The tokenizer and its 49,152 tokens are
SmolLM2's (the original has 128,256): 1.07e9 parameters. The blocks themselves are drawn: uniform nibbles, one scale
that makes activations stay of ordinary size. Speed does not depend on the values; the text it writes is noise.
"""

import pathlib

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 2048, 16, 32, 8, 64, 8192
SEED = 20260101
Q4_0_SCALE = 0.02 / 4.6  # 4.6: the standard deviation of a uniform nibble
Q6_K_SCALE = 0.02 / (18.5 * 16)  # 18.5: of a uniform 6-bit number; 16: the sub-block scale below


def q4_0(random, rows, columns):
    """[rows, columns / 32 * 18] bytes: f16 scale, 16 bytes of two nibbles each."""
    blocks = random.integers(0, 256, (rows, columns // 32, 18), dtype=np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(Q4_0_SCALE).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def q6_k(random, rows, columns):
    """[rows, columns / 256 * 210] bytes: 128 low, 64 high, 16 sub-block scales, f16 scale."""
    blocks = random.integers(0, 256, (rows, columns // 256, 210), dtype=np.uint8)
    blocks[..., 192:208] = 16
    blocks[..., 208:] = np.frombuffer(np.float16(Q6_K_SCALE).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def matrices():
    """{name: (rows, columns)} of one layer."""
    kv = KV_HEADS * HEAD_DIM
    return {
        "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN),
    }  # fmt: skip


def copy_tokenizer(writer, source):
    """Every tokenizer.* key; returns the number of tokens."""
    tokens = 0
    for key, field in gguf.GGUFReader(source).fields.items():
        if key.startswith("tokenizer."):
            sub = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
            if key == "tokenizer.ggml.tokens":
                tokens = len(field.data)
    return tokens


def add_metadata(writer, tokens):
    writer.add_name("Random weights, Llama-1B shape")
    writer.add_block_count(LAYERS)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_vocab_size(tokens)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(2)


def write(path, tokenizer_from):
    """Writes `path` (632 MB) whole or not at all. Tensors are drawn in a fixed order: the same bytes each time."""
    part = pathlib.Path(f"{path}.part")
    random = np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(part, "llama")
    tokens = copy_tokenizer(writer, tokenizer_from)
    add_metadata(writer, tokens)
    norm, q4, q6 = np.ones(HIDDEN, np.float32), gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q6_K
    writer.add_tensor("token_embd.weight", q6_k(random, tokens, HIDDEN), raw_dtype=q6)
    writer.add_tensor("output_norm.weight", norm)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", norm)
        for name, (rows, columns) in matrices().items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", q4_0(random, rows, columns), raw_dtype=q4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)
