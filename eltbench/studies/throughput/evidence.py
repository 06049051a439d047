"""What the claims of the throughput study rest on: one cell at a time; what is missing or noisy says so and why."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eltbench.evidence.claims import Cell, Evidence
from eltbench.studies.throughput.cells import counted
from eltbench.studies.throughput.summary import whole

PAIR = (8, 4)  # N and L of the claim train-memory, those that the paper names
ASKED = {  # claim → measures, metric, condition; of throughput the regime is the condition
    "throughput": (("call", "sampler"), "throughput_ratio", ""),
    "step-cost": (("step",), "step_time_ratio", "step-time"),
    "train-memory": (("memory",), "peak_memory_ratio", "peak-memory"),
}


def evidence(rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
    """Effects by process of every cell that a claim names; a cell without a value, or a noisy one, gives no verdict."""
    rows = whole(rows)
    found: dict[str, dict[Cell, Evidence]] = {}
    for claim, (measures, metric, condition) in ASKED.items():
        found[claim] = {}
        missing = [f"{kind}_{measure}" for kind in ("skipped", "failed") for measure in measures]
        here = rows[rows["measure"].isin(measures) & rows["metric"].isin([metric, *missing])]
        for run_id, its in here.groupby("run_id", sort=False):
            one = its.iloc[0]
            pair = int(one["unique_layers"]), int(one["max_loops"])
            asked = condition or str(one["regime"])
            if asked not in ("spills", "fits", condition) or (claim == "train-memory" and pair != PAIR):
                continue
            scale = "" if pd.isna(one["scale"]) else f", scale {one['scale']}"
            size = (
                f"width {one['width']}, {counted(one['tokens'], 'token')}, batch {one['batch_size']}, "
                f"{one['precision']}, threads {one['threads']}{scale}"
            )
            task, where = str(one["task"]), f"{one['dataset']}, {pair[0]}N×{pair[1]}L, {size}"
            if claim == "throughput":
                steps = one["sampling_steps"]
                task = "network call" if pd.isna(steps) else f"sampler of {counted(int(steps), 'step')}"
                where = f"{pair[0]}N×{pair[1]}L against {one['effective_depth']}, {size}, {one['block']}"
            cell = Cell(task, where, f"{one['backend']} {one['mode']}")
            if cell in found[claim]:  # they differ in what the words leave out: heads, guidance
                cell = cell._replace(dataset=f"{where}, cell {run_id}")
            found[claim][cell] = _effects(its, metric, asked)
    return found


def _effects(its: pd.DataFrame, metric: str, condition: str) -> Evidence:
    """The ratios of one cell by process, and why it gives no verdict where it does not."""
    measured, missing = its[its["metric"] == metric].sort_values("seed"), its[its["metric"] != metric]
    noisy, reason = int(measured["noisy"].fillna(False).astype(bool).sum()), ""
    if len(missing):
        lacking = ", ".join(str(seed) for seed in sorted(missing["seed"]))
        reason = f"no value in process {lacking}: {missing['reason'].iloc[0]}"
    elif noisy:
        reason = f"noisy in {noisy} of {len(measured)} processes, also after repetition"
    effects = {condition: np.log(measured["value"].to_numpy(float))}
    counts = (condition,) if metric == "peak_memory_ratio" else ()  # of bytes
    return Evidence(effects, without={condition: reason} if reason else {}, asks=(condition,), counts=counts)


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
