"""Quality by loop count: the summary table and the figure of studies whose rows are curves over L."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from eltbench.evidence.intervals import NonFiniteError, paired_interval, percent
from eltbench.studies.paired import log_ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = ["task", "dataset", "backend"]
MODEL = ["trainer", "role", "unique_layers", "max_loops"]
POINT = ["metric", "stratum", "loops", "effective_depth"]
ALONG = ["params", "macs", "higher_is_better", "n_samples", "feature_extractor"]
WHOLE = ["unique_layers", "max_loops", "loops", "effective_depth", "seeds", "params", "macs", "n_samples"]


def summary(rows: pd.DataFrame, cell: Sequence[str] = CELL, further: Sequence[dict[str, Any]] = ()) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of every point, then the paired gaps of elt to its controls.

    Columns: `cell`, MODEL, POINT, mean, low, high, seeds, and what stands along (params, macs, …). Gaps are in percent
    of the control's held-out loss: `gap_to_dedicated_percent` (the elastic gap) and `gap_to_unique_depth_percent`. Mean
    and bounds are empty where a seed's value is not a finite number. further: lines of a study's own comparisons.
    """
    keys = [*cell, *MODEL, *POINT]
    points = []
    for _, group in rows.groupby(keys, dropna=False, sort=True):
        known = _first(group, keys + ALONG)
        points.append({**known, **spread(group["value"]), "seeds": group["seed"].nunique()})
    table = pd.DataFrame([*points, *_gaps(rows, cell), *further]).astype(dict.fromkeys(WHOLE, "Int64"))
    columns = [*keys, "mean", "low", "high", "seeds", *ALONG]
    return table[columns].sort_values(keys, na_position="first", ignore_index=True)


def _first(group: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    return {name: group[name].iloc[0] for name in names}


def spread(values: ArrayLike) -> dict[str, float]:
    """Mean and bounds of the interval over seeds, NaN where a value is not finite."""
    try:
        interval = paired_interval(np.asarray(values, float))
    except NonFiniteError:
        return dict.fromkeys(("mean", "low", "high"), math.nan)
    return {"mean": interval.estimate, "low": interval.low, "high": interval.high}


def _gaps(rows: pd.DataFrame, cell: Sequence[str]) -> list[dict[str, Any]]:
    """Held-out loss of elt at each exit against a model trained for that depth, and against unique layers."""
    losses = rows[rows["metric"] == "heldout_loss"]
    gaps = []
    for _, here in losses.groupby(list(cell)):
        elastic = here[(here["trainer"] == "elt") & (here["role"] == "main")]
        unique = here[(here["role"] == "equal-compute") & (here["trainer"] == "unique-depth")]
        for _, point in elastic.groupby([*MODEL, "loops"]):
            known = _first(point, [*cell, *MODEL, "loops", "effective_depth", "higher_is_better"])
            same_block = here[(here["trainer"] == "no-ilsd") & (here["unique_layers"] == known["unique_layers"])]
            same_block = same_block[same_block["role"].isin(["dedicated", "main"])].sort_values("role")
            trained_for = same_block[same_block["loops"] == same_block["max_loops"]]
            trained_for = trained_for.drop_duplicates(["loops", "seed"])  # a dedicated one before the main one
            for name, control in (
                ("gap_to_dedicated_percent", trained_for[trained_for["loops"] == known["loops"]]),
                ("gap_to_unique_depth_percent", unique[unique["unique_layers"] == known["effective_depth"]]),
            ):
                effects = log_ratios(point, control)
                if len(effects):
                    found = spread(effects)
                    in_percent = {bound: percent(value) for bound, value in found.items()}
                    gaps.append({**known, "metric": name, **in_percent, "seeds": len(effects)})
    return gaps


def figure(rows: pd.DataFrame) -> Figure:
    """One row of panels a cell: held-out loss by loops, then kernel distance (images) or the staircase (relay)."""
    from eltbench.evidence import figures

    table = summary(rows)
    cells = [here for _, here in table.groupby(CELL)]
    canvas, axes = figures.grid(len(cells), 2)
    for row, here in zip(axes, cells, strict=True):
        title = figures.heading(here[CELL].iloc[0], table)
        figures.loop_curves(row[0], here[here["metric"] == "heldout_loss"], f"{title}: held-out loss", log=True)
        staircase = here[(here["metric"] == "token_accuracy") & here["stratum"].notna()]
        distances = here[here["metric"] == "kernel_distance"]
        if len(staircase):
            figures.staircase(row[1], staircase, here[here["metric"] == "reach"], f"{title}: furthest distance solved")
        elif len(distances):
            floor = here[here["metric"] == "kernel_distance_of_real_images"]["mean"].mean()
            figures.loop_curves(row[1], distances, f"{title}: kernel distance of samples", floor=floor)
        else:
            row[1].set_axis_off()
    return canvas
