"""Quality by loop count: the summary table and the figure of studies whose rows are curves over L."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from eltbench.evaluation.solving import AS_TRAINED, DIFFICULTY, HARDER
from eltbench.evidence.intervals import NonFiniteError, paired_interval, percent
from eltbench.studies.paired import Sides, log_ratios

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = ["task", "dataset", "backend"]
MODEL = ["trainer", "role", "unique_layers", "max_loops"]
POINT = ["metric", "stratum", "loops", "effective_depth"]
ALONG = ["params", "macs", "higher_is_better", "n_samples", "feature_extractor"]
WHOLE = ["unique_layers", "max_loops", "loops", "effective_depth", "seeds", "params", "macs", "n_samples"]
FAR = 3  # multiple of L_max that the claim over-iteration is about


def summary(rows: pd.DataFrame, cell: Sequence[str] = CELL, further: Sequence[dict[str, Any]] = ()) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of every point, then the paired gaps of models to one another.

    Columns: `cell`, MODEL, POINT, mean, low, high, seeds, and those of ALONG. Gaps are in percent of the other's
    held-out loss: those of elt to its controls, `gap_to_dedicated_percent` (the elastic gap) and
    `gap_to_unique_depth_percent`, and lines of a study's own, such as those of `compared`. Mean and bounds are empty
    where a seed's value is not a finite number.
    """
    keys = [*cell, *MODEL, *POINT]
    table = pd.DataFrame([*points(rows, keys, ALONG), *_in_percent(_controls(rows, cell), cell), *further])
    columns = [*keys, "mean", "low", "high", "seeds", *ALONG]
    return table.astype(dict.fromkeys(WHOLE, "Int64"))[columns].sort_values(
        keys, na_position="first", ignore_index=True
    )


def points(rows: pd.DataFrame, keys: Sequence[str], along: Sequence[str]) -> list[dict[str, Any]]:
    """One line a point: `keys`, which name it, `along`, which its rows share, mean, low, high, and how many seeds.

    reason: the different ones of its rows, where there are any.
    """
    rows = rows.assign(point=rows.groupby(list(keys), dropna=False).ngroup())
    grouped = rows.groupby("point")
    spreads = {point: spread(values) for point, values in grouped["value"]}
    table = rows.drop_duplicates("point").set_index("point")[[*keys, *along]]
    table = table.join(pd.DataFrame(spreads.values(), index=list(spreads), columns=["mean", "low", "high"]))
    table = table.assign(seeds=grouped["seed"].nunique())
    if "reason" in rows:
        told = rows.dropna(subset="reason").drop_duplicates(["point", "reason"]).groupby("point")["reason"]
        table = table.assign(reason=told.agg("; ".join))
    return cast(list[dict[str, Any]], table.to_dict("records"))


def compared(rows: pd.DataFrame, cell: Sequence[str] = CELL) -> list[dict[str, Any]]:
    """Lines of a summary: held-out losses over one another, in percent, paired by seed and within one `cell`.

    gap_to_elt_percent: every other model of elt's size over elt (role main), at each exit: another trainer, or elt with
    another architecture or option. over_iteration_percent: a model's loss at 3·L_max over its own at L_max.
    """
    return _in_percent(_others(rows, cell), cell)


def _in_percent(pairs: Iterable[tuple[str, Sides]], cell: Sequence[str]) -> list[dict[str, Any]]:
    """One line a metric and its two sides, described by the first, where a seed has both."""
    names = [*cell, *MODEL, "loops", "effective_depth", "higher_is_better"]
    return [
        {**_first(sides[0], names), "metric": metric, "seeds": len(effects), **spread_in_percent(effects)}
        for metric, sides in pairs
        if len(effects := log_ratios(*sides))
    ]


def _first(group: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    return {name: group[name].iloc[0] for name in names}


def spread(values: ArrayLike) -> dict[str, float]:
    """Mean and bounds of the interval over seeds, NaN where a value is not finite."""
    try:
        interval = paired_interval(np.asarray(values, float))
    except NonFiniteError:
        return dict.fromkeys(("mean", "low", "high"), math.nan)
    return {"mean": interval.estimate, "low": interval.low, "high": interval.high}


def spread_in_percent(log_ratios: ArrayLike) -> dict[str, float]:
    """The same of log-ratios, as changes in percent."""
    return {bound: percent(value) for bound, value in spread(log_ratios).items()}


def _controls(rows: pd.DataFrame, cell: Sequence[str]) -> Iterator[tuple[str, Sides]]:
    """elt at each exit beside a model trained for that depth, and beside unique layers."""
    for _, here in rows[rows["metric"] == "heldout_loss"].groupby(list(cell)):
        elastic = here[(here["trainer"] == "elt") & (here["role"] == "main")]
        unique = here[(here["role"] == "equal-compute") & (here["trainer"] == "unique-depth")]
        for _, point in elastic.groupby([*MODEL, "loops"]):
            known = point.iloc[0]
            same_block = here[(here["trainer"] == "no-ilsd") & (here["unique_layers"] == known["unique_layers"])]
            same_block = same_block[same_block["role"].isin(["dedicated", "main"])].sort_values("role")
            trained_for = same_block[same_block["loops"] == same_block["max_loops"]]
            trained_for = trained_for.drop_duplicates(["loops", "seed"])  # a dedicated one before the main one
            yield "gap_to_dedicated_percent", (point, trained_for[trained_for["loops"] == known["loops"]])
            yield "gap_to_unique_depth_percent", (point, unique[unique["unique_layers"] == known["effective_depth"]])


def _others(rows: pd.DataFrame, cell: Sequence[str]) -> Iterator[tuple[str, Sides]]:
    """Other models beside elt at each exit, and each model far beyond its L_max beside itself there."""
    losses = rows[rows["metric"] == "heldout_loss"]
    for _, here in losses.groupby([*cell, "unique_layers", "max_loops", "loops"]):
        elastic = (here["trainer"] == "elt") & (here["role"] == "main")
        for _, other in here[~elastic].groupby(["trainer", "role"]):
            yield "gap_to_elt_percent", (other, here[elastic])
    for _, model in losses.groupby([*cell, *MODEL]):
        far, trained = (model[model["loops"] == times * model["max_loops"]] for times in (FAR, 1))
        yield "over_iteration_percent", (far, trained)


def figure(rows: pd.DataFrame) -> Figure:
    """One row of panels a cell: held-out loss by loops, then kernel distance (images) or the staircase (relay).

    Puzzles have the share of harder items that is solved by loops instead, and elt's share by difficulty and loops.
    """
    from eltbench.evidence import figures

    table = summary(rows)
    cells = [here for _, here in table.groupby(CELL)]
    puzzles = table["stratum"].eq(HARDER).any()
    canvas, axes = figures.grid(len(cells), 3 if puzzles else 2)
    for row, here in zip(axes, cells, strict=True):
        title = figures.heading(here[CELL].iloc[0], table)
        unit = " (nats a token)" if here["task"].iloc[0] == "masked" else ""
        losses = here[here["metric"] == "heldout_loss"]
        figures.loop_curves(row[0], losses, title, f"held-out loss{unit}", log=True)
        solved = here[here["metric"] == "solved"]
        if solved["stratum"].eq(HARDER).any():
            figures.loop_curves(row[1], solved[solved["stratum"] == HARDER], title, "share of harder items solved")
            _by_difficulty(row[2], solved[(solved["trainer"] == "elt") & (solved["role"] == "main")], title)
            continue
        for axis in row[2:]:
            axis.set_axis_off()
        staircase = here[(here["metric"] == "token_accuracy") & here["stratum"].notna()]
        distances = here[here["metric"] == "kernel_distance"]
        if len(staircase):
            figures.staircase(row[1], staircase, here[here["metric"] == "reach"], title)
        elif len(distances):
            floor = here[here["metric"] == "kernel_distance_of_real_images"]["mean"].mean()
            figures.loop_curves(row[1], distances, title, "kernel distance of samples", floor=floor)
        else:
            row[1].set_axis_off()
    figures.key(canvas, int(table["seeds"].max()))
    return canvas


def _by_difficulty(axis: Axes, solved: pd.DataFrame, title: str) -> None:
    """The heat map of one model; the hardest trained item is where the counts of easier ones reach that of all such."""
    from eltbench.evidence import figures

    if solved.empty:
        axis.set_axis_off()
        return
    levels = solved[solved["stratum"].str.startswith(DIFFICULTY, na=False)]
    levels = levels.assign(difficulty=levels["stratum"].str.removeprefix(DIFFICULTY).astype(int))
    counts = levels.groupby("difficulty")["n_samples"].first().cumsum()
    trained = solved[solved["stratum"] == AS_TRAINED]["n_samples"]
    within = counts[counts <= trained.iloc[0]] if len(trained) else counts[:0]
    hardest = int(within.index[-1]) if len(within) else None
    figures.heat_map(axis, levels, int(solved["max_loops"].iloc[0]), hardest, f"{title}: elt by difficulty")
