"""Stopping with a guarantee: conformal risk control and learn-then-test, from the losses of calibration items.

Losses are (K, n): of n items under K settings (thresholds of a rule), from the safest to the boldest, in [0, bound].
Settings and all that is fitted come from other items, and what is reported from a third set (`split`). The unit is one
item with one corruption. The risk is the mean loss in excess of the deepest exit (`excess_losses`).

Conformal risk control bounds E[loss] ≤ α, the mean over calibration sets; it needs exchangeable items, and losses that
never fall as settings get bolder. Learn then test bounds P(risk > α) ≤ δ over calibration sets of independent items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr
from scipy.stats import binom

from eltbench.evidence.intervals import NonFiniteError


@dataclass(frozen=True)
class Guarantee:
    """What was accepted: `index` is the boldest accepted setting, None where not even the safest is.

    risks: (K,) mean calibration losses. evidence: (K,) what was compared: the bound of conformal risk control with α,
    the p-values of learn-then-test with δ.
    """

    index: int | None
    risks: np.ndarray
    evidence: np.ndarray


def smallest_conformal(alpha: float, bound: float = 1.0) -> int:
    """The fewest items with which conformal risk control can accept anything: ⌈bound/α⌉ - 1."""
    _check_level("alpha", alpha, bound)
    return max(1, _first(math.ceil(bound / alpha) - 1, lambda n: bound <= alpha * (n + 1)))


def smallest_learn_then_test(alpha: float, delta: float, bound: float = 1.0) -> int:
    """The fewest items with which learn-then-test can accept anything: ⌈ln δ / ln(1 - α/bound)⌉."""
    _check_level("alpha", alpha, bound)
    _check_level("delta", delta, 1.0)
    log_delta, log_safe = math.log(delta), math.log1p(-alpha / bound)
    return max(1, _first(math.ceil(log_delta / log_safe), lambda n: n * log_safe <= log_delta))


def conformal_risk_control(losses: np.ndarray, alpha: float, bound: float = 1.0) -> Guarantee:
    """The boldest setting with n/(n+1)·R̂ + bound/(n+1) ≤ α (conformal risk control, arXiv 2208.02814).

    Raises ValueError for too few items, with the smallest number that would do, and where the proof does not hold: a
    loss that falls from one setting to a bolder one, or a safest setting that may lose more than α.
    """
    smallest = smallest_conformal(alpha, bound)
    losses = _checked(losses, bound, smallest, f"conformal risk control at alpha = {alpha} and bound = {bound}")
    if (falls := np.argwhere(np.diff(losses, axis=0) < 0)).size:
        setting, item = falls[0]
        raise ValueError(
            f"conformal risk control needs losses that do not fall with bolder settings, but that of item {item} falls "
            f"from setting {setting} to {setting + 1}; take `running_worst` of the losses, or learn_then_test"
        )
    if losses[0].max() > alpha:
        raise ValueError(
            f"conformal risk control needs a safest setting that never loses more than alpha = {alpha}, but it loses "
            f"{losses[0].max():.4g} at item {int(losses[0].argmax())}; begin with the deepest exit for all"
        )
    total, items = losses.sum(axis=1), losses.shape[1]
    accepted = total + bound <= alpha * (items + 1)
    return Guarantee(_boldest(accepted), total / items, (total + bound) / (items + 1))


def learn_then_test(losses: np.ndarray, alpha: float, delta: float, bound: float = 1.0) -> Guarantee:
    """The boldest setting up to which every p-value is at most δ: fixed-sequence testing (arXiv 2110.01052).

    Losses may rise and fall. Raises ValueError for too few items, with the smallest number that would do.
    """
    smallest = smallest_learn_then_test(alpha, delta, bound)
    method = f"learn-then-test at alpha = {alpha}, delta = {delta} and bound = {bound}"
    losses = _checked(losses, bound, smallest, method)
    p_values = hoeffding_bentkus(losses.sum(axis=1) / bound, losses.shape[1], alpha / bound)
    return Guarantee(_boldest(p_values <= delta), losses.mean(axis=1), p_values)


def hoeffding_bentkus(total: np.ndarray, items: int, alpha: float) -> np.ndarray:
    """p-values (K,) of "the risk exceeds α" from total losses (K,) of n items in [0, 1] (arXiv 2110.01052).

    min(exp(-n·h(min(R̂, α), α)), e·P(Bin(n, α) ≤ ⌈n·R̂⌉)), h the divergence of two coins, R̂ = total/n.
    """
    total = np.asarray(total, np.float64)
    risk = np.minimum(total / items, alpha)
    hoeffding = np.exp(-items * (rel_entr(risk, alpha) + rel_entr(1 - risk, 1 - alpha)))
    bentkus = math.e * binom.cdf(np.ceil(total), items, alpha)
    return np.minimum(np.minimum(hoeffding, bentkus), 1.0)


def excess_losses(errors: np.ndarray, stop: np.ndarray, bound: float = 1.0) -> np.ndarray:
    """What stopping costs each item (K, n): its error where it stops above that at the deepest exit, in [0, bound].

    errors: (E, n), stop: positions of exits (K, n). Gains count as nothing, and what is beyond the bound is cut.
    """
    return np.clip(errors[stop, np.arange(errors.shape[1])] - errors[-1], 0.0, bound)


def running_worst(losses: np.ndarray) -> np.ndarray:
    """The largest loss of each item up to each setting (K, n): never falls, and is never below the loss."""
    return np.maximum.accumulate(losses, axis=0)


def split(
    items: np.ndarray, rng: np.random.Generator, shares: tuple[float, float, float] = (0.3, 0.35, 0.35)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to fit, to calibrate and to test, by the item (n,) that each row is a corruption of.

    No item is in two parts. The fit keeps all of its rows, calibration and test one random row of each item. Raises
    ValueError for shares that do not sum to one.
    """
    if min(shares) < 0 or not math.isclose(sum(shares), 1):
        raise ValueError(f"split: three shares that sum to one, given {shares}")
    rows = rng.permutation(len(items))
    names, first = np.unique(items[rows], return_index=True)  # one random row of each item
    order = rng.permutation(len(names))
    ends = np.round(np.cumsum(shares) * len(names)).astype(int)
    fit, calibrate, test = np.split(order, ends[:2])
    return np.flatnonzero(np.isin(items, names[fit])), np.sort(rows[first[calibrate]]), np.sort(rows[first[test]])


def _checked(losses: np.ndarray, bound: float, smallest: int, method: str) -> np.ndarray:
    """The losses in float64; ValueError for others than (K, n) in [0, bound], and for fewer items than `smallest`."""
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 2 or not losses.size:
        raise ValueError(f"guarantee: losses must be (settings, items), given shape {losses.shape}")
    if (bad := np.argwhere(~np.isfinite(losses))).size:
        setting, item = bad[0]
        raise NonFiniteError(f"guarantee: the loss of item {item} is {losses[setting, item]} at setting {setting}")
    if (bad := np.argwhere((losses < 0) | (losses > bound))).size:
        setting, item = bad[0]
        raise ValueError(
            f"guarantee: losses lie in [0, {bound}], but that of item {item} is {losses[setting, item]:.4g} at setting "
            f"{setting}; state another bound or see `excess_losses`"
        )
    if (items := losses.shape[1]) < smallest:
        raise ValueError(f"{method} takes at least {smallest} calibration items, given {items}")
    return losses


def _check_level(name: str, level: float, bound: float) -> None:
    if not 0 < level < bound:
        raise ValueError(f"guarantee: {name} must lie between 0 and {bound}, given {level}")


def _boldest(accepted: np.ndarray) -> int | None:
    """The last setting before the first that is not accepted; None where that is the safest."""
    return int(np.logical_and.accumulate(accepted).sum()) - 1 if accepted[0] else None


def _first(near: int, holds: Callable[[int], bool]) -> int:
    """The smallest integer from about `near` on for which a growing condition holds, rounding notwithstanding."""
    candidate = max(0, near - 1)
    while not holds(candidate):
        candidate += 1
    return candidate
