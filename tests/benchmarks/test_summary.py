"""Ratios, verdicts, settings."""

import pytest

from compare.rows import SHARE, Row
from compare.summary import best_setting, ratios, summarize, verdict

RATE_ROW = Row("d", "d", "decode", 128, 64, floor=2.0, aim=3.0)


def test_a_ratio_is_the_median_of_the_rounds_and_not_of_the_medians():
    # The machine halves its speed in the last two rounds: the medians' quotient is 1, every round says 2 but one.
    rounds = [{"nibble": 400, "p": 200}, {"nibble": 200, "p": 100}, {"nibble": 200, "p": 200}]
    assert summarize(RATE_ROW, rounds)["ratio"] == {"median": 2.0, "min": 1.0, "max": 2.0}


def test_the_best_peer_is_the_one_with_the_smallest_ratio():
    summary = summarize(RATE_ROW, [{"nibble": 600, "a": 300, "b": 200}])
    assert (summary["peer"], summary["ratio"]["median"]) == ("a", 2.0)
    assert summary["against"]["b"]["median"] == 3.0


def test_rounds_of_different_lengths_are_refused():
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


def test_a_share_is_judged_by_itself():
    row = Row("s", "s", "decode", 128, 64, kind=SHARE, floor=0.45, aim=0.5)
    summary = summarize(row, [{"nibble": 0.46, "p": 0.2}])
    assert (summary["ratio"], summary["verdict"]) == (None, "floor")


def test_without_nibble_or_peers_nothing_is_judged():
    assert summarize(RATE_ROW, [{"p": 200}])["verdict"] is None
    assert summarize(RATE_ROW, [{"nibble": 200}])["verdict"] is None


@pytest.mark.parametrize(
    ("value", "told"), [(1.99, "below"), (2.0, "floor"), (2.99, "floor"), (3.0, "aim"), (None, None)]
)
def test_verdicts_include_their_bounds(value, told):
    assert verdict(value, 2.0, 3.0) == told


def test_a_row_without_an_aim_reaches_its_floor_at_best():
    assert verdict(1.0, 0.9, None) == "floor"


def test_a_setting_counts_by_its_best_trial():
    assert best_setting({"a": [100, 120], "b": [119, 119]}) == "a"
