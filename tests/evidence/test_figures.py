"""One style for every plot: which distance counts as solved, what is drawn, and files that come out alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from eltbench import trainers
from eltbench.evidence import figures

INTERVALS = "95 % interval over 5 seeds"


def exit_of(accuracies, first=1):
    places = range(first, first + len(accuracies))
    return pd.DataFrame({"distance": list(places), "mean": accuracies})


@pytest.mark.parametrize(
    ("accuracies", "furthest"),
    [
        ([1.0, 1.0, 1.0, 0.25], 3),
        ([0.95, 0.5, 0.99, 0.3], 1),  # what lies behind a gap does not count
        ([0.3, 1.0, 1.0], 0),
        ([1.0, 0.9], 1),  # exactly at the bound is not above it
        ([1.0, 1.0], 2),
        ([1.0, float("nan"), 1.0], 1),  # no number is no solution
    ],
)
def test_the_furthest_distance_solved_is_the_last_before_the_first_that_is_not(accuracies, furthest):
    table = exit_of(accuracies)
    assert figures.furthest_solved(table) == furthest
    assert figures.furthest_solved(table[::-1]) == furthest  # in whatever order


def curve(trainer="elt", role="main", layers=2, deepest=4, loops=(1, 2, 4), mean=0.5, spread=0.1):
    return pd.DataFrame(
        {
            "trainer": trainer,
            "role": role,
            "unique_layers": layers,
            "max_loops": deepest,
            "loops": loops,
            "mean": mean,
            "low": mean - spread,
            "high": mean + spread,
        }
    )


def drawn(table, **settings):
    _, axes = figures.grid(1, 1)
    figures.loop_curves(axes[0, 0], table, "title", "loss", **settings)
    return axes[0, 0]


def test_a_trainer_has_one_colour_in_every_figure_whoever_stands_beside_it():
    alone = drawn(curve("no-ilsd")).lines[0]
    beside = {
        line.get_label(): line for line in drawn(pd.concat([curve("elt"), curve("no-ilsd"), curve("mine")])).lines
    }
    assert beside["no-ilsd 2N×4L"].get_color() == alone.get_color()
    colours = {beside[f"{name} 2N×4L"].get_color() for name in ("elt", "no-ilsd", "mine")}
    assert len(colours) == 3


@pytest.mark.parametrize("below", [0.0325, 0.0322, 0.03, 0.01])
def test_the_line_of_unique_depth_keeps_off_the_ends_of_its_panel(below):
    losses = np.array([0.08, 0.04, 0.0332])
    unique = curve("unique-depth", "equal-compute", 8, 1, loops=(1,), mean=below, spread=0.0)
    axis = drawn(pd.concat([curve(mean=losses, spread=0.0), unique]), log=True)
    low, high = np.log(axis.get_ylim())
    assert 0.04 < (np.log(below) - low) / (high - low) < 0.96


VARIANTS = ("input-injection", "loop-adapters", "loop-embedding", "sandwich-norm")


def test_variants_of_a_trainer_are_told_apart_and_take_no_other_trainers_colour():
    shown = [curve(), curve("no-ilsd"), *(curve(role=role) for role in VARIANTS)]
    lines = {line.get_label(): line for line in drawn(pd.concat(shown)).lines if "2N" in line.get_label()}
    assert list(lines) == ["elt 2N×4L", *(f"elt 2N×4L ({role})" for role in VARIANTS), "no-ilsd 2N×4L"]
    assert (
        len({line.get_color() for line in lines.values()}) == len({line.get_marker() for line in lines.values()}) == 6
    )
    assert {label for label, line in lines.items() if line.get_linestyle() == "-"} == {"elt 2N×4L", "no-ilsd 2N×4L"}


def test_a_panel_that_shows_a_part_of_the_variants_keeps_their_looks():
    whole = pd.concat([curve(), *(curve(role=role) for role in VARIANTS)])
    part = whole[whole["role"].isin(["main", "sandwich-norm"])]
    looks = {model.label: model for model, _ in figures.models(whole)}
    assert [model for model, _ in figures.models(part, beside=whole)] == [
        looks["elt 2N×4L"],
        looks["elt 2N×4L (sandwich-norm)"],
    ]


def test_built_in_trainers_have_looks_of_their_own():
    names = trainers.names()
    looks = [model for model, _ in figures.models(pd.concat([curve(name) for name in names]))]
    assert [look.trainer for look in looks] == names
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == len(names)


@pytest.mark.slow
def test_more_variants_than_colours_are_still_drawn(tmp_path):
    axis = drawn(pd.concat([curve(role=f"variant {number}") for number in range(30)]))
    figures.save(axis.figure, tmp_path / "figure")  # warnings are errors here
    assert len([line for line in axis.lines if "2N" in line.get_label()]) == 30


@pytest.mark.slow
@pytest.mark.parametrize("variants", [3, 30])
def test_the_key_stands_below_all_panels_names_each_once_and_makes_none_smaller(tmp_path, variants):
    canvas, axes = figures.grid(1, 2)
    table = pd.concat([curve(role=f"variant {number}") for number in range(variants)])
    for axis in axes.flat:
        figures.loop_curves(axis, table, "a world", "loss")
    figures.key(canvas, seeds=5)
    figures.save(canvas, tmp_path / "figure")  # which lays it out
    (legend,) = canvas.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == [*(f"elt 2N×4L (variant {number})" for number in sorted(range(variants), key=str)), INTERVALS]
    key = legend.get_window_extent()
    assert 0 <= key.x0 < key.x1 <= canvas.bbox.width
    assert 0 <= key.y0 < key.y1 < min(axis.get_tightbbox().y0 for axis in axes.flat)
    assert axes[0, 0].get_window_extent().height > 0.7 * 3.8 * canvas.dpi


def test_a_panel_with_a_key_of_its_own_is_left_out_of_the_common_one():
    canvas, axes = figures.grid(1, 2)
    figures.loop_curves(axes[0, 0], curve(), "a world", "loss")
    axes[0, 1].plot([1, 2], label="its own")
    axes[0, 1].legend()
    figures.key(canvas)
    assert [text.get_text() for text in canvas.legends[0].get_texts()] == ["elt 2N×4L", "L_max"]


def test_wide_intervals_of_distances_do_not_stretch_their_panel():
    far = curve("no-ilsd", mean=8.0, spread=30.0)
    axis = drawn(pd.concat([curve(mean=0.05, spread=0.01), far]), floor=-0.03)
    low, high = axis.get_ylim()
    assert -0.1 < low < -0.03
    assert 8 < high < 30


def test_bands_are_the_intervals_and_the_trained_depth_is_marked():
    axis = drawn(curve())
    (band,) = axis.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.4, 0.6))
    assert any(set(line.get_xdata()) == {4} for line in axis.lines)


def test_a_control_is_a_lone_marker_and_unique_depth_a_level():
    unique = curve("unique-depth", "equal-compute", layers=8, deepest=1, loops=(1,), mean=0.3)
    axis = drawn(pd.concat([curve(), curve("no-ilsd", "dedicated", deepest=2, loops=(2,)), unique]))
    (control,) = axis.containers
    assert control.get_label() == "no-ilsd 2N, trained for that L"
    (level,) = [line for line in axis.lines if line.get_label() == "unique-depth 8N×1L (equal-compute)"]
    assert set(level.get_ydata()) == {0.3}


@pytest.mark.slow
@pytest.mark.parametrize("log", [False, True])
def test_infinite_and_missing_bounds_are_drawn_as_no_interval_without_a_warning(tmp_path, log):
    open_ended = curve(spread=np.inf)
    lone = curve("no-ilsd", "dedicated", deepest=2, loops=(2,), spread=np.inf)
    nothing = curve("universal-transformer", mean=np.nan)
    axis = drawn(pd.concat([open_ended, lone, nothing]), log=log, floor=float("nan"))
    figures.save(axis.figure, tmp_path / "figure")
    assert np.isfinite(axis.get_ylim()).all()
    assert "real images" not in axis.get_legend_handles_labels()[1]


def test_pictures_have_a_row_a_name_and_a_column_an_image(tmp_path):
    images = np.linspace(-3, 3, 2 * 5 * 8 * 8).reshape(2, 5, 8, 8, 1)  # also beyond what a picture can show
    figure = figures.pictures(images, ["L = 1", "L = 2"], "title")
    assert len(figure.axes) == 10
    assert [axis.get_ylabel() for axis in figure.axes[::5]] == ["L = 1", "L = 2"]
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert shown[0].max() == 0
    assert shown[-1].min() == 1
    assert figures.pictures(np.zeros((1, 1, 8, 8, 3)), ["colour"], "").axes[0].images[0].get_array().shape == (8, 8, 3)


@pytest.mark.slow
def test_a_figure_is_written_whole_twice_the_same_and_readable(tmp_path):
    for name in ("first", "second"):
        figures.save(drawn(curve()).figure, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.pdf", "first.png", "second.pdf", "second.png"]
    for kind in ("pdf", "png"):
        assert (tmp_path / f"first.{kind}").read_bytes() == (tmp_path / f"second.{kind}").read_bytes()
    assert imread(tmp_path / "first.png").ndim == 3
