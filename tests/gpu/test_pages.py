"""The pages that show tables of the paper model show those that it makes, and say that they are predictions."""

import re

import pytest

import gpu_model as model


@pytest.mark.parametrize("path", model.pages(), ids=lambda path: path.name)
def test_a_page_shows_the_tables_of_the_model(path):
    page = path.read_text()
    assert model.with_tables(page, model.pages()[path]) == page, "docs/gpu_model.py --write"


@pytest.mark.parametrize("path", model.pages(), ids=lambda path: path.name)
def test_no_figure_of_a_gpu_stands_without_the_words_that_none_has_run_it(path):
    page = path.read_text()
    table = page.index(model.BEGIN.format(next(iter(model.pages()[path]))))
    section = max(page.rfind("\n#", 0, table), 0)
    assert "**Never run on a GPU yet.**" in page[section:table]


def test_the_short_table_has_a_row_for_every_goal_and_todays_kernels_in_it():
    rows = model.short_table().splitlines()[2:]
    goals = [int(row.split("|")[-2].replace(",", "")) for row in rows if row.split("|")[-2].strip() != "-"]
    assert sorted(goals) == sorted(model.GOALS.values())
    int4, fp8 = list(model.SETS.values())[-1]
    for kernels, batch in ((int4, 1), (int4, 128), (fp8, 256)):
        (row,) = [row for row in rows if re.match(rf"\| {kernels.name} decode \| {batch} \|", row)]
        for device in model.DEVICES:
            assert f"| {model.number(model.decode_rate(device, kernels, batch))} |" in row


def test_predictions_are_below_the_roofline_beside_them():
    for row in model.short_table().splitlines()[2:]:
        *rates, roofline, _ = [cell.strip().replace(",", "") for cell in row.split("|")[3:-1]]
        if roofline != "-":
            assert max(map(int, rates)) < int(roofline), row


MARK = model.BEGIN.format("predictions")


@pytest.mark.parametrize("page", ["no marks", MARK, f"{MARK}\n{model.END}\n{MARK}\n{model.END}\n"])
def test_a_page_without_its_marks_or_with_two_is_refused(page):
    with pytest.raises(ValueError, match="needed one '<!-- predictions"):
        model.with_tables(page, {"predictions": "x"})
