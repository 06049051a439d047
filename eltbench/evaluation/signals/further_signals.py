"""Signals of uncertainty that take further loops: the residual, path independence, recovery from a perturbed state.

They read the states of a recurrence, (B, P + T, D) with all that the loop carries on, as `trajectory` does: norms and
cosines run over all tokens and channels of an item, visible ones too. A larger value means less sure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eltbench.backends.base import Recurrence
from eltbench.core.arrays import Array, namespace
from eltbench.core.streams import stream
from eltbench.evaluation import trajectory
from eltbench.tasks.base import Batch
from eltbench.training.model import Model


def residual(recurrence: Recurrence, state: Array, exit: int) -> Array:
    """‖h_{L+1} - h_L‖ / ‖h_{L+1}‖ (B,): the relative update of the loop after exit L."""
    return trajectory.relative_update_norm([state, recurrence.loop(state, exit + 1)], 1)


def path_dependence(recurrence: Recurrence, state: Array, exit: int, partners: int = 1) -> Array:
    """1 - mean_j cos(h_i, h_{i←j}) (B,): one minus the path independence (asymptotic alignment) of arXiv 2211.09961.

    h_{i←j} is the state of item i at the same exit L after its loops 2 … L have started from the state of item j ≠ i at
    exit L in place of its own: every one of these loops is given the input of item i, but only where the architecture
    injects it. j runs over the `partners` items that follow i. Raises ValueError for L = 1, where no loop is rerun, and
    for fewer than two items or too many partners.
    """
    xp, items = namespace(state), state.shape[0]
    if exit < 2:
        raise ValueError(f"path dependence: a rerun takes loops 2 … L, so L is at least 2, given exit {exit}")
    if not 1 <= partners < items:
        raise ValueError(f"path dependence: {items} items have 1 to {items - 1} partners each, given {partners}")
    apart = []
    for shift in range(1, partners + 1):
        rerun = xp.roll(state, -shift, axis=0)  # item i starts from the state of item i + shift
        for index in range(2, exit + 1):
            rerun = recurrence.loop(rerun, index)
        apart.append(trajectory.direction_update_norm([state, rerun], 1) ** 2 / 2)  # 1 - cos, safe from rounding
    return xp.mean(xp.stack(apart), axis=0)


def perturbation_growth(recurrence: Recurrence, state: Array, exit: int, direction: Array, loops: int = 4) -> Array:
    """`trajectory.recovery`: the factor a loop by which the next `loops` change a state's error of 1 % (B,).

    Stands in for path independence where the input is not injected and so lives in the first state alone.
    """
    return trajectory.recovery(recurrence, state, exit, direction, loops)


def measure_further(
    model: Model, batch: Batch, exits: Sequence[int], *, partners: int = 1, recovery_loops: int = 4, seed: int = 0
) -> dict[str, np.ndarray]:
    """The signals of this file for a host batch, {name: (E, B)} float64: the residual, and how the state depends on
    its path, by `path_dependence` (NaN at exit 1) with input injection and by `perturbation_growth` without.

    The directions of perturbation are drawn from `seed`. Raises ValueError for impossible exits and for unique depth,
    which iterates no map.
    """
    exits = model.exits(exits)
    if model.trainer.depth == "unique":
        raise ValueError(f"trainer {model.run.trainer!r} has no loops: there is no residual and no path to depend on")
    engine = model.engine
    recurrence = engine.recurrence(engine.upload(batch))
    states = trajectory.trajectory(recurrence, exits[-1])
    found: dict[str, list[np.ndarray]] = {"residual": []}
    shape = engine.numpy(recurrence.initial).shape
    direction = engine.ops.asarray(stream(model.run.dataset, seed, "perturbation").standard_normal(shape, np.float32))
    for exit in exits:
        found["residual"].append(engine.numpy(residual(recurrence, states[exit], exit)))
        if not model.run.architecture.input_injection:
            growth = perturbation_growth(recurrence, states[exit], exit, direction, recovery_loops)
            found.setdefault("perturbation_growth", []).append(engine.numpy(growth))
        elif exit > 1:
            dependence = path_dependence(recurrence, states[exit], exit, partners)
            found.setdefault("path_dependence", []).append(engine.numpy(dependence))
        else:
            found.setdefault("path_dependence", []).append(np.full(shape[0], np.nan))
    return {name: np.stack(values).astype(np.float64) for name, values in found.items()}
