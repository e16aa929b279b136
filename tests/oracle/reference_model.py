#!/usr/bin/env python3
"""The Llama decoder in plain numpy: what nibble's and llama.cpp's answers are held against.

Every weight is dequantized to float32 (or float64) by the file format's formulas and every product is computed in that
precision; nothing is cached, batched or fused, so there is little to get wrong. Needs numpy only.

  reference_model.py --model M --token-ids 1,2,3 [--max-tokens 16]

Prints {"positions": [{"token_id", "logprob", "top1", "top1_logprob", "margin"}...], "greedy": [...]}: `token_id` and
its `logprob` given what stands before it (null for the first), `top1` the most likely token there and `margin` the
distance to the second, in nats. The last entry has no token_id: it is what comes next. `greedy` continues from there.
"""

import argparse
import json

import numpy as np

from gguf_reader import Gguf


def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(epsilon)) * weight


def log_softmax(logits):
    """Natural log over the full vocabulary, in float64 whatever the logits are: the sum of 49,152 terms."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


class ReferenceModel:
    """A llama or qwen2 GGUF. REQUIRES rope scaling none or linear."""

    def __init__(self, path, dtype=np.float32):
        file = Gguf(path)
        arch = file.meta["general.architecture"]
        if arch not in ("llama", "qwen2"):
            raise ValueError(f"{path}: architecture {arch!r}, this computes llama and qwen2")

        def number(key, default=None):
            value = file.meta.get(f"{arch}.{key}", default)
            if value is None:
                raise ValueError(f"{path}: no {arch}.{key}")
            return value

        self.meta, self.dtype = file.meta, dtype
        self.num_layers = number("block_count")
        self.heads = number("attention.head_count")
        self.kv_heads = number("attention.head_count_kv", self.heads)
        self.head_dim = number("attention.key_length", number("embedding_length") // self.heads)
        self.epsilon = number("attention.layer_norm_rms_epsilon")
        self.rope_dim = number("rope.dimension_count", self.head_dim)
        self.rope_base = number("rope.freq_base", 10000.0)
        self.rope_scale = 1.0 / number("rope.scaling.factor", 1.0)
        if number("rope.scaling.type", "none") not in ("none", "linear"):
            raise ValueError(f"{path}: rope scaling {number('rope.scaling.type')!r}")
        self.half_rotation = (
            arch == "qwen2"
        )  # llama GGUFs have q and k permuted for interleaved pairs
        self.w = {name: file.tensor(name).astype(dtype) for name in file.tensors}
        self.head = self.w.get("output.weight", self.w["token_embd.weight"])

    def _linear(self, x, name):
        y = x @ self.w[name + ".weight"].T
        bias = self.w.get(name + ".bias")
        return y if bias is None else y + bias

    def _rope(self, x):
        """x [positions, heads, head_dim]: rotates pairs by position * base^(-2i / rope_dim); angles in float64."""
        half = self.rope_dim // 2
        frequency = self.rope_base ** (-np.arange(half, dtype=np.float64) * 2 / self.rope_dim)
        if "rope_freqs.weight" in self.w:
            frequency = frequency / self.w["rope_freqs.weight"].astype(np.float64)
        angle = np.arange(len(x), dtype=np.float64)[:, None] * self.rope_scale * frequency
        cos, sin = (f(angle).astype(self.dtype)[:, None, :] for f in (np.cos, np.sin))
        first = np.s_[..., :half] if self.half_rotation else np.s_[..., 0 : self.rope_dim : 2]
        second = (
            np.s_[..., half : self.rope_dim]
            if self.half_rotation
            else np.s_[..., 1 : self.rope_dim : 2]
        )
        out = x.copy()
        out[first] = x[first] * cos - x[second] * sin
        out[second] = x[first] * sin + x[second] * cos
        return out

    def _attention(self, x, layer):
        n = len(x)
        q = self._rope(self._linear(x, f"blk.{layer}.attn_q").reshape(n, self.heads, self.head_dim))
        k = self._rope(
            self._linear(x, f"blk.{layer}.attn_k").reshape(n, self.kv_heads, self.head_dim)
        )
        v = self._linear(x, f"blk.{layer}.attn_v").reshape(n, self.kv_heads, self.head_dim)
        group = self.heads // self.kv_heads
        future = np.triu(np.full((n, n), -np.inf, self.dtype), 1)
        out = np.empty_like(q)
        for h in range(self.heads):
            score = q[:, h] @ k[:, h // group].T / self.dtype(np.sqrt(self.head_dim)) + future
            score = np.exp(score - score.max(axis=1, keepdims=True))
            out[:, h] = score / score.sum(axis=1, keepdims=True) @ v[:, h // group]
        return self._linear(out.reshape(n, -1), f"blk.{layer}.attn_output")

    def _mlp(self, x, layer):
        gate = self._linear(x, f"blk.{layer}.ffn_gate")
        silu = gate / (1 + np.exp(-gate))
        return self._linear(silu * self._linear(x, f"blk.{layer}.ffn_up"), f"blk.{layer}.ffn_down")

    def logits(self, ids, first=0):
        """[len(ids) - first, vocab]: row i predicts what follows ids[:first + i + 1]."""
        x = self.w["token_embd.weight"][np.asarray(ids)]
        for layer in range(self.num_layers):
            x = x + self._attention(
                rms_norm(x, self.w[f"blk.{layer}.attn_norm.weight"], self.epsilon), layer
            )
            x = x + self._mlp(
                rms_norm(x, self.w[f"blk.{layer}.ffn_norm.weight"], self.epsilon), layer
            )
        return rms_norm(x[first:], self.w["output_norm.weight"], self.epsilon) @ self.head.T

    def greedy(self, ids, max_tokens, draft=None):
        """`max_tokens` most likely continuations, end-of-sequence included and gone beyond.

        The whole sequence is computed again for every token. `draft(ids, n)`, the guess of a faster engine, only saves
        time: its tokens are kept up to the first that is not the most likely one here.
        """
        out = []
        while len(out) < max_tokens:
            guess = draft(list(ids) + out, max_tokens - len(out)) if draft else []
            best = self.logits(list(ids) + out + guess, first=len(ids) + len(out) - 1).argmax(
                axis=1
            )
            right = 0
            while right < len(guess) and guess[right] == best[right]:
                right += 1
            out += [int(token) for token in best[: right + 1]]
        return out[:max_tokens]


def positions(model, ids):
    logprobs = log_softmax(model.logits(ids))
    second, first = np.partition(logprobs, -2, axis=1)[:, -2:].T
    top = logprobs.argmax(axis=1)
    rows = [
        {
            "token_id": int(ids[0]),
            "logprob": None,
            "top1": None,
            "top1_logprob": None,
            "margin": None,
        }
    ]
    for i in range(len(ids)):
        token = int(ids[i + 1]) if i + 1 < len(ids) else None
        rows.append(
            {
                "token_id": token,
                "logprob": None if token is None else float(logprobs[i, token]),
                "top1": int(top[i]),
                "top1_logprob": float(first[i]),
                "margin": float(first[i] - second[i]),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--token-ids", required=True, help="1,2,3")
    parser.add_argument("--max-tokens", type=int, default=0)
    parser.add_argument("--float64", action="store_true")
    args = parser.parse_args()
    model = ReferenceModel(args.model, np.float64 if args.float64 else np.float32)
    ids = [int(x) for x in args.token_ids.split(",")]
    print(
        json.dumps(
            {"positions": positions(model, ids), "greedy": model.greedy(ids, args.max_tokens)}
        )
    )


if __name__ == "__main__":
    main()
