"""Past L_max, model by model: the table of documents that shows what a toggle or another trainer does there.

Ratios of held-out losses, paired by seed, with 95 % intervals that are not widened over the lines.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from eltbench.core import tables
from eltbench.evidence.intervals import NonFiniteError, paired_interval
from eltbench.evidence.regions import quantity
from eltbench.studies.curves import CELL
from eltbench.studies.paired import log_ratios

HEAD = ("where", "model", "at L_max, over elt", "2·L_max over L_max", "3·L_max over L_max", "over elt's own", "seeds")
BLOCK = ["unique_layers", "width"]


def markdown(rows: pd.DataFrame) -> str:
    """One line a model: its loss at its own L_max over elt's, and what more loops than L_max do to it.

    rows: of extrapolation. The column "over elt's own" is the change from L_max to 3·L_max over that of elt. Models of
    another N or width, or of fewer loops than elt, stand in `summary.csv` only.
    """
    return tables.markdown(HEAD, _lines(rows[rows["metric"] == "heldout_loss"]))


def _lines(losses: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for key, here in losses.groupby(CELL):
        elt = here[(here["trainer"] == "elt") & (here["role"] == "main")]
        if elt.empty:
            continue
        alike = here[(here[BLOCK] == elt[BLOCK].iloc[0]).all(axis=1) & (here["max_loops"] >= elt["max_loops"].iloc[0])]
        where, own = " ".join(map(str, key)), _past(elt, 3)
        for (trainer, role), model in alike.groupby(["trainer", "role"], sort=False):
            name, past, beside, over = str(trainer), _past(model, 3), "–", "–"
            if (trainer, role) != ("elt", "main"):
                beside, over = _told(log_ratios(_at(model, 1), _at(elt, 1))), _told((past - own).dropna())
            name += "" if role == "main" else f" ({role})"
            yield where, name, beside, _told(_past(model, 2)), _told(past), over, str(model["seed"].nunique())
            where = ""


def _at(losses: pd.DataFrame, multiple: int) -> pd.DataFrame:
    return losses[losses["loops"] == multiple * losses["max_loops"]]


def _past(losses: pd.DataFrame, multiple: int) -> pd.Series:
    """By seed, the log-ratio of the loss at a multiple of L_max to that at L_max."""
    return log_ratios(_at(losses, multiple), _at(losses, 1))


def _told(effects: pd.Series) -> str:
    if effects.empty:
        return "not measured"
    try:
        interval = paired_interval(effects)
    except NonFiniteError:
        return "not a finite number in every seed"
    estimate, low, high = (quantity(value, "log-ratio") for value in (interval.estimate, interval.low, interval.high))
    return estimate if interval.n == 1 else f"{estimate} [{low}, {high}]"
