"""The pages that show tables of the paper model show those that it makes, beside what was measured."""

import pytest

import gpu_model as model


@pytest.mark.parametrize("path", model.pages(), ids=lambda path: path.name)
def test_a_page_shows_the_tables_of_the_model(path):
    page = path.read_text()
    assert model.with_tables(page, model.pages()[path]) == page, "docs/gpu_model.py --write"


def test_the_short_table_tells_what_was_measured_beside_every_prediction():
    rows = model.short_table().splitlines()[2:]
    found = model.measured()
    for row in rows:
        what, batch, measured, predicted, goals, _, goal = [cell.strip().replace(",", "") for cell in row.split("|")[1:-1]]
        key = (what.split()[0], 0 if "prefill" in what else int(batch))
        assert int(measured) == round(found[key]) or abs(int(measured) / found[key] - 1) < 0.01, row
        assert goal == "-" or int(goal) == model.GOALS[key]
        assert int(predicted) > 0 and int(goals) > 0


def test_nothing_is_above_the_roofline_beside_it():
    for row in model.short_table().splitlines()[2:]:
        *rates, roofline, _ = [cell.strip().replace(",", "") for cell in row.split("|")[3:-1]]
        if roofline != "-":
            assert max(map(int, rates)) < int(roofline), row


MARK = model.BEGIN.format("predictions")


@pytest.mark.parametrize("page", ["no marks", MARK, f"{MARK}\n{model.END}\n{MARK}\n{model.END}\n"])
def test_a_page_without_its_marks_or_with_two_is_refused(page):
    with pytest.raises(ValueError, match="needed one '<!-- predictions"):
        model.with_tables(page, {"predictions": "x"})
