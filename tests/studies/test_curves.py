"""Curves over loops: the summary table against scipy and hand-worked numbers, and the figure."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_rows import accuracies, distances, frame, losses

from eltbench.evidence import figures
from eltbench.studies import curves

LOSSES = {1: [0.5, 0.7, 0.9], 2: [0.4, 0.4, 0.7], 4: [0.3, 0.1, 0.2]}


def elastic(values=LOSSES, **model):
    return [
        row
        for seed in range(3)
        for row in losses({loops: by_seed[seed] for loops, by_seed in values.items()}, seed=seed, **model)
    ]


def points(rows, metric="heldout_loss", **where):
    table = curves.summary(frame(rows))
    for name, value in {"metric": metric, **where}.items():
        table = table[table[name] == value]
    return table


# The summary


def test_means_and_intervals_are_students_t_over_seeds():
    table = points(elastic())
    assert list(table["loops"]) == [1, 2, 4]
    for row, values in zip(table.itertuples(), LOSSES.values(), strict=True):
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert (row.mean, row.low, row.high) == pytest.approx((np.mean(values), low, high))
        assert (row.seeds, row.effective_depth) == (3, 2 * row.loops)


def test_one_seed_has_a_mean_and_no_interval():
    (row,) = points(losses({4: 0.3})).itertuples()
    assert (row.mean, row.low, row.high, row.seeds) == (0.3, -math.inf, math.inf, 1)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [None, math.nan, math.inf])
def test_a_seed_that_is_not_finite_empties_its_point_alone(broken):
    rows = elastic({**LOSSES, 2: [0.4, broken, 0.7]}) + elastic({2: [0.4, 0.5, 0.6]}, trainer="no-ilsd", max_loops=2)
    table = points(rows, trainer="elt")
    assert list(table["mean"].isna()) == [False, True, False]
    (gap,) = points(rows, "gap_to_dedicated_percent").itertuples()
    assert math.isnan(gap.mean)
    assert gap.seeds == 3


def test_models_roles_strata_and_worlds_have_lines_of_their_own():
    rows = elastic()
    rows += elastic(trainer="no-ilsd")
    rows += elastic({2: [1, 1, 1]}, trainer="no-ilsd", role="dedicated", max_loops=2)
    rows += elastic(unique_layers=1, role="one-layer-block", max_loops=8)
    rows += elastic(task="masked", dataset="relay")
    rows += accuracies({1: 1, 2: 2}, longest=3)
    assert len(points(rows)) == 3 * 4 + 1
    assert len(points(rows, "token_accuracy")) == 2 * 3


def test_whole_numbers_stay_whole_beside_gaps(tmp_path):
    rows = elastic() + elastic({4: [1, 1, 1]}, trainer="no-ilsd") + distances({4: 0.1}, 0.02)
    table = curves.summary(frame(rows))
    table.to_csv(tmp_path / "summary.csv", index=False, float_format="%.6g")
    again = pd.read_csv(tmp_path / "summary.csv", dtype=str, keep_default_na=False)
    assert set(again["params"]) == {"1234567", ""}  # a gap is the difference of two models
    assert set(again["loops"]) == {"1", "2", "4", ""}  # the floor of real images has no loops
    assert list(again.columns) == [
        *curves.CELL,
        *curves.MODEL,
        *curves.POINT,
        "mean",
        "low",
        "high",
        "seeds",
        *curves.ALONG,
    ]


# Gaps to the controls


def test_the_elastic_gap_is_the_paired_loss_ratio_to_a_model_trained_for_that_depth_in_percent():
    rows = elastic({2: [0.44, 0.22, 0.88], 4: [0.1, 0.2, 0.3]})
    rows += elastic({2: [0.4, 0.2, 0.8]}, trainer="no-ilsd", role="dedicated", max_loops=2)
    rows += elastic({2: [9, 9, 9], 4: [0.1, 0.2, 0.3]}, trainer="no-ilsd")  # trained for 4: its loss at 2 is no control
    rows += elastic({2: [9, 9, 9]}, trainer="no-ilsd", role="dedicated", max_loops=2, unique_layers=1)
    table = points(rows, "gap_to_dedicated_percent")
    assert list(table["loops"]) == [2, 4]
    assert list(table["mean"]) == pytest.approx([10.0, 0.0])
    assert list(table["low"]) == pytest.approx([10.0, 0.0])  # the same in every seed
    assert set(table["trainer"]) == {"elt"}


def test_a_gap_is_the_geometric_mean_over_seeds_with_its_interval():
    rows = elastic({4: [0.5, 0.8, 0.9]}) + elastic({4: [1, 1, 1]}, trainer="no-ilsd")
    (gap,) = points(rows, "gap_to_dedicated_percent").itertuples()
    logs = np.log([0.5, 0.8, 0.9])
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert gap.mean == pytest.approx(100 * (0.36 ** (1 / 3) - 1))
    assert (gap.low, gap.high) == pytest.approx((100 * math.expm1(low), 100 * math.expm1(high)))


def test_the_gap_to_unique_depth_is_taken_where_the_compute_is_equal():
    rows = elastic({2: [0.5, 0.6, 0.7], 4: [0.2, 0.4, 0.8]})
    control = {"trainer": "unique-depth", "role": "equal-compute", "max_loops": 1}
    rows += elastic({1: [0.25, 0.5, 1.0]}, unique_layers=8, **control)  # 8 layers: 4 loops of 2
    (gap,) = points(rows, "gap_to_unique_depth_percent").itertuples()
    assert (gap.loops, gap.effective_depth) == (4, 8)
    assert gap.mean == pytest.approx(-20.0)


def test_a_gap_pairs_the_seeds_that_both_sides_have():
    rows = elastic({4: [0.2, 0.4, 0.8]}) + losses({4: 0.1}, trainer="no-ilsd", seed=1)
    (gap,) = points(rows, "gap_to_dedicated_percent").itertuples()
    assert (gap.mean, gap.seeds) == (pytest.approx(300.0), 1)


def test_without_controls_there_are_no_gaps():
    assert not curves.summary(frame(elastic()))["metric"].str.startswith("gap").any()


# The figure


def images(seeds=3, **world):
    rows = []
    for seed in range(seeds):
        for trainer in ("elt", "no-ilsd"):
            model = {"trainer": trainer, "seed": seed, **world}
            rows += losses({loops: 0.1 + 0.01 * seed / loops for loops in (1, 2, 4, 8)}, **model)
            rows += distances(dict.fromkeys((1, 4), 0.01 * (seed - 1)), 0.02, **model)
        rows += losses({2: 0.1 + seed}, trainer="no-ilsd", role="dedicated", max_loops=2, seed=seed, **world)
        unique = {"trainer": "unique-depth", "role": "equal-compute", "unique_layers": 8, "max_loops": 1}
        rows += losses({1: 0.1}, **unique, seed=seed, **world)
    return rows


def relay(seeds=3, radius=1):
    rows = []
    for seed in range(seeds):
        model = {"seed": seed, "task": "masked", "dataset": "relay"}
        rows += losses({1: 0.9, 2: 0.5, 3: 0.4}, **model)
        rows += accuracies({1: 2, 2: 4, 3: 5}, **model)
        rows += [{**model, "metric": "reach", "loops": loops, "value": 2.0 * loops * radius} for loops in (1, 2, 3)]
    return rows


def lines(axis):
    """Label → (x, y) of the lines that the legend names."""
    return {line.get_label(): line.get_xydata().T for line in axis.lines if not line.get_label().startswith("_")}


def test_rows_of_panels_name_their_backend_where_there_are_several():
    both = [{**row, "backend": backend} for backend in ("torch", "jax") for row in elastic()]
    titles = [axis.get_title() for axis in curves.figure(frame(both)).axes if axis.get_title()]
    assert titles == ["diffusion · digits · jax", "diffusion · digits · torch"]


@pytest.mark.slow
def test_the_figure_has_a_row_of_panels_a_cell_and_names_every_model():
    figure = curves.figure(frame(images() + images(task="masked", dataset="digits-codes") + relay()))
    assert [(axis.get_title(), axis.get_ylabel()) for axis in figure.axes] == [
        ("diffusion · digits", "held-out loss"),
        ("diffusion · digits", "kernel distance of samples"),
        ("masked · digits-codes", "held-out loss (nats a token)"),
        ("masked · digits-codes", "kernel distance of samples"),
        ("masked · relay", "held-out loss (nats a token)"),
        ("masked · relay", "furthest distance solved (accuracy > 0.9)"),
    ]
    (key,) = figure.legends
    assert {text.get_text() for text in key.get_texts()} >= {
        "elt 2N×4L",
        "no-ilsd 2N×4L",
        "no-ilsd 2N, trained for that L",
        "unique-depth 8N×1L (equal-compute)",
        "L_max",
        "real images",
    }
    assert "real images" in lines(figure.axes[1])


def test_the_staircase_stands_beside_the_line_of_the_theorem():
    staircase = lines(curves.figure(frame(relay())).axes[1])
    (theorem,) = [drawn for label, drawn in staircase.items() if label.startswith("theorem")]
    assert theorem.tolist() == [[2, 4, 6], [2, 4, 6]]  # distance = N·L·ρ
    assert staircase["elt 2N×4L"].tolist() == [[2, 4, 6], [2, 4, 5]]


def test_the_theorems_line_knows_the_attention_radius():
    staircase = lines(curves.figure(frame(relay(radius=2))).axes[1])
    (theorem,) = [drawn for label, drawn in staircase.items() if label.startswith("theorem")]
    assert theorem.tolist()[1][0] == 4  # one loop of two layers reaches four cells


def test_without_a_radius_there_is_no_theorem_to_draw():
    rows = frame(relay())
    staircase = lines(curves.figure(rows[rows["metric"] != "reach"]).axes[1])
    assert not [label for label in staircase if label.startswith("theorem")]


def test_a_world_without_samples_has_an_empty_second_panel():
    figure = curves.figure(frame(elastic()))
    assert not figure.axes[1].axison


@pytest.mark.slow
def test_one_seed_draws_its_curves_without_bands_or_warnings(tmp_path):
    figure = curves.figure(frame(images(seeds=1) + relay(seeds=1)))
    figures.save(figure, tmp_path / "figure")  # warnings are errors here
    low, high = figure.axes[0].get_ylim()
    assert 0 < low < 0.1 < high < 10


@pytest.mark.slow
def test_the_same_rows_give_the_same_files(tmp_path):
    rows = frame(images() + relay())
    for name in ("first", "second"):
        figures.save(curves.figure(rows), tmp_path / name)
    for kind in ("png", "pdf"):
        first, second = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("first", "second"))
        assert len(first) > 1000
        assert first == second
