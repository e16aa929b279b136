"""What may be chosen, and that the table is the one of the goals."""

import pytest

from compare.rows import PLOT, TABLE, choose


def test_names_are_unique():
    names = [row.name for row in TABLE + PLOT]
    assert len(names) == len(set(names))


def test_all_is_the_table_then_the_plots():
    assert choose(["all"]) == TABLE + PLOT


def test_order_is_the_tables_whatever_was_asked_for_first():
    assert [row.name for row in choose(["server", "prefill"])] == ["prefill", "server"]


def test_quick_leaves_the_plots_out():
    assert choose(["all"], quick=True) == TABLE


def test_plots_asked_for_by_name_stay_when_quick():
    assert [row.name for row in choose(["batch-2"], quick=True)] == ["batch-2"]


def test_a_wrong_name_is_told_with_the_right_ones():
    with pytest.raises(ValueError, match="found 'prefil', needed some of table, .*prefill"):
        choose(["prefil"])


def test_every_row_of_the_table_has_a_floor_and_none_of_the_plots():
    assert all(row.floor is not None for row in TABLE)
    assert all(row.floor is None for row in PLOT)
