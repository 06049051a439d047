"""Signals of uncertainty that take more than one pass: further loops, or several predictions of one input.

Those of further loops read the states of a recurrence, (B, P + T, D) with all that the loop carries on, as `trajectory`
does: norms and cosines run over all tokens and channels of an item, visible ones too. Those of members (dropout left
on, other seeds, another network) take S predictions, logits (S, M, V) or values of x_0 (S, M), and give (M,), in NumPy;
of one member `entropy_of_mean` is the entropy of its prediction. A larger value means less sure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import entr, softmax

from eltbench.backends.base import Recurrence
from eltbench.core.arrays import Array, namespace
from eltbench.core.streams import stream
from eltbench.evaluation import trajectory
from eltbench.tasks.base import Batch
from eltbench.training.model import Model


def residual(recurrence: Recurrence, state: Array, exit: int) -> Array:
    """‖h_{L+1} - h_L‖ / ‖h_{L+1}‖ (B,): the relative update of the loop after exit L."""
    return trajectory.relative_update_norm([state, recurrence.loop(state, exit + 1)], 1)


def path_dependence(recurrence: Recurrence, state: Array, exit: int) -> Array:
    """1 - cos(h_i, h_{i←j}) (B,): one minus the path independence (asymptotic alignment) of arXiv 2211.09961.

    h_{i←j} is the state of item i at the same exit L after its loops 2 … L have started from the state of the next item
    j at exit L in place of its own: every one of these loops is given the input of item i, but only where the
    architecture injects it. Raises ValueError for L = 1, where no loop is rerun, and for a single item.
    """
    if exit < 2:
        raise ValueError(f"path dependence: a rerun takes loops 2 … L, so L is at least 2, given exit {exit}")
    if state.shape[0] < 2:
        raise ValueError("path dependence: a rerun starts from the state of another item, given one item")
    rerun = namespace(state).roll(state, -1, axis=0)
    for index in range(2, exit + 1):
        rerun = recurrence.loop(rerun, index)
    return trajectory.direction_update_norm([state, rerun], 1) ** 2 / 2  # 1 - cos, safe from rounding


def measure_further(
    model: Model, batch: Batch, exits: Sequence[int], *, recovery_loops: int = 4, seed: int = 0
) -> dict[str, np.ndarray]:
    """The signals of further loops for a host batch, {name: (E, B)} float64: the residual, and how the state depends on
    its path, by `path_dependence` (NaN at exit 1) with input injection and by `trajectory.recovery` without.

    The directions of perturbation are drawn from `seed`. Raises ValueError for impossible exits and for unique depth,
    which iterates no map.
    """
    exits = model.exits(exits)
    if model.trainer.depth == "unique":
        raise ValueError(f"trainer {model.run.trainer!r} has no loops: there is no residual and no path to depend on")
    engine = model.engine
    recurrence = engine.recurrence(engine.upload(batch))
    states = trajectory.trajectory(recurrence, exits[-1])
    shape = engine.numpy(recurrence.initial).shape
    direction = engine.ops.asarray(stream(model.run.dataset, seed, "perturbation").standard_normal(shape, np.float32))
    injected = model.run.architecture.input_injection
    residuals, dependence = [], []
    for exit in exits:
        residuals.append(engine.numpy(residual(recurrence, states[exit], exit)))
        if not injected:
            ratio = trajectory.recovery(recurrence, states[exit], exit, direction, recovery_loops)
            dependence.append(engine.numpy(ratio))
        elif exit > 1:
            dependence.append(engine.numpy(path_dependence(recurrence, states[exit], exit)))
        else:
            dependence.append(np.full(shape[0], np.nan))
    found = {"residual": residuals, "path_dependence" if injected else "perturbation_growth": dependence}
    return {name: np.stack(values).astype(np.float64) for name, values in found.items()}


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
