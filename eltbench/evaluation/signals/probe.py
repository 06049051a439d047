"""Learned signals: a probe on the whole trajectory of exits, and a gate that decides after each exit.

Both are scikit-learn classifiers on measured signals {name: (E, B)}, fitted on a split of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from eltbench.evaluation.signals.uncertainty import get, nonfinite
from eltbench.evidence.intervals import NonFiniteError

Measured = Mapping[str, np.ndarray]
Kind = Literal["logistic", "boosted"]


class Probe:
    """P(event) of an item from its signals at all exits: an uncertainty signal that has learned which of them matter.

    kind: "logistic" (standardised) or "boosted" (gradient-boosted trees). It reads the deepest exit, so no rule may
    stop by it. Raises ValueError where all fit items are events or none is, NonFiniteError for a signal that is not
    finite.
    """

    def __init__(self, measured: Measured, event: np.ndarray, kind: Kind = "logistic") -> None:
        self.names = list(measured)
        self.classifier = _fit(trajectory_features(measured, self.names), event, kind)

    def __call__(self, measured: Measured) -> np.ndarray:
        """The probabilities (B,) of the event for other items, from the same signals."""
        with threadpool_limits(1):
            return self.classifier.predict_proba(trajectory_features(measured, self.names))[:, 1]


class Gate:
    """P(not ready) after each exit: whether its error is still more than `tolerance` above that of the deepest exit.

    One classifier for all exits, from the loops run and from the signals at that exit alone, so that it may stop.
    Signals that may not stop are left out, and those that the first exits lack are zero there.
    """

    def __init__(
        self,
        measured: Measured,
        errors: np.ndarray,
        loops: Sequence[int],
        *,
        tolerance: float = 0.0,
        kind: Kind = "logistic",
    ) -> None:
        self.names = [name for name in measured if get(name).may_stop]
        not_ready = errors[:-1] - errors[-1] > tolerance  # (E - 1, B)
        features = self._features(measured, loops)[:-1]  # at the deepest exit there is nothing to decide
        self.classifier = _fit(features.reshape(-1, features.shape[-1]), not_ready.ravel(), kind)

    def __call__(self, measured: Measured, loops: Sequence[int]) -> np.ndarray:
        """The signal "not_ready" (E, B) of other items at exits after `loops`."""
        features = self._features(measured, loops)
        return self.classifier.predict_proba(features.reshape(-1, features.shape[-1]))[:, 1].reshape(features.shape[:2])

    def _features(self, measured: Measured, loops: Sequence[int]) -> np.ndarray:
        """(E, B, F), the loops first."""
        _refuse_nonfinite({name: measured[name] for name in self.names})
        values = np.stack([np.nan_to_num(measured[name]) for name in self.names], axis=-1)
        ran = np.broadcast_to(np.asarray(loops, float)[:, None, None], (*values.shape[:2], 1))
        return np.concatenate([ran, values], axis=-1)


def fit_gate(measured: Measured, errors: np.ndarray, loops: Sequence[int], tolerance: float) -> Gate | None:
    """The logistic gate of the finite signals that may stop; None where they leave it nothing to learn."""
    usable = {name: of for name, of in measured.items() if get(name).may_stop and not nonfinite({name: of})}
    late = errors[:-1] - errors[-1] > tolerance
    if not usable or not 0 < late.sum() < late.size:
        return None
    return Gate(usable, errors, loops, tolerance=tolerance)


def trajectory_features(measured: Measured, names: Sequence[str]) -> np.ndarray:
    """The signals at all exits side by side (B, F), without exits at which a signal is not defined.

    Raises NonFiniteError for what is not finite otherwise.
    """
    _refuse_nonfinite({name: measured[name] for name in names})
    rows = [measured[name][~np.isnan(measured[name]).all(axis=1)] for name in names]
    return np.concatenate(rows).T


def _fit(features: np.ndarray, event: np.ndarray, kind: Kind) -> Any:
    if not 0 < event.sum() < event.size:
        raise ValueError(f"probe: {int(event.sum())} of {event.size} cases are events; there is nothing to tell apart")
    if kind == "logistic":
        classifier: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    elif kind == "boosted":
        classifier = HistGradientBoostingClassifier(random_state=0, early_stopping=False, max_iter=50, max_depth=3)
    else:
        raise ValueError(f"probe: kind must be 'logistic' or 'boosted', given {kind!r}")
    with threadpool_limits(1):  # a few thousand rows: threads would mostly wait, on a busy machine for each other
        return classifier.fit(features, event)


def _refuse_nonfinite(measured: Measured) -> None:
    if found := nonfinite(measured):
        raise NonFiniteError(f"probe: {found[0]}")
