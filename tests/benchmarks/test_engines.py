"""Commands and what is read out of each engine's output: the same span for all."""

import json
import pathlib

import pytest

from compare.engines import LlamaCpp, Nibble, OpenVino, openvino_rate
from compare.rows import Row

PREFILL = Row("p", "p", "prefill", 512, 1, passes=3)
DECODE = Row("d", "d", "decode", 128, 64, batch=8, passes=3)


def words(command):
    return [str(word) for word in command]


def after(command, flag):
    command = words(command)
    return command[command.index(flag) + 1]


def nibble_json(*results):
    return json.dumps(
        {"results": [{"test": t, "batch": b, "tokens_per_second": {"median": m}} for t, b, m in results]}
    )


def test_nibble_reads_the_rows_test_and_batch():
    out = nibble_json(("prefill", 8, 1000), ("decode", 1, 200), ("decode", 8, 600))
    assert Nibble("nibble", 2, False).parse(out, DECODE) == 600


def test_nibble_without_the_row_is_an_error_and_no_zero():
    with pytest.raises(ValueError, match="no decode of batch 8"):
        Nibble("nibble", 2, False).parse(nibble_json(("decode", 1, 200)), DECODE)


def test_nibble_that_knows_contexts_runs_only_the_decode():
    command = Nibble("nibble", 2, True).command(DECODE, Nibble.settings[0], "m.gguf")
    assert after(command, "--prompt-tokens") == "0"
    assert after(command, "--context") == "128"


def test_nibble_that_does_not_decodes_after_the_prompt():
    command = Nibble("nibble", 2, False).command(DECODE, Nibble.settings[0], "m.gguf")
    assert after(command, "--prompt-tokens") == "128"
    assert "--context" not in words(command)


def llama_lines(*speeds):
    return "noise\n" + "\n".join(json.dumps({"pl": 8, "speed_pp": p, "speed_tg": t}) for p, t in speeds)


def test_llama_cpp_gives_the_median_pass_of_the_rows_span():
    engine = LlamaCpp(pathlib.Path("bin"), 2)
    out = llama_lines((900, 300), (1000, 500), (100, 400))
    assert engine.parse(out, DECODE) == 400
    assert engine.parse(out, PREFILL) == 900


def test_llama_cpp_with_a_pass_too_few_is_an_error():
    with pytest.raises(ValueError, match="1 passes in its output, needed 3"):
        LlamaCpp(pathlib.Path("bin"), 2).parse(llama_lines((900, 300)), DECODE)


def test_llama_cpp_gets_a_cache_of_what_the_row_needs_and_all_passes():
    command = LlamaCpp(pathlib.Path("bin"), 2).command(DECODE, LlamaCpp.settings[0], "m.gguf")
    assert after(command, "-c") == str(8 * (128 + 64))
    assert after(command, "-npp") == "128,128,128"
    assert after(command, "-fa") == "on"


def test_openvino_prefill_ends_with_the_first_token_of_every_sequence():
    row = Row("p", "p", "prefill", 512, 1, batch=2)
    assert openvino_rate([[2.0, 1], [2.0, 2], [9.0, 4]], row) == 2 * 512 / 4.0


def test_openvino_decode_leaves_the_prefill_step_out():
    row = Row("d", "d", "decode", 128, 2, batch=8)
    assert openvino_rate([[100.0, 8], [0.5, 16], [1.5, 24]], row) == 16 / 2.0


def test_openvino_takes_the_median_pass():
    row = Row("d", "d", "decode", 128, 1, batch=1)
    passes = [[[1.0, 1], [seconds, 2]] for seconds in (0.5, 0.25, 0.125)]
    assert OpenVino(2).parse("log\n" + json.dumps({"passes": passes}), row) == 4.0


def test_openvino_is_asked_for_the_rows_shape():
    ask = json.loads(OpenVino(2).command(DECODE, OpenVino.settings[0], "m.gguf")[-1])
    assert (ask["batch"], ask["context"], ask["generate"], ask["threads"]) == (8, 128, 64, 2)
