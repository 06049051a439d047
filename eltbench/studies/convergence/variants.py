"""Variants of elt, each beside elt itself: how λ decays, and which terms of its loss there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from eltbench.core import tables
from eltbench.evidence.claims import Claim, Evidence
from eltbench.studies.convergence.claims import Ended
from eltbench.studies.curves import CELL
from eltbench.studies.paired import log_ratios, ratio_evidence

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
WHERE = [*CELL, "unique_layers", "max_loops", "loops"]
FROM_LINEAR = "loss_change_from_linear_percent"  # of a summary: what `changes` gives, over seeds
HEAD = ("where", "variant of elt", "loss at L_max/2 over linear decay", "at L_max", "seeds")


def cosine_over_linear(rows: pd.DataFrame, claim: Claim) -> Evidence | None:
    """The evidence of one cell for the claim lambda-insensitive; None where a side is missing altogether."""
    elt = rows[(rows["trainer"] == "elt") & rows["role"].isin(["main", "cosine"])]
    if elt["role"].nunique() < 2:
        return None

    def at(metric: str, model: Ended) -> pd.DataFrame:
        here = ended(elt, metric)
        return _at(here[here["role"] == model.role], model.multiple)

    return ratio_evidence(rows, set(elt["seed"]), claim.conditions, at)


def changes(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.Series]]:
    """Every variant (WHERE and role), and its final held-out loss over that with linear decay: log-ratios by seed."""
    losses = ended(rows[rows["trainer"] == "elt"], "heldout_loss")
    for _, here in losses.groupby(WHERE):
        linear = here[here["role"] == "main"]
        for role, variant in here[here["role"].isin(VARIANTS)].groupby("role"):
            effects = log_ratios(variant, linear)
            if len(effects):
                yield {**{name: here[name].iloc[0] for name in WHERE}, "role": role}, effects


def markdown(summary: pd.DataFrame) -> str:
    """The table of documents, from convergence's summary: 95 % intervals, not widened over the lines."""
    return tables.markdown(HEAD, _lines(summary[summary["metric"] == FROM_LINEAR]))


def _lines(found: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for key, here in found.groupby(CELL):
        where = " ".join(map(str, key))
        for role in (name for name in VARIANTS if name in set(here["role"])):
            variant = here[here["role"] == role]
            sides = (_told(_at(variant, multiple)) for multiple in (0.5, 1))
            yield where, role, *sides, str(variant["seeds"].min())
            where = ""


def _told(line: pd.DataFrame) -> str:
    if line.empty or line["mean"].isna().any():
        return "not measured"
    mean, low, high = (f"{line[name].item():+.2f} %" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def ended(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric at the last step of every run."""
    rows = rows[rows["metric"] == metric]
    return rows[rows["training_step"] == rows.groupby("run_id")["training_step"].transform("max")]


def _at(rows: pd.DataFrame, multiple: float) -> pd.DataFrame:
    return rows[rows["loops"] == multiple * rows["max_loops"]]
