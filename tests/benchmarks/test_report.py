"""The Markdown."""

from compare.report import cell, figure, settings_table, table
from compare.rows import RATE, SHARE, Row
from compare.summary import summarize


def test_figures_have_the_digits_that_mean_something():
    assert [figure(v, RATE) for v in (12345.6, 99.94, 3.14)] == ["12,346", "99.9", "3.1"]
    assert figure(0.456, SHARE) == "0.46"


def test_a_cell_is_the_median_and_the_range():
    assert cell({"median": 200, "min": 150, "max": 260}, RATE) == "200 (150-260)"


def test_an_engine_that_took_no_part_is_a_dash():
    assert cell(None, RATE) == "-"


def test_the_table_has_a_line_a_row_with_floor_aim_and_verdict():
    row = Row("d", "decode, 8", "decode", 128, 64, floor=2.0, aim=3.2)
    summaries = [summarize(row, [{"nibble": 600, "llama.cpp": 400}, {"nibble": 660, "llama.cpp": 440}])]
    head, rule, line = table(summaries, ["nibble", "llama.cpp"]).splitlines()
    assert head == "| row | nibble | llama.cpp | nibble / best peer | floor | aim | reached |"
    assert rule.count("---") == 7
    assert line == "| decode, 8 | 630 (600-660) | 420 (400-440) | 1.50 (1.50-1.50), llama.cpp | 2 | 3.2 | **below** |"


def test_settings_tell_which_one_was_used():
    text = settings_table({"prefill": {"openvino": {"a": [10.0], "b": [1234.5]}}}, {"prefill": {"openvino": "b"}})
    assert text.splitlines()[2:] == [
        "| prefill | openvino | a | 10.0 |  |",
        "| prefill | openvino | b | 1,234.5 | yes |",
    ]
