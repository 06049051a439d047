"""Effects paired by seed and their intervals over seeds.

Student t at every n: at three seeds a percentile bootstrap of the mean covers 1 − 2/2³ = 75 % instead of 95 % (the
calibration tests measure both). An interval covers the training seed only, conditional on one data split and one
feature extractor.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


class NonFiniteError(ValueError):
    """An effect that is NaN or infinite; the message names its position."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with a two-sided confidence interval, closed."""

    estimate: float  # the mean, NaN without a single seed
    low: float  # infinite below two seeds, of zero width where all seeds agree exactly
    high: float
    n: int  # number of seeds
    level: float  # coverage of this interval by itself, after any widening for several comparisons


class Pairs(NamedTuple):
    """Two measurements of the same seeds, each of shape (n,), in ascending order of seed."""

    numerator: np.ndarray
    denominator: np.ndarray
    seeds: tuple[Hashable, ...]
    dropped: tuple[Hashable, ...]  # seeds that only one side had


def pair_by_seed(numerator: pd.Series, denominator: pd.Series, *, allow_lone: bool = False) -> Pairs:
    """Pair two series indexed by seed; with `allow_lone` seeds on one side only are dropped and reported.

    Raises ValueError for a lone seed otherwise, and for a seed that occurs twice on one side.
    """
    for side, series in (("numerator", numerator), ("denominator", denominator)):
        if twice := sorted(set(series.index[series.index.duplicated()])):
            raise ValueError(f"the {side} has several values for seeds {twice}; give one value a seed")
    left, right = set(numerator.index), set(denominator.index)
    lone, seeds = sorted(left ^ right), sorted(left & right)
    if lone and not allow_lone:
        raise ValueError(
            f"seeds {sorted(left - right)} are only in the numerator, {sorted(right - left)} only in the denominator; "
            "run what is missing, or pass allow_lone=True to drop them"
        )
    first, second = (side.loc[seeds].to_numpy(dtype=float) for side in (numerator, denominator))
    return Pairs(first, second, tuple(seeds), tuple(lone))


def log_ratio(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """ln(numerator / denominator) seed by seed, (n,): dimensionless, positive where the numerator is larger.

    A value that is NaN or infinite (a diverged model) gives an effect that is: `paired_interval` refuses it by name.
    Raises ValueError for shapes or seed indices that differ, and for a value of zero or below.
    """
    first, second = (side.index if isinstance(side, pd.Series) else None for side in (numerator, denominator))
    if first is not None and second is not None and not first.equals(second):
        raise ValueError("numerator and denominator have different seeds; pair them with pair_by_seed first")
    above, below = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    if above.shape != below.shape:
        raise ValueError(f"numerator {above.shape} and denominator {below.shape} differ in shape")
    for side, values in (("numerator", above), ("denominator", below)):
        if (values <= 0).any():
            position = int(np.argmax(values <= 0))
            raise ValueError(
                f"value {position} of the {side} is {values[position]}; a log-ratio needs values above zero, "
                "for a metric that can be zero or below use the additive difference"
            )
    with np.errstate(invalid="ignore"):  # both infinite: NaN
        return np.log(above) - np.log(below)


def percent(log_ratio: float) -> float:
    """A log-ratio as the change it means, in percent: 100·(e^x − 1)."""
    with np.errstate(over="ignore"):  # a diverged model may be off by more than e^709
        return 100.0 * float(np.expm1(log_ratio))


def paired_interval(differences: ArrayLike, *, level: float = 0.95, comparisons: int = 1) -> Interval:
    """Student's t interval of the mean of paired differences (n,), widened by Bonferroni.

    `comparisons` such intervals all cover at once with probability `level` or more. Raises NonFiniteError (a
    ValueError) for NaN or infinite differences, ValueError for a level outside (0, 1) or fewer than one comparison.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, given {level}")
    if comparisons < 1:
        raise ValueError(f"comparisons must be at least 1, given {comparisons}")
    values = _differences(differences)
    n, tails = len(values), (1 - level) / comparisons
    if n < 2:
        return Interval(float(values[0]) if n else math.nan, -math.inf, math.inf, n, 1 - tails)
    mean, half_width = float(values[0]), 0.0
    if np.ptp(values):  # of equal values the mean may round to another one, and have a width
        mean = float(values.mean())
        half_width = _quantile(tails / 2, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half_width, mean + half_width, n, 1 - tails)


@lru_cache
def _quantile(tail: float, freedom: int) -> float:
    """Where Student's t leaves this much in its upper tail; scipy takes longer than all the rest of an interval."""
    from scipy import stats  # half a second to load, which the processes that train do without

    return float(stats.t.isf(tail, freedom))


def welch_interval(first: ArrayLike, second: ArrayLike, *, level: float = 0.95, comparisons: int = 1) -> Interval:
    """Welch's t interval of mean(first) − mean(second) for independent samples (n,) and (m,), widened by Bonferroni.

    `n` of the interval is the smaller size. Raises as `paired_interval` does, and ValueError for fewer than two values
    a side.
    """
    from scipy import stats

    values = [_differences(side) for side in (first, second)]
    if min(map(len, values)) < 2:
        raise ValueError(f"each side needs at least two values, given {len(values[0])} and {len(values[1])}")
    covered = paired_interval((), level=level, comparisons=comparisons).level
    low = high = estimate = float(values[0].mean() - values[1].mean())
    if any(np.ptp(side) for side in values):
        low, high = map(float, stats.ttest_ind(*values, equal_var=False).confidence_interval(covered))
    return Interval(estimate, low, high, min(map(len, values)), covered)


def cohens_dz(differences: ArrayLike) -> float:
    """Cohen's d_z, mean over standard deviation of paired differences (n,) (Lakens 2013, eq. 6).

    d_z·√n is the t statistic. NaN below two seeds or where all differences are zero, infinite where they agree exactly
    on another value; biased upwards in size at few seeds. Raises NonFiniteError for NaN or infinite differences.
    """
    values = _differences(differences)
    if len(values) < 2:
        return math.nan
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if np.ptp(values) and deviation:  # differences may be too small for a float to square
        return mean / deviation
    return math.copysign(math.inf, mean) if mean else math.nan


def _differences(differences: ArrayLike) -> np.ndarray:
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1:
        raise ValueError(f"differences must have one value a seed, shape (n,), given {values.shape}")
    if not np.isfinite(values).all():
        at = int(np.argmin(np.isfinite(values)))
        raise NonFiniteError(f"value {at} of the differences is {values[at]}; every seed needs a finite one")
    return values
