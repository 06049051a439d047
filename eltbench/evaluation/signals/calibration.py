"""Whether probabilities are what they say, before and after isotonic regression on other items."""

from __future__ import annotations

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss


def expected_calibration_error(probability: np.ndarray, event: np.ndarray, bins: int = 15) -> float:
    """Σ_b (n_b/n)·|mean event - mean probability| over bins of equal width (arXiv 1706.04599).

    probability (n,) of the event, event (n,) bool. Zero bins count nothing. Biased upwards where bins hold few items:
    even a perfect forecast has about Σ_b sqrt(n_b·p(1 - p)·2/π)/n. Raises ValueError for values outside [0, 1].
    """
    _check(probability, event)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gap = np.bincount(place, weights=event - probability, minlength=bins)  # n_b times the difference of the means
    return float(np.abs(gap).sum() / len(probability))


def brier(probability: np.ndarray, event: np.ndarray) -> float:
    """Mean of (probability - event)²: calibration and sharpness in one (Brier 1950)."""
    _check(probability, event)
    return float(brier_score_loss(event, probability))


def isotonic(signal: np.ndarray, event: np.ndarray) -> IsotonicRegression:
    """The probability of the event as a non-decreasing function of a signal; beyond the signals seen it is constant."""
    return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(signal, event)


def calibration(
    signal: np.ndarray, event: np.ndarray, fit_signal: np.ndarray, fit_event: np.ndarray
) -> dict[str, float]:
    """ECE and Brier score of a signal as a probability of the event, before and after isotonic regression.

    The regression is fitted on the fit items and judged on the others. "before" is NaN for a signal that is no
    probability, because it leaves [0, 1].
    """
    after = isotonic(fit_signal, fit_event).predict(signal)
    probable = ((signal >= 0) & (signal <= 1)).all()
    return {
        "ece_before": expected_calibration_error(signal, event) if probable else float("nan"),
        "ece_after": expected_calibration_error(after, event),
        "brier_before": brier(signal, event) if probable else float("nan"),
        "brier_after": brier(after, event),
    }


def _check(probability: np.ndarray, event: np.ndarray) -> None:
    if probability.shape != event.shape or probability.ndim != 1 or not len(event):
        raise ValueError(f"calibration: one probability an event, given {probability.shape} and {event.shape}")
    if not (proper := (probability >= 0) & (probability <= 1)).all():
        bad = int(np.argmin(proper))
        raise ValueError(f"calibration: probabilities lie in [0, 1], given {probability[bad]} at item {bad}")
