"""Rows of the table out of recorded output: the recorded figures are made up, so that what follows from them is known."""

import pathlib

import pytest

import gpu_model
from gpu_day import figures
from gpu_day.stage import Outcome

RECORDED = pathlib.Path(__file__).with_name("recorded")
SWEEP = (RECORDED / "sweep.jsonl").read_text()
PEERS = (RECORDED / "peers.jsonl").read_text()
BENCH = (RECORDED / "bench.json").read_text()
COMMAND = ("nibble", "bench", "--model", "random:llama-3.1-8b:int4-g128", "--repeat", "3")


def outcome(kind, stdout, command=(), verdict="ok"):
    return Outcome("x", kind, command, verdict, "", 1, stdout, "")


def find(rows, op, variant, count):
    (row,) = [row for row in rows if (row.op, row.variant, row.rows) == (op, variant, count)]
    return row


def test_ceilings_are_known_by_the_name_that_the_driver_gives():
    assert figures.ceiling_of("NVIDIA H100 80GB HBM3") is gpu_model.H100
    assert figures.ceiling_of("NVIDIA H200") is gpu_model.H200
    assert figures.ceiling_of("NVIDIA L4") is None


def test_lines_that_were_cut_off_or_are_no_json_are_left_out():
    assert len(figures.op_rows(SWEEP, gpu_model.H100)) == 4
    assert figures.op_rows('{"op": "x"}\n{"bytes": 1}\n', gpu_model.H100) == []


def test_an_op_that_waits_for_memory():
    row = find(figures.op_rows(SWEEP, gpu_model.H100), "linear", "int4-g128", 1)
    assert row.gb_per_s == pytest.approx(60620800 / 30e-6 / 1e9)
    assert row.share == pytest.approx(60620800 / 3.0e12 / 30e-6)


def test_an_op_of_eight_bits_that_waits_for_products():
    row = find(figures.op_rows(SWEEP, gpu_model.H100), "linear", "fp8", 256)
    assert row.tflops == pytest.approx(601.3, abs=0.1)
    assert row.share == pytest.approx(134348800 / 3.0e12 / 100e-6)  # fp8's products would take 38 us
    slow = figures.share_of(1, 60129542144, 100e-6, "bf16", gpu_model.H100)
    assert slow == pytest.approx(60129542144 / 0.79e15 / 100e-6)


def test_a_device_without_known_limits_has_rates_and_no_shares():
    row = find(figures.op_rows(SWEEP, None), "copy", "rows", 65536)
    assert row.gb_per_s == pytest.approx(2863.3, abs=0.1) and row.share is None


def test_linears_are_compared_with_cublas_where_it_ran_the_same():
    rows = figures.rows_of([outcome("sweep", SWEEP), outcome("peer", PEERS)], gpu_model.H100)
    assert find(rows, "linear", "int4-g128", 1).times_cublas == pytest.approx(3.0)
    assert find(rows, "linear", "fp8", 256).times_cublas is None
    assert find(rows, "linear", "peer: bf16 (cuBLAS)", 1).times_cublas == pytest.approx(1.0)


def test_decode_of_the_8b_shape():
    rows = figures.bench_rows(BENCH, COMMAND, gpu_model.H200)
    row = find(rows, "decode", "int4-g128, fp8 cache", 32)
    assert (row.tokens_per_s, row.goal, row.context) == (11000.0, 13e3, 1040)
    assert row.microseconds == pytest.approx(1e6 * 32 / 11000)
    read = 4140000000 * 7.504e9 / 8.030e9  # without the embedding
    moved = read + 32 * 1040 * 67584
    assert row.gb_per_s == pytest.approx(moved * 11000 / 32 / 1e9, rel=1e-3)
    assert row.share == pytest.approx(moved / 4.3e12 * 11000 / 32, rel=1e-3)


def test_prefill_counts_products_and_the_head_once():
    row = find(figures.bench_rows(BENCH, COMMAND, gpu_model.H200), "prefill", "int4-g128, fp8 cache", 1)
    a_token = 2 * gpu_model.LLAMA_8B.linear_params + gpu_model.LLAMA_8B.attention_flops(2048)
    assert row.tflops == pytest.approx(a_token * 18000 / 1e12)
    assert row.share == pytest.approx(a_token * 18000 / 0.79e15)
    assert row.goal is None


def test_flags_that_are_off_by_default_are_named():
    rows = figures.bench_rows(BENCH, COMMAND + ("--cuda-dependent-launches",), gpu_model.H200)
    assert {row.variant for row in rows} == {"int4-g128, fp8 cache, dependent-launches"}


def test_another_shape_has_no_goal_and_no_share():
    rows = figures.bench_rows(BENCH, ("--model", "random:llama-3.2-1b:int8"), gpu_model.H200)
    assert {(row.goal, row.share) for row in rows} == {(None, None)}


@pytest.mark.parametrize("text", ["", "nibble: INTERNAL: the device is gone\n", BENCH[:200]])
def test_a_bench_that_printed_no_report_gives_no_row(text):
    assert figures.bench_rows(text, COMMAND, gpu_model.H200) == []


def test_what_a_stage_printed_before_it_was_stopped_counts():
    assert len(figures.rows_of([outcome("sweep", SWEEP, verdict="timed out"), outcome("test", SWEEP)], None)) == 4
