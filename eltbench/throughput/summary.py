"""What the rows of the throughput study say: a line a cell, where looping pays, and the effects that claims judge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from eltbench.claims import Cell, Evidence
from eltbench.statistics import paired_interval

CELL = ["measure", "name", "backend", "device", "mode", "precision", "block", "width", "batch_size", "tokens", "scale"]
SIZES = ["regime", "block_bytes", "unique_bytes", "cache_bytes", "assumed"]
PAYS = 1.10  # the ratio above which looping is said to pay: that of the claim
SPILLED = 2  # times the cache that unique layers must exceed: below it a part of them still fits
PLACE = ["measure", "tokens", "batch_size", "block", "precision", "backend", "mode", "sampling_steps"]
CONDITIONS = ("spills", "fits")
MEMORY_PAIR = (8, 4)  # N and L of the claim train-memory
UNIT = 2**20
COUNTS = ("unique_layers", "max_loops", "width", "batch_size", "tokens", "sampling_steps", "seed", "threads")
WHOLE = (*COUNTS, "block_bytes", "unique_bytes", "cache_bytes")


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per cell, metric and role: geometric mean over processes, its 95 % interval, what was predicted.

    Columns: CELL, unique_layers, max_loops, metric, role, mean, low, high, processes, noisy (how many were, also after
    repetition), predicted (seconds or ratio of the roofline), achieved (predicted over measured seconds: the share of
    the ceiling), SIZES, reason (why there is no value).
    """
    lines = []
    measured = _whole(rows[rows["measure"] != "ceiling"])
    keys = ["run_id", "metric", "role"]
    told = measured[measured["metric"].isin(["predicted_seconds", "predicted_ratio"])]
    predicted = told.set_index(["run_id", "metric", "role"])["value"].to_dict()
    for (run_id, metric, role), its in measured.groupby(keys, dropna=False, sort=False):
        if str(metric).startswith("predicted"):
            continue
        first = its.iloc[0]
        known = {name: first[name] for name in (*CELL, "unique_layers", "max_loops", *SIZES)}
        asked = "predicted_ratio" if metric == "throughput_ratio" else "predicted_seconds"
        found = predicted.get((run_id, asked, role), math.nan)
        if metric not in ("throughput_ratio", "call_seconds", "sample_seconds"):
            found = math.nan
        line = {**known, "metric": metric, "role": role, **spread(its["value"]), "processes": len(its)}
        achieved = found / line["mean"] if str(metric).endswith("_seconds") else math.nan
        reason = next((str(text) for text in its["reason"] if pd.notna(text)), None)
        noisy = int(its["noisy"].fillna(False).astype(bool).sum())
        lines.append({**line, "noisy": noisy, "predicted": found, "achieved": achieved, "reason": reason})
    return pd.DataFrame(lines)


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
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


def quiet(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of one metric of the cells without a noisy process: what a claim may rest on."""
    its = rows[rows["metric"] == metric]
    noisy = its.groupby("run_id")["noisy"].transform(lambda each: each.fillna(False).astype(bool).any())
    return its[~noisy.astype(bool)] if len(its) else its


def evidence(rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
    """Effects by process of the claims that have a region; noisy cells give none."""
    rows = _whole(rows)
    found: dict[str, dict[Cell, Evidence]] = {"throughput": {}, "step-cost": {}, "train-memory": {}}
    for place, here in quiet(rows, "throughput_ratio").groupby(PLACE, dropna=False):
        sides = {name: here[here["regime"] == name] for name in CONDITIONS}
        if all(len(side) for side in sides.values()):
            found["throughput"][_place(dict(zip(PLACE, place, strict=True)))] = _by_process(sides)
    for claim, metric, condition in (
        ("step-cost", "step_time_ratio", "step-time"),
        ("train-memory", "peak_memory_ratio", "peak-memory"),
    ):
        its = quiet(rows, metric)
        if claim == "train-memory":  # whose pair the paper names
            its = its[(its["unique_layers"] == MEMORY_PAIR[0]) & (its["max_loops"] == MEMORY_PAIR[1])]
        for (_, precision), here in its.groupby(["name", "precision"]):
            one = here.iloc[0]
            size = (
                f"digits, {one['unique_layers']}N×{one['max_loops']}L, width {one['width']}, batch {one['batch_size']}"
            )
            cell = Cell(str(one["task"]), f"{size}, {precision}", f"{one['backend']} {one['mode']}")
            found[claim][cell] = _by_process({condition: here})
    return found


def _place(place: dict[str, Any]) -> Cell:
    steps = place["sampling_steps"]
    what = "network call" if pd.isna(steps) else f"sampler of {int(steps)} steps"
    where = f"{place['tokens']} tokens, batch {place['batch_size']}, {place['block']}, {place['precision']}"
    return Cell(what, where, f"{place['backend']} {place['mode']}")


def _by_process(sides: dict[str, pd.DataFrame]) -> Evidence:
    """Log-ratios by process, of each side the mean over its cells; a process that lacks one is absent."""
    effects, absent = {}, {}
    processes = sorted({int(seed) for side in sides.values() for seed in side["seed"]})
    for name, side in sides.items():
        table = side.pivot_table(index="seed", columns="run_id", values="value", aggfunc="first")
        logs = np.log(table.reindex(processes).to_numpy(float)).mean(axis=1)
        effects[name] = logs[~np.isnan(logs)]
        absent[name] = [process for process, value in zip(processes, logs, strict=True) if np.isnan(value)]
    return Evidence(effects, None, absent)


def sentences(rows: pd.DataFrame) -> list[str]:
    """Where looping pays on this machine, one plain sentence for every batch, token count, precision and mode."""
    table = summary(rows)
    if table.empty:
        return []
    calls = table[(table["metric"] == "throughput_ratio") & (table["measure"] == "call") & table["mean"].notna()]
    calls = calls[calls["cache_bytes"].notna() & (calls["noisy"] == 0)]
    calls = calls[calls["unique_bytes"] > SPILLED * calls["cache_bytes"]]
    return [_sentence(*each) for each in _places(calls)]


def _places(calls: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for place, here in calls.groupby(["batch_size", "tokens", "precision", "backend", "mode"], sort=False):
        batch, tokens, precision, backend, mode = place
        yield f"at batch {batch} with {tokens} tokens ({precision}, {backend} {mode})", here.sort_values("block_bytes")


def _sentence(where: str, here: pd.DataFrame) -> str:
    """One place's sentence; `here` in ascending order of block bytes."""
    sizes, ratios = here["block_bytes"].to_numpy(float), here["mean"].to_numpy(float)
    cache = float(here["cache_bytes"].iloc[0])
    gains = f"{ratios.min():.2f}× to {ratios.max():.2f}×" if len(ratios) > 1 else f"{ratios[0]:.2f}×"
    measured = f"measured: {gains} with blocks of {_megabytes(sizes)}; the last cache is {cache / UNIT:.3g} MB"
    at = crossing(sizes, ratios)
    if at is None:
        pays = "pays at every block measured" if ratios[0] > PAYS else "does not pay at any block measured"
    elif math.isnan(at):
        pays = "does not pay at the smallest block measured, but at a larger one"
    else:
        pays = f"pays below about {at / UNIT:.3g} MB of block weights ({at / cache:.2f} of the last cache)"
    return f"looping {pays} {where}, where the unique layers exceed twice the cache ({measured})"


def _megabytes(sizes: np.ndarray) -> str:
    low, high = (f"{size / UNIT:.3g}" for size in (sizes.min(), sizes.max()))
    return f"{low} MB" if low == high else f"{low} to {high} MB"


def crossing(sizes: np.ndarray, ratios: np.ndarray) -> float | None:
    """The block size at which the ratio first falls to PAYS, between sizes (ascending) on a logarithmic scale.

    None where all lie on one side, NaN where the ratio is below PAYS at the smallest and above it at a larger one.
    """
    pays = ratios > PAYS
    if pays.all() or not pays.any():
        return None
    if not pays[0]:
        return math.nan
    after = int(np.argmin(pays))
    (low, high), (above, below) = sizes[after - 1 : after + 1], ratios[after - 1 : after + 1]
    if low == high:
        return float(low)
    share = (above - PAYS) / (above - below)
    return float(low * (high / low) ** share)
