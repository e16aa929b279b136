"""The table a person reads and the JSON a later day is compared with."""

import json

import gpu_model
from gpu_day import report
from gpu_day.device import Gpu
from gpu_day.figures import Row
from gpu_day.stage import Outcome

GPU = Gpu("NVIDIA H200", "580.1", 143771, "9.0")
ROWS = [Row("linear", "int4-g128", "gate_up", 1, 0, 30.04, 2020.7, 7.83, 0.674, 3.0),
        Row("decode", "fp8", "llama-3.1-8b", 32, 1040, 2909.1, 2200.0, 180.0, None, None, 11000.0, 13e3)]
OUTCOMES = [Outcome("sweep linear", "sweep", ("a", "b"), "ok", "", 12.345, "out\n", ""),
            Outcome("memcheck x", "sanitizer", ("c",), "failed", "exit code 9: an error", 3, "", "err\n")]


def test_columns_line_up_and_nothing_known_is_a_dash():
    head, linear, decode = report.table(ROWS).splitlines()
    assert linear.split() == ["linear", "int4-g128", "gate_up", "1", "-", "30.0", "2,021", "7.8", "67", "%", "3.00", "-", "-"]
    assert decode.split()[-4:] == ["-", "-", "11,000", "13,000"]
    assert head.index("us") + 2 == linear.index("30.0") + 4 == decode.index("2,909.1") + 7


def test_no_rows_are_a_table_too():
    assert report.table([]).split()[0] == "op"


def test_stages_are_told_with_why():
    assert report.stage_lines(OUTCOMES).splitlines() == [
        "ok             12.3 s  sweep linear", "failed          3.0 s  memcheck x: exit code 9: an error"]


def test_the_heading_says_what_the_shares_are_of():
    assert "4.3 TB/s (a copy), 790 TFLOP/s bf16, 1580 for 8 bits" in report.heading(GPU, gpu_model.H200)
    assert "no shares" in report.heading(GPU, None)
    assert "REHEARSAL" in report.heading(None, None)


def test_what_is_written_is_whole_and_can_be_read(tmp_path):
    folder = tmp_path / "a" / "b"
    report.write(folder, GPU, gpu_model.H200, OUTCOMES, ROWS, {"commit": "abc", "when": "now"})
    found = json.loads((folder / "result.json").read_text())
    assert found["commit"] == "abc" and found["rehearsal"] is False
    assert found["device"]["name"] == "NVIDIA H200" and found["ceilings"]["bandwidth"] == 4.3e12
    assert found["rows"][1]["tokens_per_s"] == 11000.0
    assert found["stages"][1] == {"name": "memcheck x", "kind": "sanitizer", "command": ["c"], "verdict": "failed",
                                  "why": "exit code 9: an error", "seconds": 3}
    assert (folder / "table.txt").read_text() == report.text(GPU, gpu_model.H200, OUTCOMES, ROWS)
    assert "== sweep linear: ok ==\n$ a b\nout" in (folder / "log.txt").read_text()


def test_writing_again_replaces(tmp_path):
    report.write(tmp_path, GPU, None, OUTCOMES, ROWS, {})
    report.write(tmp_path, GPU, None, OUTCOMES, [], {})
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == []
