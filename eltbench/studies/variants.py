"""Variants of elt, each beside elt itself: how λ decays, and which terms of its loss there are."""

from __future__ import annotations

from typing import Any

import pandas as pd

from eltbench.claims import Evidence, Witness
from eltbench.statistics import log_ratio

CELL = ["task", "dataset", "backend"]
SIZE = ["unique_layers", "max_loops"]
VARIANTS: dict[str, dict[str, Any]] = {  # role of an arm → its trainer options; role main is elt as in the paper
    "cosine": {"decay": "cosine"},
    "step": {"decay": "step"},
    "early-only": {"decay": "early-only"},
    "constant-1": {"decay": "constant-1"},
    "constant-0": {"decay": "constant-0"},
    "no-teacher": {"teacher": False},
    "no-student": {"student": False},
    "no-distillation": {"distillation": False},
}
EXITS = {0.5: "half", 1.0: "at-max"}  # multiple of L_max → condition of the claim lambda-insensitive


def beside_linear(rows: pd.DataFrame, metric: str = "heldout_loss") -> pd.DataFrame:
    """A metric of every variant at the end of its training beside that of elt with linear decay, seed by seed.

    Columns: CELL, SIZE, role, condition ("half", "at-max"), loops, seed, variant and linear (the two values). A seed
    that one side lacks is left out.
    """
    rows = rows[(rows["trainer"] == "elt") & (rows["metric"] == metric)]
    rows = rows[rows["training_step"] == rows.groupby("run_id")["training_step"].transform("max")]
    rows = rows.assign(condition=(rows["loops"] / rows["max_loops"]).map(EXITS)).dropna(subset="condition")
    keys = [*CELL, *SIZE, "condition", "loops", "seed"]
    linear = rows[rows["role"] == "main"][[*keys, "value"]].rename(columns={"value": "linear"})
    others = rows[rows["role"].isin(VARIANTS)][[*keys, "role", "value"]].rename(columns={"value": "variant"})
    return others.merge(linear, on=keys, validate="many_to_one").sort_values([*keys, "role"], ignore_index=True)


def cosine_over_linear(rows: pd.DataFrame) -> Evidence | None:
    """The evidence of one cell for the claim lambda-insensitive; None where it lacks a side.

    The second witness is the difference of kernel distances, its margin what two sets of real images differ by.
    """
    elt = rows[rows["trainer"] == "elt"]
    seeds = {role: set(elt[elt["role"] == role]["seed"]) for role in ("main", "cosine")}
    if not all(seeds.values()):
        return None
    effects, absent, distances = {}, {}, {}
    losses, kernels = (beside_linear(rows, metric) for metric in ("heldout_loss", "kernel_distance"))
    for condition in EXITS.values():
        pairs, drawn = (
            each[(each["role"] == "cosine") & (each["condition"] == condition)] for each in (losses, kernels)
        )
        effects[condition] = log_ratio(pairs["variant"], pairs["linear"])
        absent[condition] = sorted(set.union(*seeds.values()) - set(pairs["seed"]))
        if len(drawn):
            distances[condition] = (drawn["variant"] - drawn["linear"]).to_numpy()
    null = rows[rows["metric"] == "kernel_distance_null_deviation"]["value"]
    second = Witness("kernel_distance", distances, float(null.iloc[0])) if distances and null.iloc[0] > 0 else None
    return Evidence(effects, second, absent)
