"""Where the loops lead the hidden state: how far each one moves it, and whether the map contracts there.

h_0 is the embedded input and h_L the state after loop L, (B, T, width) with all that the loop carries on (a prefix
token included); Δ_L = h_L - h_{L-1}. ‖·‖ runs over all tokens and channels of an item, so every metric has one value an
item. In pre-norm residual blocks ‖h‖ may grow for ever, which sends the relative update to zero and the spectral radius
to one: read them beside the direction-normalised update. At equilibrium depth the states are the solver's, and the
radius and the recovery are those of the map whose fixed point it seeks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

from eltbench.backends.base import Recurrence
from eltbench.core.arrays import Array, namespace
from eltbench.core.streams import stream
from eltbench.data.base import Clean
from eltbench.tasks.base import Batch
from eltbench.training.model import Model

Rows = list[dict[str, Any]]

QUARTERS = 4
PERTURBATION = 1e-2  # relative to ‖h‖: small enough to be nearly linear, large against float32's rounding
TOLERANCE = 1e-3  # relative, of an eigenvalue
ARNOLDI = ((20, 30), (60, 60))  # (basis vectors, restarts), each tried where the one before did not converge


def diagnose(
    model: Model,
    batch: Batch,
    exits: Sequence[int],
    *,
    stability_exits: Sequence[int] | None = None,
    samples: int = 4,
    recovery_loops: int = 4,
    seed: int = 0,
) -> Rows:
    """Every diagnostic at every exit, as rows {loops, metric, value, n_samples, reason}.

    `value` is the mean over the items of a host batch for which the metric is defined, and `n_samples` their number;
    where some are missing `reason` says why (otherwise None), and with none left `value` is NaN. The spectral radius
    (of the first `samples` items) and the recovery (over `recovery_loops` further loops, along one random direction an
    item, drawn from `seed`) are costly and measured at `stability_exits`, by default all of `exits`. A unique-depth
    network iterates no map and has no rows. Raises ValueError for impossible exits.
    """
    exits = model.exits(exits)
    probed = exits if stability_exits is None else model.exits(stability_exits) if stability_exits else ()
    if model.trainer.depth == "unique":
        return []
    engine = model.engine
    recurrence = engine.recurrence(engine.upload(batch))
    states = trajectory(recurrence, max(exits + probed))
    rows = []
    for loops in exits:
        for metric, first in STEPWISE.items():
            if loops >= first:
                values = engine.numpy(metric(states, loops))
                rows.append(_row(metric.__name__, loops, values, ["a state or an update is zero or not finite"]))
    items = [batch.select(slice(index, index + 1)) for index in range(min(samples, len(batch.labels)))]
    singles = [engine.recurrence(engine.upload(item)) for item in items]
    shape = engine.numpy(recurrence.initial).shape
    direction = stream(model.run.dataset, seed, "perturbation").standard_normal(shape, np.float32)
    for loops in probed:
        own = [states[loops][index : index + 1] for index in range(len(singles))]
        radii = [_loop_radius(model, *pair, loops + 1) for pair in zip(singles, own, strict=True)]
        reasons = [radius.reason for radius in radii if radius.reason]
        rows.append(_row("spectral_radius", loops, np.array([radius.value for radius in radii]), reasons))
        ratio = recovery(recurrence, states[loops], loops, engine.ops.asarray(direction), recovery_loops)
        rows.append(_row("perturbation_recovery", loops, engine.numpy(ratio), ["a state is not finite"]))
    return rows


def update_norms_by_noise(model: Model, clean: Clean) -> Rows:
    """The relative update norm of the late loops in each quarter of denoising (claim `update-norms`).

    One row {loops, metric, value, n_samples, reason, stratum} a quarter: stratum 0 is the cleanest quarter of the
    corruption levels (time t, or the level of the mask schedule), 3 the noisiest. The value is the mean over the items
    and over loops L_max//2 + 1 … L_max, `loops` is L_max. Every item is seen once in every quarter. There are no rows
    for a unique-depth network, nor for a world that says itself which tokens are hidden and so has no levels.
    """
    if model.trainer.depth == "unique":
        return []
    batches = model.task.heldout(clean, model.spec, stream(model.run.dataset, 0, "heldout"), QUARTERS)
    if len(batches) != QUARTERS:
        return []
    deepest = model.run.architecture.max_loops
    late = range(deepest // 2 + 1, deepest + 1)
    rows = []
    for quarter, batch in enumerate(sorted(batches, key=lambda batch: float(np.mean(model.task.noisiness(batch))))):
        states = trajectory(model.engine.recurrence(model.engine.upload(batch)), deepest)
        norms = np.mean([model.engine.numpy(relative_update_norm(states, loops)) for loops in late], axis=0)  # (B,)
        row = _row("late_update_norm", deepest, norms, ["a state is zero or not finite"])
        rows.append({**row, "stratum": quarter})
    return rows


def trajectory(recurrence: Recurrence, loops: int) -> list[Array]:
    """h_0 … h_loops as `predict` passes through them, so that the index of a state is its loop."""
    states, solver = [recurrence.initial], recurrence.solver
    history = None if solver is None else solver.start(recurrence.initial)
    for index in range(1, loops + 1):
        state = recurrence.loop(states[-1], index)
        if solver is not None and history is not None:
            state, history = solver.step(history, states[-1], state, index)
        states.append(state)
    return states


def relative_update_norm(states: Sequence[Array], loops: int) -> Array:
    """‖Δ_L‖ / ‖h_L‖ (B,), L ≥ 1: the step of loop L in units of the state (exit rule of arXiv 2502.05171)."""
    return _norm(states[loops] - states[loops - 1]) / _norm(states[loops])


def direction_update_norm(states: Sequence[Array], loops: int) -> Array:
    """‖ h_L/‖h_L‖ - h_{L-1}/‖h_{L-1}‖ ‖ (B,), L ≥ 1: the turn of the state, blind to the growth of its norm."""
    now, before = (state / _norm(state)[:, None, None] for state in (states[loops], states[loops - 1]))
    return _norm(now - before)


def update_cosine(states: Sequence[Array], loops: int) -> Array:
    """cos(Δ_L, Δ_{L-1}) (B,), L ≥ 2: 1 where loops go on straight, -1 where they undo each other (2509.23314)."""
    now, before = states[loops] - states[loops - 1], states[loops - 1] - states[loops - 2]
    return namespace(now).sum(now * before, axis=(-2, -1)) / (_norm(now) * _norm(before))


def relative_acceleration(states: Sequence[Array], loops: int) -> Array:
    """‖Δ_L - Δ_{L-1}‖ / ‖h_L‖ (B,), L ≥ 2: arXiv 2509.23314's acceleration, in units of the state."""
    return _norm(states[loops] - 2 * states[loops - 1] + states[loops - 2]) / _norm(states[loops])


STEPWISE: dict[Callable[[Sequence[Array], int], Array], int] = {
    relative_update_norm: 1,
    direction_update_norm: 1,
    update_cosine: 2,
    relative_acceleration: 2,
}
"""The step-wise metrics and the first loop at which each is defined."""


def recovery(recurrence: Recurrence, state: Array, exit: int, direction: Array, loops: int) -> Array:
    """(‖h'_{L+k} - h_{L+k}‖ / ‖h'_L - h_L‖)^{1/k} (B,), where h'_L = h_L + 0.01·‖h_L‖·direction/‖direction‖.

    The factor per loop by which the k loops after exit L change a small error of the state, below 1 where they contract
    it: what stands in for path independence (arXiv 2211.09961) where the input is not injected again.
    """
    perturbed = state + direction * (PERTURBATION * _norm(state) / _norm(direction))[:, None, None]
    before = _norm(perturbed - state)
    for index in range(exit + 1, exit + loops + 1):
        state, perturbed = recurrence.loop(state, index), recurrence.loop(perturbed, index)
    return (_norm(perturbed - state) / before) ** (1 / loops)


class Radius(NamedTuple):
    """A spectral radius, or NaN and the reason why there is none."""

    value: float
    reason: str | None = None


def spectral_radius(product: Callable[[np.ndarray], np.ndarray], size: int) -> Radius:
    """max |eigenvalue| of the real matrix J (size, size) given by v ↦ J·v, by restarted Arnoldi (ARPACK).

    J is not symmetric and complex pairs are common, so a power iteration would not settle. The start vector is fixed;
    the relative tolerance is 1e-3. Without convergence a larger basis and more restarts are tried, then it is NaN.
    """
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    if not np.isfinite(product(start)).all():
        return Radius(np.nan, "the Jacobian is not finite")
    asked = {"k": 1, "which": "LM", "v0": start, "tol": TOLERANCE, "return_eigenvectors": False}
    reason = ""
    for basis, restarts in ARNOLDI:
        try:
            (value,) = eigs(operator, ncv=min(size, basis), maxiter=restarts, **asked)
            return Radius(float(abs(value)))
        except ArpackError as error:  # ArpackNoConvergence among others
            reason = str(error)
    return Radius(np.nan, reason)


def _loop_radius(model: Model, recurrence: Recurrence, state: Array, index: int) -> Radius:
    """The spectral radius of loop `index` at a state (1, T, width) of one item."""
    engine = model.engine
    shape = engine.numpy(state).shape
    jacobian = recurrence.jacobian(state, index)

    def product(vector: np.ndarray) -> np.ndarray:
        image = jacobian(engine.ops.asarray(vector.reshape(shape).astype(np.float32)))
        return engine.numpy(image).ravel().astype(np.float64)

    return spectral_radius(product, int(np.prod(shape)))


def _row(metric: str, loops: int, values: np.ndarray, reasons: Sequence[str]) -> dict[str, Any]:
    """The mean over the finite values; `reasons` apply if some are not."""
    finite = values[np.isfinite(values)].astype(np.float64)
    missing = len(values) - len(finite)
    reason = f"{missing} of {len(values)} items left out: {'; '.join(sorted(set(reasons)))}" if missing else None
    value = float(finite.mean()) if len(finite) else float("nan")
    return {"loops": loops, "metric": metric, "value": value, "n_samples": len(finite), "reason": reason}


def _norm(array: Array) -> Array:
    return namespace(array).linalg.vector_norm(array, axis=(-2, -1))  # (B,)
