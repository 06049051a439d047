"""The summary table of the study disagreement."""

from __future__ import annotations

import pandas as pd

from eltbench.evaluation.stopping.equal_solving import SCOPE
from eltbench.studies.curves import CELL, MODEL, points

POINT = ["metric", "target", "signal", "scope", "stratum", "rule", "saved", "guarantee", "alpha", "loops"]
ALONG = ["higher_is_better", "n_samples", "delta"]
COLUMNS = [*CELL, *MODEL, *POINT, "mean", "low", "high", "seeds", *ALONG, "reason"]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of every score at L_max, of the rules, the guarantees and of equal solving.

    Scores of single strata, those at other exits and the points of the curves stand in the rows alone. reason: what was
    chosen where a family was, seed by seed.
    """
    signals = rows["signal"].notna() & (rows["loops"] == rows["max_loops"]) & (rows["scope"] != "stratum")
    signals &= rows["metric"] != "risk_at_coverage"
    shown = rows[signals | rows["saved"].notna() | rows["guarantee"].notna() | (rows["scope"] == SCOPE)]
    keys = [*CELL, *MODEL, *POINT]
    table = pd.DataFrame(points(shown, keys, ALONG), columns=COLUMNS)
    return table.sort_values(keys, na_position="first", ignore_index=True)
