"""`eltbench.plot` draws what the studies draw, and samples of a model by loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from trained_runs import RUNS

import eltbench
from eltbench import plot, studies
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

RESULTS = Path(__file__).parents[2] / "results"
DRAWN = {
    "quality_by_loops": "extrapolation/relay",
    "quality_by_cost": "depth_grid/relay",
    "loss_by_training": "convergence/relay",
    "errors_foreseen": "disagreement/relay",
    "speed_by_sharing": "throughput/cpu",
    "loss_by_rate": "tuning/digits",
    "deviations_of_the_paper": "audit",
}
LATIN = Run(
    "elt",
    "masked",
    "latin",
    architecture=Architecture(unique_layers=1, max_loops=2, width=8, heads=2, block="bert"),
    optimisation=Optimisation(steps=2, batch_size=4, label_dropout=0.0),
)


def untrained(run: Run) -> Model:
    made = parts(run)
    return Model(run, build_engine(run, made), made)


def rows_of(folder: str) -> pd.DataFrame:
    path = RESULTS / folder
    return eltbench.load_rows(path if (path / "rows.parquet").exists() else next(path.parent.iterdir()))


def lines(figure: Figure) -> list[list[tuple[str, np.ndarray]]]:
    return [[(line.get_label(), line.get_xydata()) for line in axis.get_lines()] for axis in figure.axes]


def same(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        len(a) == len(b)
        and all(x[0] == y[0] and np.array_equal(x[1], y[1], equal_nan=True) for x, y in zip(a, b, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_a_study_s_figure_is_drawn_from_its_rows(name):
    rows = rows_of(DRAWN[name])
    ours, theirs = getattr(plot, name)(rows), studies.create(rows["study"].iloc[0]).figure(rows)
    assert isinstance(ours, Figure)
    assert same(lines(ours), lines(theirs))


def test_there_is_a_function_for_every_study():
    assert {folder.partition("/")[0] for folder in DRAWN.values()} == set(studies.registry.builtin)


@pytest.mark.slow
def test_a_curve_by_loops_goes_through_the_means_over_seeds():
    rows = rows_of("extrapolation/relay")
    losses = rows.query("metric == 'heldout_loss' and trainer == 'elt' and role == 'main' and stratum.isna()")
    expected, size = losses.groupby("loops")["value"].mean(), losses.iloc[0]
    drawn = dict(lines(plot.quality_by_loops(rows))[0])
    points = drawn[f"elt {size['unique_layers']}N×{size['max_loops']}L"]
    np.testing.assert_allclose(points, np.stack([expected.index, expected], axis=1))


def test_rows_of_something_else_are_refused():
    rows = pd.DataFrame({"study": ["extrapolation"], "metric": ["solved"]})
    with pytest.raises(ValueError, match=r"give rows of study 'depth_grid', given rows of \['extrapolation'\]"):
        plot.quality_by_cost(rows)
    with pytest.raises(ValueError, match="given none"):
        plot.loss_by_rate(rows[:0])
    with pytest.raises(ValueError, match="hold no heldout_loss"):
        plot.quality_by_loops(rows)


@pytest.mark.slow
def test_samples_stand_by_loops_in_the_order_of_their_labels():
    model, labels = untrained(RUNS["diffusion"]), np.array([7, 1, 1])
    figure = plot.samples_by_loops(model, labels, loops=(1, 3), seed=4, steps=2)
    shown = np.stack([axis.get_images()[0].get_array() for axis in figure.axes]).reshape(2, 3, 8, 8)
    for row, loops in zip(shown, (1, 3), strict=True):
        drawn = np.clip(model.sample(labels, loops, seed=4, steps=2), -1, 1)[..., 0]
        np.testing.assert_array_equal(row, (drawn + 1) / 2)
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == ["L = 1", "L = 3"]


@pytest.mark.slow
def test_a_number_of_samples_takes_the_classes_in_turn():
    model = untrained(RUNS["diffusion"])
    ours, theirs = (plot.samples_by_loops(model, labels, loops=[1], steps=1) for labels in (12, [*range(10), 0, 1]))
    for one, other in zip(ours.axes, theirs.axes, strict=True):
        np.testing.assert_array_equal(one.get_images()[0].get_array(), other.get_images()[0].get_array())


@pytest.mark.slow
def test_puzzles_are_answered_a_row_each():
    model = untrained(LATIN)
    figure = plot.samples_by_loops(model, 3, loops=range(1, 5))
    assert len(figure.axes) == 3 * 5
    assert [axis.get_title() for axis in figure.axes[:5]] == ["puzzle", "L = 1", "L = 2 = L_max", "L = 3", "L = 4"]
    with pytest.raises(ValueError, match="answered without noise"):
        plot.samples_by_loops(model, 3, seed=1)


def test_what_has_no_pictures_or_no_such_loops_says_so():
    with pytest.raises(ValueError, match="holds no images"):
        plot.samples_by_loops(untrained(RUNS["relay"]), 2)
    with pytest.raises(ValueError, match="exit"):
        plot.samples_by_loops(untrained(RUNS["unique"]), 2)
    with pytest.raises(ValueError, match="at least 1 sample"):
        plot.samples_by_loops(untrained(RUNS["diffusion"]), 0)
