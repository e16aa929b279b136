"""The oracle itself: its dequantization against the formats' tables, element by element, and what was recorded."""

import json
import pathlib
import struct

import numpy as np
import pytest

from gguf_reader import TYPES, Gguf, dequantize
from reference_model import ReferenceModel, log_softmax

HERE = pathlib.Path(__file__).parent
SEED = 20261123


def half(block, at):
    return np.float32(struct.unpack_from("<e", block, at)[0])


def k_scale(block, j):
    """The 6-bit scale and minimum of sub-block j: bytes 4 to 15 of a Q4_K or Q5_K block."""
    q = block[4:16]
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4)


def nibble(block, at, j):
    return block[at + j] & 15 if j < 16 else block[at + j - 16] >> 4


def k_nibble(block, at, j):
    pair, within = divmod(j, 64)
    byte = block[at + 32 * pair + within % 32]
    return byte & 15 if within < 32 else byte >> 4


def element(name, block, j):
    """One value, as the table in the format's description states it."""
    if name == "Q4_0":
        return half(block, 0) * (nibble(block, 2, j) - 8)
    if name == "Q4_1":
        return half(block, 0) * nibble(block, 4, j) + half(block, 2)
    if name in ("Q5_0", "Q5_1"):
        bits = 2 if name == "Q5_0" else 4
        code = nibble(block, bits + 4, j) | (
            (struct.unpack_from("<I", block, bits)[0] >> j & 1) << 4
        )
        return (
            half(block, 0) * (code - 16)
            if name == "Q5_0"
            else half(block, 0) * code + half(block, 2)
        )
    if name == "Q8_0":
        return half(block, 0) * struct.unpack_from("b", block, 2 + j)[0]
    if name in ("Q4_K", "Q5_K"):
        scale, minimum = k_scale(block, j // 32)
        code = k_nibble(block, 16 if name == "Q4_K" else 48, j)
        if name == "Q5_K":
            code += (block[16 + j % 32] >> (j // 32) & 1) * 16
        return half(block, 0) * np.float32(scale) * np.float32(code) - half(block, 2) * np.float32(
            minimum
        )
    part, l = divmod(j, 128)  # Q6_K
    quarter, l = divmod(l, 32)
    low = block[64 * part + l + 32 * (quarter % 2)]
    low = low & 15 if quarter < 2 else low >> 4
    code = (low | ((block[128 + 32 * part + l] >> 2 * quarter & 3) << 4)) - 32
    scale = struct.unpack_from("b", block, 192 + 8 * part + 2 * quarter + l // 16)[0]
    return half(block, 208) * np.float32(scale) * np.float32(code)


@pytest.mark.parametrize("type_id", [t for t, (_, elements, _) in TYPES.items() if elements > 1])
def test_every_block_type_is_dequantized_as_the_format_says(type_id):
    name, elements, size = TYPES[type_id]
    rng = np.random.default_rng(SEED + type_id)
    raw = rng.integers(0, 256, (20, size), dtype=np.uint8)
    halves = {"Q4_0": [0], "Q5_0": [0], "Q8_0": [0], "Q6_K": [208]}.get(name, [0, 2])
    for row in raw:
        for at in halves:
            row[at : at + 2] = np.frombuffer(np.float16(rng.normal()).tobytes(), np.uint8)
    expected = [[element(name, bytes(row), j) for j in range(elements)] for row in raw]
    np.testing.assert_array_equal(
        dequantize(raw.reshape(-1), type_id).reshape(20, -1), np.array(expected, np.float32)
    )


def test_log_softmax_sums_to_one_and_survives_large_logits():
    rows = log_softmax(np.array([[1e4, 1e4, -1e4], [0, 1, 2]], np.float32))
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1, rtol=1e-12)
    assert rows[0, 0] == pytest.approx(np.log(0.5))


def test_recorded_sequences_are_what_a_reader_expects():
    recorded = json.loads((HERE / "recorded" / "smollm2_135m_q4_1.json").read_text())
    prompts = json.loads((HERE / "prompts.json").read_text())
    assert len(recorded["sequences"]) == len(prompts) == 30
    for sequence, prompt in zip(recorded["sequences"], prompts):
        assert prompt.items() <= sequence.items()
        assert len(sequence["greedy"]) == len(sequence["logprob"]) == len(sequence["margin"]) == 64
        assert max(sequence["logprob"]) <= 0 and min(sequence["margin"]) >= 0


def test_reference_repeats_a_recorded_sequence(model_path):
    """The recording is of this file and this code: one sequence computed again, tokens and logprobs."""
    recorded = json.loads((HERE / "recorded" / "smollm2_135m_q4_1.json").read_text())["sequences"][
        17
    ]
    model = ReferenceModel(model_path)
    assert Gguf(model_path).meta["tokenizer.ggml.add_bos_token"] is False
    rows = log_softmax(
        model.logits(recorded["prompt"] + recorded["greedy"], first=len(recorded["prompt"]) - 1)
    )[:-1]
    assert rows.argmax(axis=1).tolist() == recorded["greedy"]
    np.testing.assert_allclose(
        [r[t] for r, t in zip(rows, recorded["greedy"])], recorded["logprob"], atol=1e-3
    )
    assert model.greedy(recorded["prompt"], 2) == recorded["greedy"][:2]


def test_a_wrong_draft_changes_no_token(model_path):
    recorded = json.loads((HERE / "recorded" / "smollm2_135m_q4_1.json").read_text())["sequences"][
        0
    ]
    model = ReferenceModel(model_path)
    right_then_wrong = recorded["greedy"][:2] + [7, 7]
    drafts = iter([right_then_wrong, recorded["greedy"][3:6]])
    assert (
        model.greedy(recorded["prompt"], 6, lambda ids, n: next(drafts)) == recorded["greedy"][:6]
    )
