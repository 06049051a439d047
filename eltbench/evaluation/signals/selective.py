"""How well a signal tells wrong predictions from right ones, pooled and within strata of corruption.

Corruption explains most of an error: a signal that only rediscovers it scores like a coin within strata. The event
is an error above the upper quartile of its stratum among other items. Signals (n,) grow with uncertainty.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score

from eltbench.evidence.intervals import NonFiniteError

Rows = list[dict[str, Any]]
HIGHER_IS_BETTER = {"auroc": True, "auprc": True, "aurc": False, "excess_aurc": False, "spearman": True}


def level_edges(level: np.ndarray, strata: int = 4) -> np.ndarray:
    """The inner edges (strata - 1,) that part corruption levels (n,) into strata of equal frequency."""
    return np.quantile(level, np.arange(1, strata) / strata)


def level_strata(level: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The stratum of each level (n,), 0 the cleanest."""
    return np.searchsorted(edges, level, side="right")


def upper_quartiles(error: np.ndarray, strata: np.ndarray) -> dict[int, float]:
    """The upper quartile of the error in each stratum: thresholds of the event, to be stated on other items."""
    return {int(stratum): float(np.quantile(error[strata == stratum], 0.75)) for stratum in np.unique(strata)}


def above(error: np.ndarray, strata: np.ndarray, thresholds: Mapping[int, float]) -> np.ndarray:
    """Whether each error (n,) is above the threshold of its stratum; raises ValueError for a stratum without one."""
    if missing := sorted(set(np.unique(strata).tolist()) - thresholds.keys()):
        raise ValueError(f"event: strata {missing} have no threshold; those stated are {sorted(thresholds)}")
    return error > np.array([thresholds[int(stratum)] for stratum in strata])


def auroc(signal: np.ndarray, event: np.ndarray) -> float:
    """P(signal of an event > signal of none), ties counting half; NaN unless both occur.

    By ranks (Mann and Whitney's U): it runs a thousand times a model, where scikit-learn's checks would take longest.
    """
    events = int(event.sum())
    if not 0 < events < len(event):
        return float("nan")
    return float((rankdata(signal)[event].sum() - events * (events + 1) / 2) / (events * (len(event) - events)))


def auprc(signal: np.ndarray, event: np.ndarray) -> float:
    """Average precision at which events are found; the share of events is what chance has. NaN unless both occur."""
    return float(average_precision_score(event, signal)) if 0 < event.sum() < len(event) else float("nan")


def spearman(signal: np.ndarray, error: np.ndarray) -> float:
    """Rank correlation of signal and error; NaN where either is constant."""
    if len(signal) < 2 or np.ptp(signal) == 0 or np.ptp(error) == 0:
        return float("nan")
    return float(spearmanr(signal, error).statistic)


def risk_coverage(signal: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage k/n and the mean loss of the k most confident, k = 1 … n; items of one signal count as their mean."""
    _, group = np.unique(signal, return_inverse=True)  # in ascending order of the signal
    mean_of_group = np.bincount(group, weights=loss) / np.bincount(group)
    ranked = mean_of_group[np.sort(group)]
    count = np.arange(1, len(loss) + 1)
    return count / len(loss), np.cumsum(ranked) / count


def aurc(signal: np.ndarray, loss: np.ndarray) -> float:
    """Mean over k of the mean loss of the k most confident, ties as their mean (arXiv 1805.08206)."""
    return float(risk_coverage(signal, loss)[1].mean())


def excess_aurc(signal: np.ndarray, loss: np.ndarray) -> float:
    """AURC less that of the items sorted by their true loss: zero for the best possible order (arXiv 1805.08206)."""
    return aurc(signal, loss) - aurc(loss, loss)


def scores(
    signal: np.ndarray,
    error: np.ndarray,
    event: np.ndarray,
    strata: np.ndarray,
    metrics: Collection[str] = tuple(HIGHER_IS_BETTER),
) -> Rows:
    """The scores of one signal as rows {metric, value, higher_is_better, scope, stratum, n_samples, reason}.

    All are (n,). scope: "pooled" over all items; "stratum" for each stratum by itself; "within", the mean over the
    strata weighted by their items, in which the level of corruption cannot help. `reason` says why a value is NaN, or
    which strata a mean leaves out. Raises NonFiniteError, naming the item, and ValueError for unequal lengths.
    """
    _check(signal=signal, error=error, event=event, strata=strata)
    names = np.unique(strata)
    rows = []
    for metric in metrics:
        of = METRICS[metric]
        parts = [(of(signal[here], error[here], event[here]), int(here.sum())) for here in (strata == s for s in names)]
        rows.append(_row(metric, of(signal, error, event), "pooled", None, len(signal)))
        rows += [_row(metric, value, "stratum", int(s), n) for s, (value, n) in zip(names, parts, strict=True)]
        values, weights = np.array(parts, float).T
        there = np.isfinite(values)
        mean = float(np.average(values[there], weights=weights[there])) if there.any() else float("nan")
        within = _row(metric, mean, "within", None, int(weights[there].sum()))
        if there.any() and not there.all():
            within["reason"] = f"without strata {names[~there].tolist()}, where it is not defined"
        rows.append(within)
    return rows


METRICS = {
    "auroc": lambda signal, error, event: auroc(signal, event),
    "auprc": lambda signal, error, event: auprc(signal, event),
    "aurc": lambda signal, error, event: aurc(signal, error),
    "excess_aurc": lambda signal, error, event: excess_aurc(signal, error),
    "spearman": lambda signal, error, event: spearman(signal, error),
}
UNDEFINED = {"auroc": "no event or nothing else", "auprc": "no event or nothing else", "spearman": "a constant"}


def _row(metric: str, value: float, scope: str, stratum: int | None, n: int) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": value,
        "higher_is_better": HIGHER_IS_BETTER[metric],
        "scope": scope,
        "stratum": stratum,
        "n_samples": n,
        "reason": UNDEFINED[metric] if np.isnan(value) else None,
    }


def _check(**columns: np.ndarray) -> None:
    lengths = {name: values.shape for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or len(next(iter(lengths.values()))) != 1 or not len(columns["signal"]):
        raise ValueError(f"scores: one value an item, at least one item, given {lengths}")
    for name in ("signal", "error"):
        if len(bad := np.flatnonzero(~np.isfinite(columns[name]))):
            raise NonFiniteError(f"scores: {name} is {columns[name][bad[0]]} at item {bad[0]}; {len(bad)} such items")
