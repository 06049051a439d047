"""Quality against cost: the Pareto front, what it dominates, what a budget buys, and where more cost makes it worse.

Costs and losses are both better when smaller. A point whose loss is not finite (a diverged model) counts as absent: it
lies on no front and buys nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def pareto_front(cost: ArrayLike, loss: ArrayLike) -> np.ndarray:
    """Which points (n,) no other point beats: none costs as little, loses as little, and less in one of the two.

    Equal points stand or fall together. Raises ValueError for shapes that differ and costs that are not finite.
    """
    costs, losses = np.asarray(cost, dtype=float), np.asarray(loss, dtype=float)
    if costs.ndim != 1 or costs.shape != losses.shape:
        raise ValueError(f"cost and loss must be sequences of one length, given {costs.shape} and {losses.shape}")
    if not np.isfinite(costs).all():
        raise ValueError(f"every cost must be finite, given {costs[~np.isfinite(costs)][0]}")
    finite = np.isfinite(losses)
    losses = np.where(finite, losses, math.inf)
    cheaper, better = costs <= costs[:, None], losses <= losses[:, None]  # (n, n): j against i
    strictly = (costs < costs[:, None]) | (losses < losses[:, None])
    return finite & ~(cheaper & better & strictly).any(axis=1)


def _sorted_front(cost: ArrayLike, loss: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The points of the front by cost; raises ValueError as `pareto_front` does."""
    front = pareto_front(cost, loss)
    costs, losses = (np.asarray(values, dtype=float)[front] for values in (cost, loss))
    order = np.argsort(costs, kind="stable")
    return costs[order], losses[order]


def hypervolume(cost: ArrayLike, loss: ArrayLike, reference: tuple[float, float]) -> float:
    """The area between the front and a reference (cost, loss), in cost × loss; points beyond it add nothing.

    The larger the better (Zitzler and Thiele 1998). Raises ValueError as `pareto_front` does.
    """
    costs, losses = _sorted_front(cost, loss)
    inside = (costs < reference[0]) & (losses < reference[1])
    heights = -np.diff(losses[inside], prepend=reference[1])  # of the strip that each point adds below the one before
    return float(((reference[0] - costs[inside]) * heights).sum())


def area_under_curve(cost: ArrayLike, loss: ArrayLike, cheapest: float, dearest: float) -> float:
    """The mean, over budgets spread evenly in ln(cost) between two bounds, of the best loss that the budget buys.

    In units of loss, the smaller the better. NaN where the cheapest budget buys nothing. Raises ValueError unless
    0 < cheapest < dearest, and as `pareto_front` does.
    """
    if not 0 < cheapest < dearest < math.inf:
        raise ValueError(f"budgets: expected 0 < cheapest < dearest, given {cheapest} and {dearest}")
    costs, losses = _sorted_front(cost, loss)
    if not len(costs) or costs[0] > cheapest:
        return math.nan
    edges = np.log(np.clip([*costs, dearest], cheapest, dearest))  # where the best loss steps down, and the end
    return float((np.diff(edges) * losses).sum() / (edges[-1] - edges[0]))


def monotonicity_violations(losses: ArrayLike) -> int:
    """At how many of the n − 1 steps between losses (n,), in order of cost, the loss rises or is not finite.

    Raises ValueError unless the losses are a sequence.
    """
    values = np.asarray(losses, dtype=float)
    if values.ndim != 1:
        raise ValueError(f"losses must be a sequence, shape (n,), given {values.shape}")
    values = np.where(np.isfinite(values), values, math.inf)
    return int(((values[1:] > values[:-1]) | np.isinf(values[1:])).sum())
