"""Rows of the study disagreement, made up so that every claim can be read from them."""

from __future__ import annotations

import pandas as pd

from eltbench import studies
from eltbench.evidence.schema import row_schema

STUDY = studies.create("disagreement")


def decisive(gain=0.1, violations=0.0, saved=0.5, seeds=5):
    """Rows of elt in one cell from which every claim can be read."""
    rows = []
    for seed in range(seeds):
        jitter = 0.001 * seed
        for family in ("disagreement", "convergence"):
            rows.append(
                {"metric": "auroc_gain", "signal": family, "value": gain + jitter, "seed": seed, "scope": "within"}
            )
        rows.append(
            {"metric": "auroc_gain", "signal": "disagreement", "value": -1.0, "seed": seed, "scope": "within"}
            | {"target": "model_error"}
        )
        held = {"rule": "kl", "guarantee": "learn then test", "alpha": 0.05, "delta": 0.1, "seed": seed}
        rows.append({**held, "metric": "violations", "value": violations + jitter})
        rows.append({**held, "metric": "loops_saved", "value": saved + jitter})
        rows.append({**held, "metric": "loops_saved", "value": 0.0, "rule": "fixed"})
        rows.append({**held, "metric": "violations", "value": 1.0, "alpha": 0.2})
    known = {"trainer": "elt", "role": "main", "task": "masked", "dataset": "latin", "backend": "torch"}
    shape = {"unique_layers": 2, "max_loops": 4, "loops": 4, "target": "negative_log_likelihood"}
    empty = dict.fromkeys(row_schema(STUDY.columns).names)
    return pd.DataFrame([{**empty, **known, **shape, **row} for row in rows])
