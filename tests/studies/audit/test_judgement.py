"""A row's verdict follows from which conventions fit it and the rows beside it."""

import itertools

import pytest

from eltbench.studies.audit.paper import judgement


def row(model, *values, reported=10.0, fits_at=None):
    """Observations of one row under conventions a, b, …; a value fits within 0.5 of what is reported."""
    return [
        {
            "table": "table",
            "metric": "gflops_k",
            "model": model,
            "reported": reported,
            "convention": name,
            "value": value,
            "fits": None if reported is None else abs(value - reported) <= 0.5,
            "sampling_steps": 8,
            "nearest_steps": 6,
            "value_at_nearest_steps": value * 6 / 8,
            "fits_at_nearest_steps": name == fits_at,
        }
        for name, value in zip("abc", values, strict=False)
    ]


def verdicts(*rows):
    return list(judgement.judged(list(itertools.chain.from_iterable(rows))))


def test_a_fit_names_the_convention_that_fits_most_rows():
    first, second = verdicts(row("one", 10.2, 10.1, 30.0), row("two", 30.0, 9.9, 40.0))
    assert (first["verdict"], first["convention"], first["value"]) == ("fits", "b", 10.1)
    assert (first["conventions"], first["conventions_fitting"]) == (3, 2)
    assert (second["verdict"], second["convention"]) == ("fits", "b")


def test_equals_go_to_the_first_convention():
    (line,) = verdicts(row("one", 10.2, 10.1))
    assert line["convention"] == "a"


def test_another_step_count_counts_only_under_a_convention_that_fits_another_row():
    neighbour = row("one", 30.0, 10.0)
    _, line = verdicts(neighbour, row("two", 20.0, 13.3, fits_at="b"))
    assert (line["verdict"], line["convention"], line["nearest_steps"]) == (judgement.OTHER_STEPS, "b", 6)
    _, line = verdicts(neighbour, row("two", 20.0, 13.3, fits_at="a"))
    assert line["verdict"] == judgement.NONE_FITS


@pytest.mark.parametrize(("values", "nearest"), [((5.0, 19.0), "b"), ((5.5, 19.0), "a")])
def test_where_none_fits_the_nearest_by_ratio_is_named(values, nearest):
    (line,) = verdicts(row("one", *values))
    assert (line["verdict"], line["convention"]) == (judgement.NONE_FITS, nearest)


def test_a_row_without_a_value_or_a_figure_says_so():
    nothing = [{"table": "table", "metric": "fid", "model": "one", "reported": 2.0, "reason": "no samples"}]
    (line,) = verdicts(nothing)
    assert (line["verdict"], line["reason"]) == (judgement.NOT_RECOMPUTED, "no samples")
    _, line = verdicts(row("one", 30.0, 10.0), row("two", 20.0, 13.0, reported=None))
    assert (line["verdict"], line["convention"], line["value"]) == (judgement.NOTHING_REPORTED, "b", 13.0)


def test_a_statement_holds_or_does_not_or_is_open():
    found = [{"value": 1.0, "fits": True}, {"value": 1.0, "fits": False}, {"reason": "why"}]
    assert [line["verdict"] for line in judgement.followed(found)] == ["holds", "does not hold", "cannot be recomputed"]
