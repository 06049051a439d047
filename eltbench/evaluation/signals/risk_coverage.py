"""Risk–coverage curves as rows: the mean error of the items that a signal is surest of, by the share that is kept.

A curve is given over all items and within strata of corruption, where the same share of every stratum is kept. The
signal `oracle` is the error itself, below which no curve lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eltbench.evaluation.signals import selective
from eltbench.evaluation.signals.per_sample import PerSample
from eltbench.evaluation.signals.uncertainty import SIGNALS

COVERAGES = tuple(step / 10 for step in range(1, 11))
HEADLINE = (
    "entropy",
    "variance_bound",
    "corruption_level",
    "jensen_shannon_to_previous",
    "squared_change_to_previous",
    "relative_update_norm",
)
"""Signals of one pass with a curve at every exit; what takes more than one pass has one at the deepest."""


def rows(
    observed: PerSample, test: np.ndarray, strata: np.ndarray, deepest: int, learned: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Rows {loops, metric `risk_at_coverage`, coverage, value, signal, scope, target, …} of the test units.

    Exits up to the one after `deepest` loops. test: positions of the units; strata: (n,) of all. learned: probes (n,)
    at the deepest exit. What is not finite has no curve.
    """
    found = []
    for exit in range(observed.at(deepest) + 1):
        at_end = observed.loops[exit] == deepest
        signals = {name: of[exit] for name, of in observed.signals.items() if name in HEADLINE}
        if at_end:
            signals |= {name: of[exit] for name, of in observed.signals.items() if not SIGNALS[name].one_pass}
            signals |= learned
        error = observed.error[exit, test]
        for name, signal in {**signals, "oracle": observed.error[exit]}.items():
            if not np.isfinite(signal).all():
                continue
            known = {"loops": observed.loops[exit], "split": "heldout", "signal": name, "target": observed.target}
            known |= {"metric": "risk_at_coverage", "higher_is_better": False, "n_samples": len(error)}
            for scope, groups in (("pooled", np.zeros_like(strata)), ("within", strata)):
                risks = at_coverages(signal[test], error, groups[test])
                found += [
                    {**known, "scope": scope, "coverage": share, "value": float(risk)}
                    for share, risk in zip(COVERAGES, risks, strict=True)
                ]
    return found


def at_coverages(signal: np.ndarray, error: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """The risk at each of `COVERAGES`, all arguments (n,): the same share of every stratum kept, the least that is one.

    Strata count by their items; items of one signal count as their mean.
    """
    total = np.zeros(len(COVERAGES))
    for stratum in np.unique(strata):
        here = strata == stratum
        coverage, risk = selective.risk_coverage(signal[here], error[here])
        total += here.sum() * risk[np.searchsorted(coverage, np.array(COVERAGES) - 1e-9)]
    return total / len(signal)
