"""What the rows of the throughput study say: a line a cell, metric and role, with interval and prediction."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from eltbench.evidence.intervals import paired_interval

CELL = ["measure", "name", "backend", "device", "mode", "precision", "block", "width", "batch_size", "tokens", "scale"]
DEPTH = ["unique_layers", "max_loops", "effective_depth"]
SIZES = ["regime", "block_bytes", "unique_bytes", "cache_bytes", "assumed"]
PAYS = 1.10  # the ratio above which looping is said to pay: that of the claim
SPILLED = 2  # times the cache that unique layers must exceed: below it a part of them still fits
UNIT = 2**20
BY = ("predicted", "roofline")  # by products in their places, and by the textbook's roofline
COLUMNS = [
    *(*CELL, *DEPTH, *SIZES, "metric", "role", "mean", "low", "high"),
    *("processes", "noisy", *BY, "achieved", "reason"),
]
SHAPE = ("unique_layers", "max_loops", "effective_depth", "width", "batch_size", "tokens")
WHOLE = (*SHAPE, "sampling_steps", "seed", "threads", "block_bytes", "unique_bytes", "cache_bytes")


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per cell, metric and role: geometric mean over processes, its 95 % interval, what was predicted.

    Columns: CELL, DEPTH, SIZES, metric, role, mean, low, high, processes, noisy (how many stayed so), predicted and
    roofline (seconds, ratio or share), achieved (the roofline's over measured seconds), reason (why there is no value).
    """
    lines = []
    measured = whole(rows[rows["measure"] != "ceiling"])
    keys = ["run_id", "metric", "role"]
    foretold = measured["metric"].astype(str).str.startswith(BY)
    told = measured[foretold & (measured["metric"] != "predicted_kernel_seconds")]
    values = told.set_index(keys)["value"].to_dict()
    for (run_id, metric, role), its in measured[~foretold].groupby(keys, dropna=False, sort=False):
        first = its.iloc[0]
        known = {name: first[name] for name in (*CELL, *DEPTH, *SIZES)}
        kind = "seconds" if str(metric).endswith("_seconds") else "share" if metric == "block_share" else "ratio"
        found = {by: values.get((run_id, f"{by}_{kind}", role), math.nan) for by in BY}
        line = {**known, "metric": metric, "role": role, **spread(its["value"]), "processes": len(its)}
        achieved = found["roofline"] / line["mean"] if kind == "seconds" else math.nan
        reason = next((str(text) for text in its["reason"] if pd.notna(text)), None)
        noisy = int(its["noisy"].fillna(False).astype(bool).sum())
        lines.append({**line, "noisy": noisy, **found, "achieved": achieved, "reason": reason})
    return pd.DataFrame(lines, columns=COLUMNS)


def left_out(table: pd.DataFrame) -> pd.DataFrame:
    """Of a summary the lines without a value: `name`, `metric` (skipped_…, failed_…, or of a peer) and `reason`."""
    names = ["name", "metric", "role", "reason"]
    return table.loc[table["reason"].notna(), names].reset_index(drop=True).astype(object).fillna("")


def whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with counts as integers, which pandas reads as floats where some are missing."""
    return rows.astype({name: "Int64" for name in WHOLE if name in rows})


def spread(values: pd.Series) -> dict[str, float]:
    """Geometric mean and bounds of positive values; NaN where one is missing."""
    given = values.to_numpy(float)
    if not len(given) or not np.all(given > 0):
        return dict.fromkeys(("mean", "low", "high"), math.nan)
    interval = paired_interval(np.log(given))
    with np.errstate(over="ignore"):
        bounds = {name: float(np.exp(getattr(interval, name))) for name in ("low", "high")}
    return {"mean": math.exp(interval.estimate), **bounds}
