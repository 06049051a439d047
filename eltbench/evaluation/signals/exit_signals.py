"""Signals of uncertainty that the exits of one pass give for nothing; `uncertainty.SIGNALS` declares them.

Each is a function of a trace and the position of an exit in it, some also of another exit: the previous one in the
trace, or the deepest. It gives one value per masked token, or per dimension of x_0, (M,), the larger the less sure. p_L
are the probabilities, h_L the states at exit L, Δ_L = h_L - h_{L-1}. Array API throughout: nothing leaves the device.
"""

from __future__ import annotations

import math

from eltbench.core.arrays import Array
from eltbench.evaluation.signals.exit_trace import Distribution, Trace

# One exit


def max_softmax(trace: Trace, exit: int) -> Array:
    """1 - max_v p(v) (arXiv 1610.02136)."""
    return 1 - trace.xp.max(trace.distribution(exit).p, axis=-1)


def corruption_level(trace: Trace, exit: int) -> Array:
    """`Task.noisiness`: the share of masked tokens, or how noisy the input is; the same at every exit."""
    return trace.level


def ponder(trace: Trace, exit: int) -> Array:
    """N + R, the loops before halting plus the remainder (universal transformer, arXiv 1807.03819, 1603.08983)."""
    return trace.outputs[exit].ponder


def unhalted(trace: Trace, exit: int) -> Array:
    """1 - Σ_{t≤L} p_t, the probability that halting has not come by loop L; 0 once it has (arXiv 1603.08983)."""
    return trace.outputs[exit].unhalted


def halting(trace: Trace, exit: int) -> Array:
    """Minus the halting logit, by which the item is right as a whole: above 0 rather not (TRM, arXiv 2510.04871)."""
    return -trace.outputs[exit].halting


def variance_bound(trace: Trace, exit: int) -> Array:
    """(1 - x̂)(1 + x̂), x̂ clipped to [-1, 1]: the largest variance in [-1, 1] at mean x̂ (Bhatia, Davis 2000)."""
    bounded = trace.xp.clip(trace.outputs[exit].prediction, -1.0, 1.0)
    return ((1 - bounded) * (1 + bounded))[:, 0]


# Predictions of several exits


def kl(trace: Trace, exit: int, other: int) -> Array:
    """KL(p_other ‖ p_L) = Σ_v p_other (ln p_other - ln p_L); of the previous exit a rule of arXiv 2502.05171 (code)."""
    if exit == other:
        return trace.xp.zeros_like(trace.entropy(exit))
    return _divergence(trace, trace.distribution(other), trace.distribution(exit))


def jensen_shannon(trace: Trace, exit: int, other: int) -> Array:
    """JS(p_other, p_L) = H(m) - (H(p_other) + H(p_L))/2 with m their mean; from 0 to ln 2 (Lin 1991)."""
    if exit == other:
        return trace.xp.zeros_like(trace.entropy(exit))
    doubled = trace.distribution(other).p + trace.distribution(exit).p  # 2m, (M, V)
    doubled *= trace.xp.log(doubled)  # in place: fresh memory costs more than the product
    entropy_of_mean = math.log(2) - 0.5 * trace.xp.sum(doubled, axis=-1)
    return entropy_of_mean - 0.5 * (trace.entropy(other) + trace.entropy(exit))


def min_p_kl_to_previous(trace: Trace, exit: int) -> Array:
    """KL(q_{L-1} ‖ q_L), q being p with all below 0.1·max p set to 1/V, renormalised (code of arXiv 2502.05171)."""
    return _divergence(trace, trace.floored(exit - 1), trace.floored(exit))


def entropy_change(trace: Trace, exit: int) -> Array:
    """|H(p_L) - H(p_{L-1})| (code of arXiv 2502.05171)."""
    return trace.xp.abs(trace.entropy(exit) - trace.entropy(exit - 1))


def variance_over_exits(trace: Trace, exit: int) -> Array:
    """Σ_v Var(p_1(v), …, p_L(v)), or Var(x̂_1, …, x̂_L) of each dimension; divided by the number of exits."""
    return trace.spread(exit).squares / (exit + 1)


def squared_change(trace: Trace, exit: int, other: int) -> Array:
    """(x̂_L - x̂_other)²: 2σ² times the divergence of Gaussians of variance σ² about the two predictions."""
    return ((trace.outputs[exit].prediction - trace.outputs[other].prediction) ** 2)[:, 0]


# States of several exits


def relative_update_norm(trace: Trace, exit: int) -> Array:
    """‖Δ_L‖ / ‖h_L‖ of a token's state (code of arXiv 2502.05171)."""
    return trace.update(exit).norm / trace.state_norm(exit)


def state_turn(trace: Trace, exit: int) -> Array:
    """1 - cos(h_L, h_{L-1}), as (‖Δ_L‖² - (‖h_L‖ - ‖h_{L-1}‖)²) / (2 ‖h_L‖ ‖h_{L-1}‖).

    The law of cosines: near convergence 1 - cos itself would be lost in rounding.
    """
    now, before = trace.state_norm(exit), trace.state_norm(exit - 1)
    return (trace.update(exit).norm ** 2 - (now - before) ** 2) / (2 * now * before)


def update_turn(trace: Trace, exit: int) -> Array:
    """1 - cos(Δ_L, Δ_{L-1}): 0 where loops go straight on, 2 where they undo each other."""
    now, before = trace.update(exit), trace.update(exit - 1)
    return 1 - trace.xp.sum(now.change * before.change, axis=-1) / (now.norm * before.norm)


def relative_acceleration(trace: Trace, exit: int) -> Array:
    """‖Δ_L - Δ_{L-1}‖ / ‖h_L‖ of a token's state (arXiv 2509.23314, in units of the state)."""
    bend = trace.update(exit).change - trace.update(exit - 1).change  # (M, D)
    return trace.xp.linalg.vector_norm(bend, axis=-1) / trace.state_norm(exit)


def _divergence(trace: Trace, first: Distribution, second: Distribution) -> Array:
    difference = first.log_p - second.log_p  # (M, V)
    difference *= first.p
    return trace.xp.sum(difference, axis=-1)
