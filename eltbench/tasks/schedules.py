"""Noise and mask schedules in closed form, computed on the host in float64."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit


def shifted_cosine_log_snr(
    time: np.ndarray, shift: float = 0.0, log_snr_max: float = 15.0, log_snr_min: float = -15.0
) -> np.ndarray:
    """Log-SNR λ(t) = -2 ln tan(a + t(c - a)) + shift, t from 0 (data) to 1 (noise) (arXiv 2301.11093 eq. 6, 10).

    `shift` = 2 ln(reference / resolution). The log-SNR is clipped through t, before the shift.
    """
    start, end = _angles(log_snr_max, log_snr_min)
    return -2 * np.log(np.tan(start + np.asarray(time, np.float64) * (end - start))) + shift


def shifted_cosine_slope(time: np.ndarray, log_snr_max: float = 15.0, log_snr_min: float = -15.0) -> np.ndarray:
    """dλ/dt of the same schedule, negative everywhere; it does not depend on the shift."""
    start, end = _angles(log_snr_max, log_snr_min)
    return -4 * (end - start) / np.sin(2 * (start + np.asarray(time, np.float64) * (end - start)))


def sigmoid_weight(log_snr: np.ndarray, bias: float) -> np.ndarray:
    """SiD2's sigmoid weighting in its x_0 form, e^b · sigmoid(λ - b) (arXiv 2410.19324 eq. 4).

    On an x_0 error this equals sigmoid(b - λ) on an ε error; the factor -dλ/dt is not included.
    """
    return math.exp(bias) * sigmoid(np.asarray(log_snr, np.float64) - bias)


def sigmoid(value: np.ndarray | float) -> np.ndarray:
    """1 / (1 + e^-x) to full relative precision at both ends."""
    return expit(np.asarray(value, np.float64))


def masked_count(level: np.ndarray, positions: int, minimum_rate: float = 0.0) -> np.ndarray:
    """Number of masked positions at level r in [0, 1): cos(πr/2) of them, at least one (arXiv 2202.04200)."""
    rate = np.maximum(np.cos(np.pi / 2 * np.asarray(level, np.float64)), minimum_rate)
    return np.clip(np.ceil(rate * positions), 1, positions).astype(np.int64)


def still_masked(unknown: np.ndarray, initially_unknown: np.ndarray, step: int, steps: int) -> np.ndarray:
    """Positions of each item left masked after decoding step k of K: max(1, min(unknown - 1, ⌊n₀ cos(π/2 · (k+1)/K)⌋)).

    0 after the last step, and where nothing is unknown, so that no known token is masked.
    """
    planned = np.floor(initially_unknown * math.cos(math.pi / 2 * (step + 1) / steps)).astype(np.int64)
    left = np.maximum(1, np.minimum(unknown - 1, planned))
    return np.where((step == steps - 1) | (unknown == 0), 0, left)


def spread_levels(items: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Levels (draws, items) in [0, 1): every item gets one level in each of `draws` equal strata."""
    return (np.arange(draws)[:, None] + rng.random((draws, items))) / draws


def _angles(log_snr_max: float, log_snr_min: float) -> tuple[float, float]:
    return math.atan(math.exp(-log_snr_max / 2)), math.atan(math.exp(-log_snr_min / 2))
