"""A stage ends, whatever its command does, and what it printed before is kept."""

import os
import sys

import pytest

from gpu_day import stage
from gpu_day.plan import Stage


def run(code, limit_s=30, remaining_s=600):
    return stage.run(Stage("one", "test", (sys.executable, "-c", code), limit_s), dict(os.environ), remaining_s)


def test_a_good_end():
    outcome = run("print('hello')")
    assert (outcome.verdict, outcome.why, outcome.stdout) == ("ok", "", "hello\n")


def test_77_is_skipped_with_the_reason_it_printed():
    outcome = run("print('SKIPPED: no device'); raise SystemExit(77)")
    assert (outcome.verdict, outcome.why) == ("skipped", "SKIPPED: no device")


def test_a_bad_end_is_told_with_its_last_line():
    outcome = run("import sys; print('row'); print('it broke', file=sys.stderr); raise SystemExit(3)")
    assert (outcome.verdict, outcome.why) == ("failed", "exit code 3: it broke")
    assert outcome.stdout == "row\n"


def test_a_signal_is_told():
    assert run("import os; os.kill(os.getpid(), 11)").why.startswith("signal 11")


def test_a_command_that_is_not_there_fails_its_stage_only():
    outcome = stage.run(Stage("one", "test", ("/no/such/program",), 30), {}, 600)
    assert (outcome.verdict, outcome.why) == ("failed", "/no/such/program: No such file or directory")


@pytest.mark.parametrize("limit_s, remaining_s", [(1, 600), (1, 1)])
def test_at_its_limit_it_ends_with_its_children_and_keeps_what_it_printed(limit_s, remaining_s, tmp_path):
    # The child would outlive a parent that is killed alone, and hold its pipes.
    child = tmp_path / "child"
    code = (f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
            f"open({str(child)!r}, 'w').write(str(c.pid)); print('{{}}', flush=True); c.wait()")
    outcome = run(code, limit_s, remaining_s)
    assert (outcome.verdict, outcome.stdout) == ("timed out", "{}\n")
    assert "limit of 1 s" in outcome.why
    assert not alive(int(child.read_text()))


def alive(pid):
    """A zombie that nobody has waited for is dead."""
    for _ in range(1000):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        os.sched_yield()
    return True


def test_one_that_ignores_the_gentle_signal_is_killed():
    outcome = run("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)", 1)
    assert outcome.verdict == "timed out" and outcome.stdout == "on\n"


def test_when_the_day_is_over_nothing_is_started(tmp_path):
    outcome = run(f"open({str(tmp_path / 'x')!r}, 'w')", remaining_s=4)
    assert (outcome.verdict, outcome.seconds) == ("not started", 0)
    assert not (tmp_path / "x").exists()
