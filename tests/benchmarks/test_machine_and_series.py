"""What is read of /proc, and the points of the plots."""

from compare.machine import cpuinfo, noise, parse_ticks
from compare.rows import PLOT, TABLE
from compare.series import limits_of, points_of, series

CPUINFO = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f sse2\n"


def test_the_cpu_is_named_with_family_and_the_sets_that_matter():
    assert cpuinfo(CPUINFO) == ("AMD EPYC (cpu family 25, model 17)", ["avx2", "avx512f"])


def test_ticks_are_all_idle_and_stolen():
    assert parse_ticks("cpu  10 0 5 70 5 0 1 9 3 0\ncpu0 1\n") == (100, 75, 9)


def test_stolen_time_makes_a_run_not_quiet():
    machine = {"load_before": 0.1, "cores": 2}
    assert noise((0, 0, 0), (1000, 900, 10), machine) == {"steal": 0.01, "quiet": True}
    assert noise((0, 0, 0), (1000, 900, 50), machine) == {"steal": 0.05, "quiet": False}


def test_a_load_before_makes_a_run_not_quiet():
    assert not noise((0, 0, 0), (1000, 0, 0), {"load_before": 1.5, "cores": 2})["quiet"]


def test_a_series_is_sorted_by_what_it_is_drawn_across():
    found = {"median": 1, "min": 1, "max": 1}
    summaries = [{"row": name, "engines": {"nibble": found}} for name in ("batch-4", "decode-1", "batch-2")]
    points = series(TABLE + PLOT, summaries, "batch", lambda row: row.context == 128)
    assert [point[0] for point in points["nibble"]] == [1, 2, 4]


def test_a_bench_without_a_roofline_has_no_points_and_no_limits():
    bench = {"machine": {"cpu": "x"}, "results": [{"test": "decode", "batch": 1}]}
    assert (points_of(bench), limits_of(bench)) == ([], None)


def test_a_roofline_point_is_macs_a_byte_against_macs_a_second():
    result = {"test": "decode", "batch": 8, "context": 128, "prompt_tokens": 0,
              "roofline": {"bytes": 100, "macs": 800, "gmac_per_s": 55.0}}  # fmt: skip
    bench = {"machine": {"bandwidth_gb_per_s": 20.0, "peak_gmac_per_s": 500.0}, "results": [result]}
    assert points_of(bench) == [("decode, batch 8, context 128", 8.0, 55.0)]
    assert limits_of(bench) == (20.0, 500.0)
