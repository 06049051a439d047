"""How the arms of a preset compare: each with elt at every exit, and each far beyond its own L_max."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from eltbench.evidence.intervals import percent
from eltbench.studies.curves import CELL, MODEL, spread
from eltbench.studies.paired import Sides, log_ratios

SIZE = ["unique_layers", "max_loops"]
FAR = 3  # multiple of L_max that the claim over-iteration is about


def compared(rows: pd.DataFrame, cell: Sequence[str] = CELL) -> list[dict[str, Any]]:
    """Lines of a summary: held-out losses over one another, in percent, paired by seed and within one `cell`.

    gap_to_elt_percent: every other model of elt's size over elt (role main), at each exit: another trainer, or elt with
    another architecture or option. over_iteration_percent: a model's loss at 3·L_max over its own at L_max.
    """
    losses = rows[rows["metric"] == "heldout_loss"]
    return [
        {**_known(sides[0], cell), "metric": metric, "seeds": len(effects)}
        | {name: percent(value) for name, value in spread(effects).items()}
        for metric, sides in (*_beside_elt(losses, cell), *_far_beyond(losses, cell))
        if len(effects := log_ratios(*sides))
    ]


def _beside_elt(losses: pd.DataFrame, cell: Sequence[str]) -> Iterator[tuple[str, Sides]]:
    for _, here in losses.groupby([*cell, *SIZE, "loops"]):
        elastic = (here["trainer"] == "elt") & (here["role"] == "main")
        for _, other in here[~elastic].groupby(["trainer", "role"]):
            yield "gap_to_elt_percent", (other, here[elastic])


def _far_beyond(losses: pd.DataFrame, cell: Sequence[str]) -> Iterator[tuple[str, Sides]]:
    for _, model in losses.groupby([*cell, *MODEL]):
        far, trained = (model[model["loops"] == times * model["max_loops"]] for times in (FAR, 1))
        yield "over_iteration_percent", (far, trained)


def _known(rows: pd.DataFrame, cell: Sequence[str]) -> dict[str, Any]:
    names = [*cell, *MODEL, "loops", "effective_depth", "higher_is_better"]
    return {name: rows[name].iloc[0] for name in names}
