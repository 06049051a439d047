"""What the claims of the throughput study rest on: one cell at a time; what is missing or noisy says so and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from eltbench.evidence.claims import Cell, Evidence
from eltbench.studies.throughput.cells import counted
from eltbench.studies.throughput.summary import whole

PAIR = (8, 4)  # N and L of the claim train-memory
TRAINING = (  # claim, measure, metric, condition
    ("step-cost", "step", "step_time_ratio", "step-time"),
    ("train-memory", "memory", "peak_memory_ratio", "peak-memory"),
)


def evidence(rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
    """Effects by process of every cell that a claim names; a cell without a value, or a noisy one, gives no verdict."""
    rows = whole(rows)
    found: dict[str, dict[Cell, Evidence]] = {"throughput": {}, "step-cost": {}, "train-memory": {}}
    for its in _cells(rows, ("call", "sampler"), "throughput_ratio"):
        one = its.iloc[0]
        if one["regime"] in ("spills", "fits"):
            steps = one["sampling_steps"]
            what = "network call" if pd.isna(steps) else f"sampler of {counted(int(steps), 'step')}"
            where = f"{one['unique_layers']}N×{one['max_loops']}L against {one['effective_depth']}, {_size(one)}"
            _add(found["throughput"], what, f"{where}, {one['block']}", its, "throughput_ratio", str(one["regime"]))
    for claim, measure, metric, condition in TRAINING:
        for its in _cells(rows, (measure,), metric):
            one = its.iloc[0]
            pair = int(one["unique_layers"]), int(one["max_loops"])
            if claim != "train-memory" or pair == PAIR:  # the pair that the paper names
                where = f"{one['dataset']}, {pair[0]}N×{pair[1]}L, {_size(one)}"
                _add(found[claim], str(one["task"]), where, its, metric, condition)
    return found


def why_nothing(rows: pd.DataFrame, claim: str) -> str:
    """Why no cell of these rows speaks to a claim."""
    if claim == "train-memory":
        return f"no cell trains {PAIR[0]}N×{PAIR[1]}L against {PAIR[0] * PAIR[1]} layers"
    if claim == "step-cost":
        return "no cell times training steps"
    timed = rows[rows["measure"].isin(["call", "sampler"])]
    if len(timed) and timed["cache_bytes"].isna().all():
        return "the system does not say how large its cache is"
    return "no cell has layers that fit into half of the cache, or layers over twice the cache and a block under half"


def _cells(rows: pd.DataFrame, measures: tuple[str, ...], metric: str) -> list[pd.DataFrame]:
    """By cell the rows of a ratio, or of its absence; each has the cell's own N and L."""
    missing = [f"{kind}_{measure}" for kind in ("skipped", "failed") for measure in measures]
    here = rows[rows["measure"].isin(measures) & rows["metric"].isin([metric, *missing])]
    return [its for _, its in here.groupby("run_id", sort=False)]


def _size(one: pd.Series[Any]) -> str:
    scale = "" if pd.isna(one["scale"]) else f", scale {one['scale']}"
    return (
        f"width {one['width']}, {counted(one['tokens'], 'token')}, batch {one['batch_size']}, {one['precision']}, "
        f"threads {one['threads']}{scale}"
    )


def _add(found: dict[Cell, Evidence], task: str, where: str, its: pd.DataFrame, metric: str, condition: str) -> None:
    one = its.iloc[0]
    cell = Cell(task, where, f"{one['backend']} {one['mode']}")
    if cell in found:  # they differ in what the words leave out: heads, guidance
        cell = cell._replace(dataset=f"{where}, cell {one['run_id']}")
    measured = its[its["metric"] == metric].sort_values("seed")
    effects = np.log(measured["value"].to_numpy(float))
    reason = _reason(its[its["metric"] != metric], measured)
    without = {condition: reason} if reason else {}
    counts = (condition,) if metric == "peak_memory_ratio" else ()  # of bytes
    found[cell] = Evidence({condition: effects}, without=without, asks=(condition,), counts=counts)


def _reason(missing: pd.DataFrame, measured: pd.DataFrame) -> str:
    """Why a cell gives no verdict; empty where it does."""
    if len(missing):
        lacking = ", ".join(str(seed) for seed in sorted(missing["seed"]))
        return f"no value in process {lacking}: {missing['reason'].iloc[0]}"
    noisy = int(measured["noisy"].fillna(False).astype(bool).sum())
    return f"noisy in {noisy} of {len(measured)} processes, also after repetition" if noisy else ""
