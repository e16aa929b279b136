"""Runs rows in interleaved rounds. An engine is one of engines.py; commands are run here and nowhere else."""

import json
import shlex
import subprocess
import sys
import time

from compare.rows import SHARE
from compare.summary import best_setting

LIMIT_SECONDS = 900  # of one command: a bound on hanging
# One trial on a shared machine is off by a tenth at times: settings that close to the fastest get another, on the
# table's rows. With a plot's points too a whole run would take an hour.
TRIALS = 2
CLOSE = 0.85


def trials_of(row):
    return 1 if row.floor is None else TRIALS


class Failed(Exception):
    """A command that gave no figure, and why."""


class Runner:
    """`files`: {model: {"Q4_1": path, ...}}; `prefix`: words before every command; `server`: the command of server.py
    without its shape; `progress(text)` is told what runs, progress("", figure) what came of it."""

    def __init__(self, files, prefix, server, progress=lambda text, figure=None: None):
        self._files, self._prefix, self._server, self.progress = files, prefix, server, progress
        self.commands = {}  # shell text by (row, engine): for the reader

    def settings(self, engine, row):
        """Those whose file the row's model has. nibble serves the first of its files as it is, and a server (server.py)
        at its defaults."""
        usable = [s for s in engine.settings if s.file in self._files[row.model]]
        if engine.name == "nibble":
            usable = [s for s in usable if s.file == usable[0].file]
        return usable[:1] if row.server else usable

    def measure(self, engine, row, setting):
        """Tokens a second, or the share kept: (figure, [rates]). The rates of a share are nibble's own, that in company,
        and a server's over its whole run."""
        file = self._files[row.model][setting.file]
        command = engine.command(row, setting, file)
        self.progress(f"{row.name}, {engine.name}: {setting.name}")
        rate = engine.parse(self._run(command, (row.name, engine.name)), row)
        if row.kind != SHARE:
            self.progress("", rate)
            return rate, [rate]
        if row.server:
            out = self._run([*self._server, "--model", file, "--context", row.context, "--generate", row.generate,
                             "--concurrency", row.batch], (row.name, "server"))  # fmt: skip
            served = json.loads(out.splitlines()[-1])
            with_company, others = served["tokens_per_second"], [served["whole_run"]]
        else:
            beside = [sys.executable, "-m", "compare.neighbours", row.neighbours, *command]
            with_company, others = engine.parse(self._run(beside, (row.name, engine.name)), row), []
        self.progress("", with_company / rate)
        return with_company / rate, [rate, with_company, *others]

    def _run(self, command, key):
        command = [*self._prefix, *(str(word) for word in command)]
        self.commands[key] = shlex.join(command)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(str(error)) from None
        if done.returncode != 0:
            raise Failed(f"{self.commands[key]}: exit {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
        return done.stdout


def engines_of(row, engines):
    return [e for e in engines if e.name == "nibble"] if row.server else engines


def total(runner, engines, rows, rounds, trying):
    """Measurements of a whole run, at most."""
    runs = [(row, engine) for row in rows for engine in engines_of(row, engines)]
    usable = [(trials_of(row), len(runner.settings(engine, row))) for row, engine in runs]
    return rounds * len(runs) + (sum(times * n for times, n in usable if n > 1) if trying else 0)


def choose_settings(runner, engines, rows, trying, failures):
    """The fastest setting of each engine on each row, by its best trial; the first where not `trying` or where there is
    one: ({row: {engine: {setting: [figure]}}}, {row: {engine: Setting}})."""
    trials, chosen = {}, {}
    for row in rows:
        for engine in engines_of(row, engines):
            usable = runner.settings(engine, row)
            tried = try_settings(runner, engine, row, usable, failures) if trying and len(usable) > 1 else {}
            if tried:
                best = best_setting(tried)
                trials.setdefault(row.name, {})[engine.name] = tried
                usable = [setting for setting in usable if setting.name == best]
            if usable:
                chosen.setdefault(row.name, {})[engine.name] = usable[0]
    return trials, chosen


def try_settings(runner, engine, row, settings, failures):
    """{setting: [figure, ...]}, trials_of(row) for those that are CLOSE to the fastest."""
    tried, close = {}, settings
    for _ in range(trials_of(row)):
        for setting in close:
            try:
                figure = runner.measure(engine, row, setting)[0]
            except (Failed, ValueError) as error:
                failures.append(f"{row.name}, {engine.name}, {setting.name}: {error}")
                continue
            tried.setdefault(setting.name, []).append(figure)
        fastest = max((max(figures) for figures in tried.values()), default=0)
        close = [s for s in settings if s.name in tried and max(tried[s.name]) >= CLOSE * fastest]
    return tried


def rotated(items, by):
    by %= max(1, len(items))
    return items[by:] + items[:by]


def run_rounds(runner, engines, rows, chosen, rounds, failures):
    """{row: [{engine: figure}, ...]} and {row: {engine: [[rates], ...]}}. A round of a row in which an engine failed is
    left out whole: ratios need both sides."""
    figures, rates = {row.name: [] for row in rows}, {row.name: {} for row in rows}
    for number in range(rounds):
        for row in rows:
            taking_part = [e for e in engines_of(row, engines) if e.name in chosen.get(row.name, {})]
            found = {}
            for engine in rotated(taking_part, number):
                try:
                    figure, raw = runner.measure(engine, row, chosen[row.name][engine.name])
                except (Failed, ValueError) as error:
                    failures.append(f"round {number + 1}, {row.name}, {engine.name}: {error}")
                    break
                found[engine.name] = figure
                rates[row.name].setdefault(engine.name, []).append(raw)
            if found and len(found) == len(taking_part):
                figures[row.name].append({e.name: found[e.name] for e in taking_part})
    return figures, rates


class Progress:
    """One line a measurement, with the time left if the others take as long as those before; then its figure."""

    def __init__(self, total, out=sys.stderr, clock=time.monotonic):
        self._total, self._out, self._clock = total, out, clock
        self._done, self._start = 0, clock()

    def __call__(self, text, figure=None):
        if figure is not None:
            print(f"    {figure:,.2f}", file=self._out, flush=True)
            return
        spent = self._clock() - self._start
        left = spent / self._done * (self._total - self._done) if self._done else None
        told = "" if left is None else f", about {left / 60:.0f} min left"
        print(f"[{self._done + 1}/{self._total}, {spent:.0f} s{told}] {text}", file=self._out, flush=True)
        self._done += 1
