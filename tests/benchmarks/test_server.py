"""What of ghz's two runs is decoding, and the share of the server's row."""

import json
import sys

import pytest

from compare.engines import Setting
from compare.measure import Runner
from compare.rows import SHARE, SMOLLM, Row
from compare.server import FEW_TOKENS, rates


class Bench:
    name, settings = "nibble", [Setting("as it is", "Q4_1")]

    def command(self, row, setting, file):
        return [sys.executable, "-c", "print(1000.0)"]

    def parse(self, out, row):
        return float(out)


def test_connecting_and_prefill_cancel():
    prefill, token = 0.5, 0.03
    spans = [prefill + tokens * token for tokens in (FEW_TOKENS, 256)]
    found = rates(32, 256, seconds=spans[1], few_seconds=spans[0])
    assert found["tokens_per_second"] == pytest.approx(32 / token)
    assert found["whole_run"] == pytest.approx(32 * 256 / spans[1]) and found["whole_run"] < found["tokens_per_second"]


@pytest.mark.parametrize("generate, seconds", [(FEW_TOKENS, 9.0), (256, 0.5)])
def test_runs_that_leave_no_span_are_refused(generate, seconds):
    with pytest.raises(ValueError, match="no decode span"):
        rates(32, generate, seconds=seconds, few_seconds=0.5)


def test_the_share_is_of_decoding_and_the_whole_run_is_told():
    served = [sys.executable, "-c", f"print({json.dumps({'tokens_per_second': 900.0, 'whole_run': 850.0})!r})"]
    row = Row("s", "s", "decode", 16, 256, 32, kind=SHARE, server=True)
    runner = Runner({SMOLLM: {"Q4_1": "m1"}}, [], served)
    share, found = runner.measure(Bench(), row, Bench.settings[0])
    assert (share, found) == (pytest.approx(0.9), [1000.0, 900.0, 850.0])
