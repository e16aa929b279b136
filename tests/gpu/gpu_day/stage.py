"""Runs a stage: its whole process group ends with it, at its limit at the latest, and what it printed is kept."""
import dataclasses
import os
import signal
import subprocess
import time

SKIPPED = 77  # ctest's, and that of the tests where no device is


@dataclasses.dataclass(frozen=True)
class Outcome:
    name: str
    kind: str
    command: tuple
    verdict: str  # "ok", "failed", "skipped", "timed out", "not started"
    why: str
    seconds: float
    stdout: str
    stderr: str


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def judge(returncode, stdout, stderr):
    """(verdict, why)."""
    if returncode == 0:
        return "ok", ""
    if returncode == SKIPPED:
        return "skipped", last_line(stdout)
    how = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    return "failed", f"{how}: {last_line(stderr) or last_line(stdout)}"


def end(process):
    """The group, gently and then not."""
    for sign, wait in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            pass
        try:
            return process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            continue
    return "", "did not end when killed"


def run(stage, environment, remaining_s, clock=time.monotonic):
    """An Outcome, whatever happens. `remaining_s`: of the day; below 5 nothing is started."""
    limit = min(stage.limit_s, remaining_s)
    if limit < 5 and stage.limit_s >= 5:
        return Outcome(stage.name, stage.kind, stage.command, "not started", "the day's time is used up", 0, "", "")
    start = clock()
    try:
        process = subprocess.Popen(stage.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, errors="replace", env=environment, start_new_session=True)
    except OSError as error:
        return Outcome(stage.name, stage.kind, stage.command, "failed", f"{stage.command[0]}: {error.strerror}", 0, "", "")
    try:
        stdout, stderr = process.communicate(timeout=limit)
        verdict, why = judge(process.returncode, stdout, stderr)
    except subprocess.TimeoutExpired:
        stdout, stderr = end(process)
        verdict, why = "timed out", f"at its limit of {limit:.0f} s"
    return Outcome(stage.name, stage.kind, stage.command, verdict, why, clock() - start, stdout or "", stderr or "")
