"""The figure of the study depth_grid: held-out loss, and of puzzles the share solved, by parameters, compute and loops.

Colour is N, from dark to light; the marker is the trainer, hollow for a control; size is the width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from eltbench.evaluation.frontier import pareto_front
from eltbench.evaluation.solving import HARDER
from eltbench.evidence import figures
from eltbench.studies.depth_grid.tables import WORLD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS = matplotlib.colormaps["viridis"]
LIGHTEST = 0.85  # of the colour map; yellow is lost on white
FRONT: dict[str, Any] = {"color": "0.5", "lw": 3, "alpha": 0.4}
BEYOND: dict[str, Any] = {"lw": 0.8, "ls": ":"}
DEPTH: dict[str, Any] = {"color": "0.3", "lw": 1, "ls": "--", "zorder": 1}
LOSS, SOLVED = "held-out loss", "share of items solved"


class Look(NamedTuple):
    """How one model is drawn."""

    colour: Any
    size: float  # of its marker, in points
    face: Any
    marker: str


def figure(table: pd.DataFrame) -> Figure:
    """One row of panels a world, from the table of `frontier.summary`, with the Pareto fronts of the means.

    Puzzles have a second one: the share of items solved that are harder than any trained on, or of all.
    """
    points = table[table["metric"] == "heldout_loss"]
    worlds = [(name, here) for name, here in table.groupby(WORLD) if _known(here[here["metric"] == "heldout_loss"])]
    shown = [(name, metric, points) for name, here in worlds for metric, points in _measured(here)]
    canvas, axes = figures.grid(max(1, len(shown)), 3)
    for row, (names, metric, here) in zip(axes, shown, strict=False):
        share = metric != LOSS
        panel(row[0], here[here["loops"] == here["max_loops"]], "params", "parameters", share=share)
        panel(row[1], here, "macs", "MACs per network call and item", share=share)
        panel(row[2], here, "loops", "loops at inference, L", share=share)
        row[0].set(ylabel=metric)
        row[1].set(title=figures.heading(names, points) if metric == LOSS else "")
    if worlds:
        key = list(_key(points, solved=len(shown) > len(worlds)))
        figures.key_of(canvas, key, [str(handle.get_label()) for handle in key])
    return canvas


def _known(points: pd.DataFrame) -> bool:
    return bool(points["mean"].notna().any())


def _measured(here: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """What one world has panels of: its loss, and of puzzles the share solved."""
    yield LOSS, here[here["metric"] == "heldout_loss"]
    solved = here[here["metric"] == "solved"]
    for name, of in (("share of harder items solved", solved["stratum"] == HARDER), (SOLVED, solved["stratum"].isna())):
        if _known(solved[of]):
            yield name, solved[of]
            return


def panel(axis: Axes, table: pd.DataFrame, cost: str, name: str, *, share: bool = False) -> None:
    """Loss against a cost: a curve over the exits of a looped model up to L_max, a marker there, and what is beyond.

    table: lines of held-out loss of one world, or of a share, of which more is better; then dashes join the unique
    layers, the benefit of depth. The grey steps are the Pareto front, except over loops, which are no cost that models
    share.
    """
    if share:
        axis.set_ylim(-0.02, 1.02)
        unique = table[table["trainer"] == "unique-depth"].sort_values(cost)
        if cost != "loops":  # of which each has one
            axis.plot(unique[cost], unique["mean"], **DEPTH)
    else:
        axis.set_yscale("log")
        figures.plain_ticks(axis, table["mean"])
    axis.set_xscale("log")  # with numbers that people read: 200k, 1M; loops by doubling
    axis.xaxis.set_major_locator(LogLocator(2) if cost == "loops" else LogLocator(10, subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    for look, curve in _looks(table):
        deepest = curve["max_loops"].iloc[0]
        within, beyond = curve[curve["loops"] <= deepest], curve[curve["loops"] >= deepest]
        if len(within) > 1:
            axis.plot(within[cost], within["mean"], color=look.colour, lw=1.2, marker=".", ms=4)
            axis.fill_between(within[cost], *figures.bounds(within), color=look.colour, alpha=0.15, lw=0)
        if len(beyond) > 1:
            axis.plot(beyond[cost], beyond["mean"], color=look.colour, **BEYOND)
        trained = curve[curve["loops"] == deepest]
        (low, high), mean = figures.bounds(trained), trained["mean"].to_numpy(float)
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "ms": look.size, "mfc": look.face}
        above = 3 if look.face == look.colour else 2  # a control hides no main model
        axis.errorbar(trained[cost], mean, [mean - low, high - mean], ls="", capsize=2, zorder=above, **style)
    if cost != "loops":
        front = table[pareto_front(table[cost], -table["mean"] if share else table["mean"])].sort_values(cost)
        axis.step(front[cost], front["mean"], where="post", zorder=0, **FRONT)
    axis.set(xlabel=name)


def _looks(table: pd.DataFrame) -> Iterator[tuple[Look, pd.DataFrame]]:
    """Every model of the table with its look, its exits in order."""
    for width, of_width in table.groupby("width"):
        size = _size(width, table)
        for model, curve in figures.models(of_width, beside=table):
            colour = _colour(curve["unique_layers"].iloc[0], table)
            yield Look(colour, size, colour if model.main else "white", model.marker), curve.sort_values("loops")


def _colour(unique_layers: int, table: pd.DataFrame) -> Any:
    sizes = sorted(set(table["unique_layers"]))
    return BLOCKS(LIGHTEST * sizes.index(unique_layers) / max(1, len(sizes) - 1))


def _size(width: Any, table: pd.DataFrame) -> float:
    widths = sorted(set(table["width"]))
    return 7.0 if len(widths) == 1 else 4.0 + 6.0 * widths.index(width) / (len(widths) - 1)


def _key(table: pd.DataFrame, *, solved: bool) -> Iterator[Line2D]:
    """The key to all panels; solved: whether some show that share."""
    for layers in sorted(set(table["unique_layers"])):
        yield Line2D([], [], color=_colour(layers, table), lw=4, label=f"N = {layers}")
    kinds = dict.fromkeys((model.kind, model.main, model.marker) for model, _ in figures.models(table))
    for kind, main, marker in kinds:
        yield Line2D([], [], color="0.2", marker=marker, mfc="0.2" if main else "white", ls="", label=kind)
    widths = sorted(set(table["width"]))
    for width in widths if len(widths) > 1 else ():
        yield Line2D([], [], color="0.2", marker="o", ms=_size(width, table), ls="", label=f"width {width}")
    yield Line2D([], [], color="0.2", label="beyond L_max", **BEYOND)
    if solved:
        yield Line2D([], [], label="unique layers: the benefit of depth", **DEPTH)
    yield Line2D([], [], label="Pareto front of the means", **FRONT)
