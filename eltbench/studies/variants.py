"""Variants of elt, each beside elt itself: how λ decays, and which terms of its loss there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from eltbench.claims import Evidence
from eltbench.studies.comparisons import Sides, log_ratios, ratio_evidence
from eltbench.studies.curves import CELL

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
CONDITIONS = {0.5: "half", 1.0: "at-max"}  # multiple of L_max → condition of the claim lambda-insensitive
WHERE = [*CELL, "unique_layers", "max_loops", "loops"]


def cosine_over_linear(rows: pd.DataFrame) -> Evidence | None:
    """The evidence of one cell for the claim lambda-insensitive; None where a side is missing altogether."""
    elt = rows[(rows["trainer"] == "elt") & rows["role"].isin(["main", "cosine"])]
    if elt["role"].nunique() < 2:
        return None

    def sides(metric: str) -> dict[str, Sides]:
        at_end = ended(elt, metric)
        cosine, linear = (at_end[at_end["role"] == role] for role in ("cosine", "main"))
        return {name: (_at(cosine, multiple), _at(linear, multiple)) for multiple, name in CONDITIONS.items()}

    return ratio_evidence(rows, set(elt["seed"]), sides)


def changes(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.Series]]:
    """Every variant's final held-out loss over that of elt with linear decay, at L_max/2 and L_max.

    Yields what says which (WHERE and role) and the log-ratios by seed.
    """
    losses = ended(rows[rows["trainer"] == "elt"], "heldout_loss")
    for _, here in losses.groupby(WHERE):
        linear = here[here["role"] == "main"]
        for role, variant in here[here["role"].isin(VARIANTS)].groupby("role"):
            effects = log_ratios(variant, linear)
            if len(effects):
                yield {**{name: here[name].iloc[0] for name in WHERE}, "role": role}, effects


def ended(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric at the last step of every run."""
    rows = rows[rows["metric"] == metric]
    return rows[rows["training_step"] == rows.groupby("run_id")["training_step"].transform("max")]


def _at(rows: pd.DataFrame, multiple: float) -> pd.DataFrame:
    return rows[rows["loops"] == multiple * rows["max_loops"]]
