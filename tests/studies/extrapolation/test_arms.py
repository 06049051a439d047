"""How arms compare, against hand-worked ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from synthetic_rows import frame, losses

from eltbench import studies
from eltbench.studies import curves


def model(by_loops, **where):
    """Held-out losses by loops, each a list over seeds."""
    seeds = range(len(next(iter(by_loops.values()))))
    return [
        row
        for seed in seeds
        for row in losses({loops: values[seed] for loops, values in by_loops.items()}, seed=seed, **where)
    ]


def lines(rows, metric):
    return [line for line in curves.compared(frame(rows)) if line["metric"] == metric]


ELT = model({1: [0.2, 0.4], 4: [0.1, 0.2], 12: [0.2, 0.4]})


def test_a_variant_is_compared_with_elt_at_every_exit_seed_by_seed():
    rows = ELT + model({1: [0.1, 0.2], 4: [0.11, 0.22]}, role="sandwich-norm")
    found = {line["loops"]: line for line in lines(rows, "gap_to_elt_percent")}
    assert {loops: line["mean"] for loops, line in found.items()} == pytest.approx({1: -50, 4: 10})
    assert [found[4][bound] for bound in ("low", "high")] == pytest.approx([10, 10])  # the same in both seeds
    assert {(line["trainer"], line["role"], line["seeds"]) for line in found.values()} == {("elt", "sandwich-norm", 2)}
    assert found[4]["effective_depth"] == 8


def test_the_interval_is_students_t_over_the_log_ratios():
    ratios = np.array([1.1, 1.3, 0.9])
    rows = model({4: [1, 1, 1]}) + model({4: ratios}, trainer="random-loops")
    (line,) = lines(rows, "gap_to_elt_percent")
    low, high = stats.t.interval(0.95, 2, np.log(ratios).mean(), stats.sem(np.log(ratios)))
    assert (line["low"], line["high"]) == pytest.approx((100 * math.expm1(low), 100 * math.expm1(high)))


def test_trainers_and_variants_of_trainers_are_compared_and_other_sizes_are_not():
    rows = ELT + model({4: [1, 1]}, trainer="deep-supervision")
    rows += model({4: [1, 1]}, trainer="deep-supervision", role="final-weighted")
    rows += model({4: [1, 1]}, role="one-layer-block", unique_layers=1, max_loops=8)
    rows += model({2: [1, 1]}, trainer="no-ilsd", role="dedicated", max_loops=2)
    rows += model({1: [1, 1]}, trainer="unique-depth", role="equal-compute", unique_layers=8, max_loops=1)
    compared = {(line["trainer"], line["role"]) for line in lines(rows, "gap_to_elt_percent")}
    assert compared == {("deep-supervision", "main"), ("deep-supervision", "final-weighted")}


def test_worlds_are_kept_apart():
    rows = ELT + model({4: [0.3, 0.3]}, task="masked") + model({4: [0.6, 0.6]}, task="masked", trainer="no-ilsd")
    (line,) = lines(rows, "gap_to_elt_percent")
    assert (line["task"], line["mean"]) == ("masked", pytest.approx(100))


def test_over_iteration_is_three_times_l_max_over_l_max_of_one_model():
    rows = ELT + model({2: [0.5, 0.5], 6: [0.25, 0.25], 12: [9, 9]}, trainer="no-ilsd", role="short", max_loops=2)
    found = {line["trainer"]: (line["loops"], line["mean"]) for line in lines(rows, "over_iteration_percent")}
    assert found == {"elt": (12, pytest.approx(100)), "no-ilsd": (6, pytest.approx(-50))}


def test_a_seed_or_a_side_that_is_missing_leaves_no_pair():
    rows = ELT + [row for row in model({4: [0.1, 0.1]}, role="variant") if row["seed"] == 1]
    (line,) = lines(rows, "gap_to_elt_percent")
    assert (line["seeds"], line["mean"]) == (1, pytest.approx(-50))
    assert not lines(model({4: [1, 1]}, trainer="no-ilsd"), "gap_to_elt_percent")
    assert not curves.compared(frame(ELT)[:0])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_value_that_is_not_finite_empties_its_line_alone(broken):
    rows = ELT + model({1: [0.1, broken], 4: [0.1, 0.2]}, role="variant")
    found = {line["loops"]: line["mean"] for line in lines(rows, "gap_to_elt_percent")}
    assert math.isnan(found[1])
    assert found[4] == pytest.approx(0)


def test_the_summary_of_extrapolation_shows_the_comparisons_beside_the_curves():
    study = studies.create("extrapolation")
    table = study.summarise(frame(ELT + model({4: [0.1, 0.2]}, role="variant")))
    assert list(table["metric"].value_counts().sort_index().items()) == [
        ("gap_to_elt_percent", 1),
        ("heldout_loss", 4),
        ("over_iteration_percent", 1),
    ]
