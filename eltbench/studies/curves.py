"""Quality by loop count: the summary table and the figure of studies whose rows are curves over L."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from eltbench.statistics import log_ratio, pair_by_seed, paired_interval, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = ["task", "dataset", "backend"]
MODEL = ["trainer", "role", "unique_layers", "max_loops"]
POINT = ["metric", "stratum", "loops", "effective_depth"]
ALONG = ["params", "macs", "higher_is_better", "n_samples", "feature_extractor"]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of every point, then the paired gaps of elt to its controls.

    Columns: CELL, MODEL, POINT, mean, low, high, seeds, and what stands along (params, macs, …). Gaps are in percent of
    the control's held-out loss: `gap_to_dedicated_percent` (the elastic gap) and `gap_to_unique_depth_percent`.
    """
    keys = CELL + MODEL + POINT
    points = []
    for key, group in rows.groupby(keys, dropna=False, sort=True):
        interval = paired_interval(group["value"].to_numpy(float)) if group["value"].notna().all() else None
        spread = {"mean": np.nan, "low": np.nan, "high": np.nan} if interval is None else _spread(interval)
        along = {name: group[name].iloc[0] for name in ALONG}
        points.append({**dict(zip(keys, key, strict=True)), **spread, "seeds": group["seed"].nunique(), **along})
    table = pd.DataFrame([*points, *_gaps(rows)])
    return table.sort_values(keys, na_position="first", ignore_index=True)


def _spread(interval) -> dict[str, float]:
    return {"mean": interval.estimate, "low": interval.low, "high": interval.high}


def _gaps(rows: pd.DataFrame) -> list[dict]:
    """Held-out loss of elt at each exit against a model trained for that depth, and against unique layers."""
    losses = rows[rows["metric"] == "heldout_loss"]
    gaps = []
    for cell, here in losses.groupby(CELL):
        for model, curve in here[(here["trainer"] == "elt") & (here["role"] == "main")].groupby(MODEL):
            same_block = here[(here["trainer"] == "no-ilsd") & (here["unique_layers"] == model[2])]
            trained_for = same_block[same_block["loops"] == same_block["max_loops"]]
            unique = here[here["role"] == "equal-compute"]
            for loops, point in curve.groupby("loops"):
                for name, control in (
                    ("gap_to_dedicated_percent", trained_for[trained_for["loops"] == loops]),
                    ("gap_to_unique_depth_percent", unique[unique["unique_layers"] == model[2] * loops]),
                ):
                    if control.empty:
                        continue
                    sides = (side.set_index("seed")["value"] for side in (point, control))
                    pairs = pair_by_seed(*sides, allow_lone=True)
                    interval = paired_interval(log_ratio(pairs.numerator, pairs.denominator))
                    spread = {bound: percent(value) for bound, value in _spread(interval).items()}
                    gaps.append(
                        {
                            **dict(zip(CELL + MODEL, cell + model, strict=True)),
                            "metric": name,
                            "loops": loops,
                            "effective_depth": model[2] * loops,
                            **spread,
                            "seeds": len(pairs.seeds),
                            "higher_is_better": False,
                        }
                    )
    return gaps


def figure(rows: pd.DataFrame) -> Figure:
    """One row of panels a cell: held-out loss by loops, then kernel distance (images) or the staircase (relay)."""
    from eltbench import figures

    table = summary(rows)
    cells = list(table.groupby(CELL))
    canvas, axes = figures.grid(len(cells), 2)
    for row, (cell, here) in zip(axes, cells, strict=True):
        title = " · ".join(cell[:2])
        figures.loop_curves(row[0], here[here["metric"] == "heldout_loss"], f"{title}: held-out loss", log=True)
        staircase = here[(here["metric"] == "token_accuracy") & here["stratum"].notna()]
        distances = here[here["metric"] == "kernel_distance"]
        if len(staircase):
            figures.staircase(row[1], staircase, f"{title}: furthest distance solved")
        elif len(distances):
            floor = here[here["metric"] == "kernel_distance_of_real_images"]["mean"].mean()
            figures.loop_curves(row[1], distances, f"{title}: kernel distance of samples", floor=floor)
        else:
            row[1].set_axis_off()
    return canvas
