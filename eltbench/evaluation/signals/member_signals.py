"""Signals of uncertainty from several predictions of one input: dropout left on, other seeds, another network.

Each takes the predictions of S members, logits (S, M, V) or values of x_0 (S, M), and gives (M,); NumPy in and out. One
member is allowed: `entropy_of_mean` is then the entropy of another network's prediction.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr, softmax


def entropy_of_mean(members: np.ndarray) -> np.ndarray:
    """H(p̄), p̄ = mean_s p_s, in nats: the whole uncertainty of the mean prediction (arXiv 1612.01474, 1506.02142)."""
    return entr(softmax(np.asarray(members, np.float64), axis=-1).mean(axis=0)).sum(axis=-1)


def mutual_information(members: np.ndarray) -> np.ndarray:
    """H(p̄) - mean_s H(p_s), in nats: what the members disagree on (arXiv 1112.5745, 1703.02910)."""
    p = softmax(np.asarray(members, np.float64), axis=-1)
    return entropy_of_mean(members) - entr(p).sum(axis=-1).mean(axis=0)


def variance(members: np.ndarray) -> np.ndarray:
    """Var_s x̂_s, divided by S."""
    return np.asarray(members, np.float64).var(axis=0)
