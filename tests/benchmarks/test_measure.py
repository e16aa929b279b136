"""Rounds and settings, over an engine that is told what to answer."""

import io
import subprocess
import sys

import pytest

from compare.engines import Setting
from compare.measure import Failed, Progress, Runner, choose_settings, rotated, run_rounds, total
from compare.rows import LLAMA_1B, SHARE, SMOLLM, Row

ROW = Row("d", "d", "decode", 128, 64, floor=2.0)
POINT = Row("p", "p", "decode", 128, 64)  # of a plot
FILES = {SMOLLM: {"Q4_1": "m1", "Q4_0": "m0"}, LLAMA_1B: {"Q4_0": "big"}}


class Engine:
    """Answers with a Python program that prints the figure of the setting."""

    def __init__(self, name, figures):
        self.name, self.settings, self._figures = name, [Setting(n, f) for n, f, _ in figures], figures

    def command(self, row, setting, file):
        figure = next(f for n, _, f in self._figures if n == setting.name)
        return [sys.executable, "-c", f"print({figure!r}) if {figure!r} else exit(3)"]

    def parse(self, out, row):
        return float(out)


def runner():
    return Runner(FILES, [], [])


def test_the_fastest_setting_is_chosen_and_all_are_told():
    peer = Engine("p", [("slow", "Q4_1", 10), ("fast", "Q4_0", 20)])
    trials, chosen = choose_settings(runner(), [peer], [ROW], True, [])
    assert trials == {"d": {"p": {"slow": [10.0], "fast": [20.0, 20.0]}}}
    assert chosen["d"]["p"].name == "fast"


def test_settings_close_to_the_fastest_are_tried_again():
    class Moody(Engine):
        def parse(self, out, row):  # "a" begins badly
            figure = super().parse(out, row)
            self.seen = getattr(self, "seen", []) + [figure]
            return figure * 0.9 if self.seen == [20.0] else figure

    peer = Moody("p", [("a", "Q4_1", 20), ("b", "Q4_0", 19), ("c", "Q4_1", 15)])
    trials, chosen = choose_settings(runner(), [peer], [ROW], True, [])
    assert trials["d"]["p"] == {"a": [18.0, 20.0], "b": [19.0, 19.0], "c": [15.0]}
    assert chosen["d"]["p"].name == "a"


def test_settings_of_a_plots_point_are_tried_once():
    peer = Engine("p", [("a", "Q4_1", 20), ("b", "Q4_0", 19)])
    trials, _ = choose_settings(runner(), [peer], [POINT], True, [])
    assert trials == {"p": {"p": {"a": [20.0], "b": [19.0]}}}
    assert total(runner(), [peer], [POINT], 5, True) == 7


def test_a_setting_that_fails_is_told_and_not_chosen():
    failures = []
    peer = Engine("p", [("broken", "Q4_1", 0), ("works", "Q4_0", 20)])
    _, chosen = choose_settings(runner(), [peer], [ROW], True, failures)
    assert chosen["d"]["p"].name == "works"
    assert "d, p, broken" in failures[0] and "exit 3" in failures[0]


def test_without_trials_the_first_setting_is_used():
    peer = Engine("p", [("slow", "Q4_1", 10), ("fast", "Q4_0", 20)])
    trials, chosen = choose_settings(runner(), [peer], [ROW], False, [])
    assert (trials, chosen["d"]["p"].name) == ({}, "slow")


def test_nibble_serves_the_file_as_it_is_and_never_another():
    ours = Engine("nibble", [("as it is", "Q4_1", 10), ("as it is", "Q4_0", 20), ("8-bit cache", "Q4_1", 30)])
    assert [(s.name, s.file) for s in runner().settings(ours, ROW)] == [("as it is", "Q4_1"), ("8-bit cache", "Q4_1")]


def test_a_server_is_measured_at_its_defaults():
    ours = Engine("nibble", [("as it is", "Q4_1", 10), ("8-bit cache", "Q4_1", 30)])
    row = Row("s", "s", "decode", 16, 256, 32, kind=SHARE, server=True)
    assert [s.name for s in runner().settings(ours, row)] == ["as it is"]


def test_a_setting_whose_file_the_model_lacks_is_no_setting():
    peer = Engine("p", [("a", "Q4_1", 10), ("b", "Q4_0", 20)])
    big = Row("b", "b", "decode", 128, 64, model=LLAMA_1B)
    assert [s.name for s in runner().settings(peer, big)] == ["b"]


def test_every_round_has_every_engine():
    engines = [Engine("nibble", [("s", "Q4_1", 30)]), Engine("p", [("s", "Q4_1", 10)])]
    _, chosen = choose_settings(runner(), engines, [ROW], False, [])
    figures, rates = run_rounds(runner(), engines, [ROW], chosen, 3, [])
    assert figures == {"d": [{"nibble": 30.0, "p": 10.0}] * 3}
    assert rates["d"]["p"] == [[10.0]] * 3


def test_a_round_with_a_failure_is_left_out_whole():
    failures = []
    engines = [Engine("nibble", [("s", "Q4_1", 30)]), Engine("p", [("s", "Q4_1", 0)])]
    _, chosen = choose_settings(runner(), engines, [ROW], False, [])
    figures, _ = run_rounds(runner(), engines, [ROW], chosen, 2, failures)
    assert figures == {"d": []}
    assert [f.split(":")[0] for f in failures] == ["round 1, d, p", "round 2, d, p"]


def test_the_order_is_rotated_so_that_each_is_first_once():
    assert [rotated(["a", "b", "c"], n)[0] for n in range(4)] == ["a", "b", "c", "a"]


def test_a_share_is_the_rate_beside_neighbours_through_the_idle_one(monkeypatch):
    outs = iter(["200", "90"])
    asked = runner()
    monkeypatch.setattr(asked, "_run", lambda command, key: next(outs))
    row = Row("n", "n", "decode", 128, 64, kind=SHARE, neighbours=2)
    assert asked.measure(Engine("p", [("s", "Q4_1", 1)]), row, Setting("s", "Q4_1")) == (0.45, [200.0, 90.0])


def test_a_program_that_is_not_there_is_a_failure_with_its_name():
    with pytest.raises(Failed, match="no-such-program"):
        Runner(FILES, ["no-such-program"], []).measure(
            Engine("p", [("s", "Q4_1", 1)]), ROW, Setting("s", "Q4_1")
        )


def test_the_total_counts_trials_only_where_there_is_a_choice():
    engines = [Engine("nibble", [("s", "Q4_1", 1)]), Engine("p", [("a", "Q4_1", 1), ("b", "Q4_0", 1)])]
    assert total(runner(), engines, [ROW], 5, True) == 14
    assert total(runner(), engines, [ROW], 5, False) == 10


def test_progress_tells_the_time_left():
    now, out = iter([0.0, 0.0, 60.0]), io.StringIO()
    progress = Progress(3, out, lambda: next(now))
    progress("a")
    progress("", 1234.5)
    progress("b")
    assert out.getvalue() == "[1/3, 0 s] a\n    1,234.50\n[2/3, 60 s, about 2 min left] b\n"


def test_neighbours_pass_output_and_exit_code_on_and_end():
    import compare.neighbours as program

    command = [sys.executable, program.__file__, "2", sys.executable, "-c", "print('x'); exit(7)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("x\n", 7)
