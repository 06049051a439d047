"""Quality against cost: the summary table against numbers worked by hand, and what the figure draws of it."""

from __future__ import annotations

import math

import matplotlib.colors
import numpy as np
import pytest
from grid_rows import DEDICATED, ELT_1X8, ELT_2X4, UNIQUE, curve, seconds, table
from scipy import stats
from synthetic_rows import losses

from eltbench.evaluation.solving import HARDER
from eltbench.evidence import figures
from eltbench.studies.depth_grid import figure as frontier_figure
from eltbench.studies.depth_grid import tables as frontier
from eltbench.studies.depth_grid.study import Trained

# Two seeds of one small grid. MACs are the effective depth: 1N×8L is read at 1 to 8 layers, 2N×4L at 2, 4 and 8.
SMALL = {1: 0.9, 2: 0.7, 4: 0.5, 8: 0.6, 12: 0.4}  # rises once on its way to L_max
LARGE = {1: 0.6, 2: 0.55, 4: 0.3}


def grid(seeds=(0, 1), shift=0.0):
    rows = []
    for seed in seeds:
        for model, by_loops in ((ELT_1X8, SMALL), (ELT_2X4, LARGE), (UNIQUE, {1: 0.35})):
            rows += curve(model, {loops: loss + shift * seed for loops, loss in by_loops.items()}, seed)
    return rows


def lines(rows, metric="heldout_loss", **where):
    found = frontier.summary(table(rows))
    for name, value in {"metric": metric, **where}.items():
        found = found[found[name] == value]
    return found


# One line per model and exit


def test_every_exit_has_a_line_with_its_interval_and_costs():
    rows = grid(shift=0.01) + seconds(ELT_2X4, {4: 0.5}, 0) + seconds(ELT_2X4, {4: 0.7}, 1)
    (line,) = lines(rows, unique_layers=2, loops=4).itertuples()
    low, high = stats.t.interval(0.95, 1, 0.305, stats.sem([0.3, 0.31]))
    assert (line.mean, line.low, line.high) == pytest.approx((0.305, low, high))
    assert (line.params, line.macs, line.effective_depth, line.width, line.seeds) == (2, 8, 8, 64, 2)
    assert line.seconds == pytest.approx(0.6)
    assert len(lines(rows)) == len(SMALL) + len(LARGE) + 1


def test_membership_of_the_front_is_a_share_of_seeds():
    rows = grid()
    for row in rows:
        if row["seed"] == 1 and (row["unique_layers"], row["loops"]) == (2, 2):
            row["value"] = 0.45  # in one seed of two it beats the one-layer block at four layers' compute
    found = lines(rows).set_index(["unique_layers", "loops"])
    expected = {
        # by compute          1N: 1    2    4    8    12; 2N: 1   2    4;   unique
        "front_compute": [1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.5, 1.0, 0.0],
        # by parameters: the best exit of each block, unless a smaller one is as good
        "front_parameters": [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0],
    }
    order = [(1, loops) for loops in SMALL] + [(2, loops) for loops in LARGE] + [(8, 1)]
    for name, shares in expected.items():
        assert list(found.loc[order, name]) == shares
    assert found["front_seconds"].isna().all()  # nothing was timed


def test_the_front_by_seconds_holds_the_timed_points_alone():
    rows = grid()
    for seed in (0, 1):
        rows += seconds(ELT_1X8, {1: 1.0, 8: 9.0}, seed) + seconds(UNIQUE, {1: 8.0}, seed)
    found = lines(rows).set_index(["unique_layers", "loops"])["front_seconds"].dropna()
    assert found.to_dict() == {(1, 1): 1.0, (1, 8): 0.0, (8, 1): 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("unlike", [{"host": "elsewhere"}, {"threads": 2}, {"batch_size": 64}, {"device": "cuda"}])
def test_times_of_unlike_conditions_are_not_compared(unlike):
    alike = grid() + seconds(ELT_1X8, {8: 9.0}, 0) + seconds(UNIQUE, {1: 8.0}, 0)
    apart = [{**row, **unlike} if row["metric"] == "call_seconds" and row["role"] != "main" else row for row in alike]
    for rows, known in ((alike, 2), (apart, 0)):
        found = lines(rows)
        assert found["seconds"].notna().sum() == found["front_seconds"].notna().sum() == known


def test_gaps_to_the_controls_compare_models_of_one_width():
    rows = grid() + curve(DEDICATED[4], {4: 0.25}, 0) + curve(DEDICATED[4], {4: 0.1}, 0, width=32)
    (line,) = lines(rows, "gap_to_dedicated_percent").itertuples()
    assert (line.unique_layers, line.loops, line.width) == (2, 4, 64)
    assert line.mean == pytest.approx(100 * (0.3 / 0.25 - 1))


@pytest.mark.slow
def test_a_variant_stands_beside_elt_of_its_own_size_and_width_seed_by_seed():
    rows = grid(shift=0.1) + curve(DEDICATED[4], {4: 0.2}, 0)  # a control is compared by its gap
    toggle = Trained("elt", "input-injection", 2, 4)
    for seed, loss in ((0, 0.33), (1, 0.44)):
        rows += curve(toggle, {4: loss}, seed) + curve(toggle, {4: 9.0}, seed, width=32)
    rows += curve(toggle._replace(unique_layers=4, max_loops=2), {2: 9.0})  # without elt of its size
    (line,) = lines(rows, "gap_to_elt_percent").itertuples()
    assert (line.role, line.unique_layers, line.max_loops, line.loops, line.width) == ("input-injection", 2, 4, 4, 64)
    assert (line.mean, line.low, line.high, line.seeds) == pytest.approx((10, 10, 10, 2))
    assert frontier_figure.figure(frontier.summary(table(rows))).axes


# Of every trainer


def test_the_hypervolume_of_a_trainer_lies_below_the_worst_model_at_its_own_depth():
    found = lines(grid(), "hypervolume").set_index("trainer")["mean"]
    top, end = 0.6, math.log(12)  # 1N×8L at 8 loops; twelve layers
    # of elt 0.5 at four layers and 0.3 at eight lie below the top; 0.6 at two does not
    assert found["elt"] == pytest.approx((top - 0.5) * (end - math.log(4)) + (0.5 - 0.3) * (end - math.log(8)))
    assert found["unique-depth"] == pytest.approx((top - 0.35) * (end - math.log(8)))


def test_the_area_of_a_trainer_is_the_mean_over_ln_compute_of_the_best_loss():
    rows = grid() + [row for seed in (0, 1) for loops in (1, 2) for row in curve(DEDICATED[loops], {loops: 0.8}, seed)]
    found = lines(rows, "area_under_curve").set_index("trainer")["mean"]
    assert set(found.index) == {"elt", "no-ilsd"}  # unique layers have one point here
    widths = np.diff(np.log([2, 4, 8, 12]))  # from the cheapest point of no-ilsd to the dearest of all
    assert found["elt"] == pytest.approx(np.average([0.6, 0.5, 0.3], weights=widths))
    assert found["no-ilsd"] == pytest.approx(0.8)


def test_violations_are_the_share_of_steps_up_to_the_trained_depth_that_raise_the_loss():
    (line,) = lines(grid(), "monotonicity_violations").itertuples()
    assert line.trainer == "elt"
    assert line.mean == pytest.approx(1 / (3 + 2))
    assert (line.low, line.high, line.seeds) == pytest.approx((0.2, 0.2, 2))


def test_what_is_said_of_trainers_has_intervals_over_seeds():
    rows = grid()
    for row in rows:
        if row["seed"] == 1 and (row["unique_layers"], row["loops"]) == (1, 8):
            row["value"] = 0.45
    (line,) = lines(rows, "monotonicity_violations").itertuples()
    low, high = stats.t.interval(0.95, 1, 0.1, stats.sem([0.2, 0.0]))
    assert (line.mean, line.low, line.high) == pytest.approx((0.1, low, high))


@pytest.mark.slow
def test_a_seed_that_lost_a_run_does_not_speak_for_its_trainer():
    rows = [row for row in grid(seeds=(0, 1, 2)) if (row["seed"], row["unique_layers"]) != (1, 2)]
    for metric in ("hypervolume", "area_under_curve", "monotonicity_violations"):
        (found,) = lines(rows, metric, trainer="elt").itertuples()
        (whole,) = lines(grid(seeds=(0, 2)), metric, trainer="elt").itertuples()
        assert (found.mean, found.seeds) == (whole.mean, 2)


def test_worlds_have_fronts_of_their_own():
    other = [{**row, "world": "relay colours=24", "value": row["value"] / 9} for row in grid()]
    alone, both = lines(grid()), lines(grid() + other, world="digits")
    for name in ("front_compute", "front_parameters"):
        assert list(alone[name]) == list(both[name])


def test_rows_without_losses_give_a_table_all_the_same():
    assert list(lines(seconds(ELT_1X8, {8: 0.1}), "call_seconds")["mean"]) == [0.1]


@pytest.mark.slow
@pytest.mark.parametrize("broken", [None, math.nan, math.inf])
def test_a_model_that_diverged_is_on_no_front_and_dominates_nothing(broken):
    rows = grid(seeds=(0,)) + curve(DEDICATED[4], {4: broken})
    assert (lines(rows, trainer="no-ilsd")["front_compute"] == 0).all()
    assert list(lines(rows, "hypervolume", trainer="no-ilsd")["mean"]) == [0.0]
    assert list(lines(rows, "hypervolume", trainer="elt")["mean"]) == list(
        lines(grid(seeds=(0,)), "hypervolume", trainer="elt")["mean"]
    )
    assert frontier_figure.figure(frontier.summary(table(rows))).axes


# The figure


def drawn(rows, cost="macs"):
    _, axes = figures.grid(1, 1)
    frontier_figure.panel(axes[0, 0], lines(rows), cost, "cost")
    return axes[0, 0]


def markers(axis):
    """Where every model's own depth is drawn: (x, y) → (marker, hollow)."""
    first = [container.lines[0] for container in axis.containers]
    return {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])): (
            line.get_marker(),
            matplotlib.colors.to_hex(line.get_markerfacecolor()) == "#ffffff",
        )
        for line in first
    }


def test_a_model_is_marked_at_its_own_depth_and_a_control_hollow():
    expected = {(8.0, 0.6): ("o", False), (8.0, 0.3): ("o", False), (8.0, 0.35): ("D", True)}
    assert markers(drawn(grid())) == expected
    assert set(markers(drawn(grid(), "loops"))) == {(8.0, 0.6), (4.0, 0.3), (1.0, 0.35)}


def test_the_front_is_drawn_against_costs_and_not_against_loops():
    def fronts(axis):
        return [line for line in axis.lines if line.get_drawstyle() == "steps-post"]

    (front,) = fronts(drawn(grid()))
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(1, 0.9), (2, 0.6), (4, 0.5), (8, 0.3)]
    assert not fronts(drawn(grid(), "loops"))


def test_blocks_have_colours_widths_have_sizes_and_both_are_in_the_key():
    rows = grid() + curve(ELT_2X4, {4: 0.4}, width=32)
    canvas = frontier_figure.figure(frontier.summary(table(rows)))
    said = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert said == [
        *(f"N = {layers}" for layers in (1, 2, 8)),
        "elt",
        "unique-depth, a control",
        "width 32",
        "width 64",
        "beyond L_max",
        "Pareto front of the means",
    ]
    lone = [container.lines[0] for container in canvas.axes[1].containers]
    assert len({line.get_color() for line in lone}) == 3
    assert sorted({line.get_markersize() for line in lone}) == [4, 10]


@pytest.mark.slow
def test_every_world_has_a_row_of_three_panels_and_nothing_at_all_is_drawn_too(tmp_path):
    rows = grid() + losses({1: 0.5, 8: 0.2}, world="relay", task="masked", dataset="relay", max_loops=8, params=9)
    canvas = frontier_figure.figure(frontier.summary(table([{"macs": 5, **row} for row in rows])))
    figures.save(canvas, tmp_path / "figure")
    assert len(canvas.axes) == 6
    assert [axis.get_title() for axis in canvas.axes if axis.get_title()] == ["diffusion · digits", "masked · relay"]
    figures.save(frontier_figure.figure(frontier.summary(table(seconds(ELT_1X8, {8: 0.1})))), tmp_path / "nothing")


def test_puzzles_have_a_second_row_of_the_harder_items_solved_in_which_dashes_join_unique_layers():
    deep = [("unique-depth", "equal-compute", layers, 1) for layers in (1, 2, 8)]
    shares = {deep[0]: {1: 0.1}, deep[1]: {1: 0.2}, deep[2]: {1: 0.5}, ELT_2X4: {2: 0.15, 4: 0.7}}
    rows = []
    for model, by_loops in shares.items():
        rows += curve(model, {loops: 1 - share for loops, share in by_loops.items()})
        solved = [{**row, "metric": "solved"} for row in curve(model, by_loops)]
        rows += [{**row, "stratum": HARDER} for row in solved] + [{**row, "value": 0.95} for row in solved]
    canvas = frontier_figure.figure(frontier.summary(table(rows)))
    assert [axis.get_ylabel() for axis in canvas.axes[::3]] == ["held-out loss", "share of harder items solved"]
    by_macs = canvas.axes[4]
    assert markers(by_macs)[8.0, 0.7] == ("o", False)
    (joined,) = [line for line in by_macs.lines if line.get_linestyle() == "--"]
    assert list(zip(joined.get_xdata(), joined.get_ydata(), strict=True)) == [(1, 0.1), (2, 0.2), (8, 0.5)]
    (front,) = [line for line in by_macs.lines if line.get_drawstyle() == "steps-post"]
    assert list(front.get_ydata()) == [0.1, 0.2, 0.7]  # more is better: eight unique layers are beaten at their compute
    assert "unique layers: the benefit of depth" in [text.get_text() for text in canvas.legends[0].get_texts()]
