"""What a study publishes of a held-out evaluation: rows by exit, and the loss of every item."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from eltbench.config import Architecture
from eltbench.evaluation.heldout import Heldout


def heldout_rows(losses: Heldout, architecture: Architecture) -> list[dict[str, Any]]:
    """The loss at each exit; where the world has strata, the accuracy by distance and, under a radius, the reach."""
    rows: list[dict[str, Any]] = [
        _row("heldout_loss", loops, value, losses.weights.size)
        for loops, value in zip(losses.exits, losses.losses, strict=True)
    ]
    if losses.correct is None:
        return rows
    radius = architecture.attention_radius
    for loops, correct in zip(losses.exits, losses.correct, strict=True):
        for stratum, value, seen in zip(losses.strata, correct, losses.seen, strict=True):
            row = _row("token_accuracy", loops, value, seen, higher_is_better=True)
            rows.append({**row, "stratum": f"distance {stratum}"})
        if radius is not None:  # the theorem's line: N·L·ρ
            rows.append(
                {"loops": loops, "metric": "reach", "value": float(architecture.unique_layers * loops * radius)}
            )
    return rows


def item_table(losses: Heldout) -> pd.DataFrame:
    """One line per exit, draw and item: loops, draw, item, loss and weight."""
    draws, items = losses.weights.shape
    return pd.DataFrame(
        {
            "loops": np.repeat(losses.exits, draws * items),
            "draw": np.tile(np.repeat(np.arange(draws), items), len(losses.exits)),
            "item": np.tile(np.arange(items), len(losses.exits) * draws),
            "loss": losses.errors.ravel(),
            "weight": np.tile(losses.weights.ravel(), len(losses.exits)),
        }
    )


def _row(metric: str, loops: int, value: float, counted: int, *, higher_is_better: bool = False) -> dict[str, Any]:
    return {
        "loops": loops,
        "split": "heldout",
        "metric": metric,
        "value": float(value),
        "higher_is_better": higher_is_better,
        "n_samples": counted,
    }
