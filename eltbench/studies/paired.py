"""Two sides of a claim, compared seed by seed: the log-ratio of losses, and the second witness of the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eltbench.evidence.claims import Condition, Evidence, Witness
from eltbench.evidence.intervals import log_ratio, pair_by_seed

SAMPLE_SCORES = "sample_scores"  # the metric of the empty row that says why samples were not scored
Sides = tuple[pd.DataFrame, pd.DataFrame]
"""The rows of a numerator and of a denominator, one value a seed in each."""


def ratio_evidence(
    rows: pd.DataFrame, seeds: set[int], conditions: Sequence[Condition], at: Callable[[str, Any], pd.DataFrame]
) -> Evidence:
    """Log-ratios of held-out losses, with the kernel distance as second witness where samples were drawn.

    rows: of one world. seeds: those that every condition should have. conditions: each compares two models; at: from a
    metric and one of these, its rows. Where samples could not be scored there is no verdict.
    """

    def sides(metric: str) -> dict[str, Sides]:
        return {each.name: (at(metric, each.compares[0]), at(metric, each.compares[1])) for each in conditions}

    unscored = rows[rows["metric"] == SAMPLE_SCORES]["reason"]
    losses = sides("heldout_loss")
    effects = {name: log_ratios(*pair) for name, pair in losses.items()}
    without = dict.fromkeys(effects, f"samples were not scored: {unscored.iloc[0]}") if len(unscored) else {}
    without |= {name: said for name, pair in losses.items() if (said := without_ratio(*pair))}
    absent = {name: sorted(seeds - set(effect.index)) for name, effect in effects.items()}
    primary = {name: effect.to_numpy() for name, effect in effects.items()}
    return Evidence(primary, _kernel_witness(rows, sides("kernel_distance")), absent, without)


def log_ratios(numerator: pd.DataFrame, denominator: pd.DataFrame) -> pd.Series:
    """The log-ratio of every seed that both sides have, by seed; NaN where a value is zero or below."""
    pairs = pair_by_seed(_by_seed(numerator), _by_seed(denominator), allow_lone=True)
    sides = (np.where(values <= 0, np.nan, values) for values in (pairs.numerator, pairs.denominator))
    return pd.Series(log_ratio(*sides), index=list(pairs.seeds), dtype=float)


def without_ratio(*sides: pd.DataFrame) -> str:
    """Which seeds have a value that no log-ratio can be taken of; empty where none has."""
    values = pd.concat([side[["seed", "value"]] for side in sides])
    wrong = dict.fromkeys(values[values["value"] <= 0].itertuples(index=False, name=None))
    told = ", ".join(f"{value:g} in seed {seed}" for seed, value in wrong)
    return f"a log-ratio needs values above zero, there are {told}" if told else ""


def _kernel_witness(rows: pd.DataFrame, conditions: Mapping[str, Sides]) -> Witness | None:
    """Kernel-distance differences; the margin is the deviation between two sets of real images of the same size."""
    null = rows[rows["metric"] == "kernel_distance_null_deviation"]["value"]
    if null.empty or not null.iloc[0] > 0:  # images that are all alike differ by nothing
        return None
    effects = {}
    for name, sides in conditions.items():
        pairs = pair_by_seed(*map(_by_seed, sides), allow_lone=True)
        if len(pairs.seeds):
            effects[name] = pairs.numerator - pairs.denominator
    return Witness("kernel_distance", effects, float(null.iloc[0])) if effects else None


def _by_seed(rows: pd.DataFrame) -> pd.Series:
    return rows.set_index("seed")["value"]
