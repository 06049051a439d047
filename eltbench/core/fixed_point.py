"""Fixed points z = f(z): the iteration that seeks one, plain or accelerated, written once for both backends.

A network needs an iteration of static shapes, item by item, without a stopping rule, of which every iterate can be
read. The maintained solvers are bound to one framework and built around stopping (torchdeq stops a batch as a whole,
jaxopt is no longer developed), lack Anderson acceleration (optimistix), or work on one vector on the host
(scipy.optimize.anderson, the tests' oracle). So its few lines stand here, on the Array API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from eltbench.core.arrays import Array, namespace
from eltbench.core.config import Architecture, check_settings

FIXED_POINT = {
    "input_injection": True,
    "loop_embedding": False,
    "loop_conditioning": False,
    "loop_adapter_rank": 0,
    "loop_norm": False,
}
"""What it takes for every loop to be the same map of state and input; it ends in a norm by itself."""
LEAST_RIDGE = 1e-5
"""Of a network, whose differences are known to single precision: less would make the least squares singular."""


class History(NamedTuple):
    """What the accelerated iteration remembers of states (B, T, D); of m differences the latest comes last.

    state, residual: before the latest loop, and f(z) - z there. moves, changes: differences of states and of residuals,
    (m, B, T, D), zero where there were none yet. products: of the changes, (m, m, B, 1, 1).
    """

    state: Array
    residual: Array
    moves: Array
    changes: Array
    products: Array

    def select(self, places: Array) -> History:
        """The history of the items at `places` (R,)."""
        take = namespace(self.state).take
        parts = zip(self, (0, 0, 1, 1, 2), strict=True)  # the axis of the items
        return History(*(take(part, places, axis=axis) for part, axis in parts))


@dataclass(frozen=True)
class Solver:
    """Anderson acceleration of z ← f(z) (DEQ, arXiv 1909.01377; type II in Walker and Ni, SIAM J. Numer. Anal. 2011).

    With g = f(z) - z and the latest m differences ΔZ of states and ΔG of residuals, a loop takes z to
    z + β g - (ΔZ + β ΔG) γ, where γ minimises |g - ΔG γ|² + ridge·Σ_i |ΔG_i|² γ_i² for each item by itself. That is one
    call of f a loop, and no loop depends on later ones. Raises ValueError for settings out of range.
    """

    memory: int = 0  # m; 0 iterates plainly: z + β g
    mixing: float = 1.0  # β
    ridge: float = 1e-4  # relative, so that it does not depend on the scale of the state
    phantom_steps: int = 5  # of the gradient (see `phantom_gradient` of the backends)
    damping: float = 0.5  # the share of f(z) in each of them

    def __post_init__(self) -> None:
        for name, value, allowed, expected in (
            ("memory", self.memory, self.memory >= 0, "at least 0 (plain iteration)"),
            ("mixing", self.mixing, 0 < self.mixing <= 1, "in (0, 1]"),
            ("ridge", self.ridge, 0 < self.ridge <= 1, "in (0, 1]"),
            ("phantom_steps", self.phantom_steps, self.phantom_steps >= 1, "at least 1"),
            ("damping", self.damping, 0 < self.damping <= 1, "in (0, 1]"),
        ):
            if not allowed:
                raise ValueError(f"solver: {name} must be {expected}, given {value}")

    def start(self, state: Array) -> History:
        """The history before the first loop from a state (B, T, D)."""
        xp, m = namespace(state), self.memory
        nothing = xp.zeros_like(xp.broadcast_to(state, (m, *state.shape)))
        products = xp.zeros_like(xp.broadcast_to(state[..., :1, :1], (m, m, len(state), 1, 1)))
        return History(state, xp.zeros_like(state), nothing, nothing, products)

    def step(self, history: History, state: Array, mapped: Array, index: Array) -> tuple[Array, History]:
        """The state after loop `index` (1 is the first), given the state before it and what f makes of that."""
        residual = mapped - state
        if not self.memory:
            return state + self.mixing * residual, history
        xp = namespace(state)
        known = index > 1  # the first loop has none to differ from
        moves = xp.concat([history.moves[1:, ...], (known * (state - history.state))[None, ...]])
        changes = xp.concat([history.changes[1:, ...], (known * (residual - history.residual))[None, ...]])
        newest = _inner(changes, changes[-1, ...])  # (m, B, 1, 1)
        older = xp.concat([history.products[1:, 1:, ...], newest[:-1, None, ...]], axis=1)  # (m - 1, m, B, 1, 1)
        products = xp.concat([older, newest[None, ...]])
        weights = self._weights(products, _inner(changes, residual))
        ahead = state + self.mixing * residual - xp.sum(weights * (moves + self.mixing * changes), axis=0)
        return ahead, History(state, residual, moves, changes, products)

    def _weights(self, products: Array, aims: Array) -> Array:
        """γ (m, B, 1, 1); where nothing is remembered yet the ridge makes it zero."""
        xp = namespace(products)
        matrix = xp.permute_dims(products, (2, 3, 4, 0, 1))  # (B, 1, 1, m, m)
        aim = xp.permute_dims(aims, (1, 2, 3, 0))  # (B, 1, 1, m)
        identity = xp.tril(xp.triu(xp.ones_like(matrix)))
        length = xp.sqrt(xp.sum(matrix * identity, axis=-1))  # of every difference; early ones are the longest by far
        length = xp.where(length > 0, length, xp.ones_like(length))
        matrix = matrix / (length[..., None, :] * length[..., :, None]) + self.ridge * identity
        weights = xp.linalg.solve(matrix, (aim / length)[..., None])[..., 0] / length
        return xp.permute_dims(weights, (3, 0, 1, 2))


def _inner(changes: Array, residual: Array) -> Array:
    """Inner products (m, B, 1, 1)."""
    return namespace(changes).sum(changes * residual, axis=(-2, -1), keepdims=True)


def check_fixed_point(architecture: Architecture, solver: Solver) -> None:
    """Raise ValueError for a network whose loops have no fixed point to seek, or not with this solver."""
    check_settings(architecture, FIXED_POINT, "a fixed point needs every loop to be the same map of state and input")
    if solver.memory and not solver.ridge >= LEAST_RIDGE:
        raise ValueError(f"solver: ridge must be at least {LEAST_RIDGE} for a network, given {solver.ridge}")
    if solver.memory and architecture.attention_radius is not None:
        raise ValueError(
            "solver: Anderson acceleration weighs states by all of their tokens, which tells each of others beyond the "
            f"attention radius: give memory = 0 (plain iteration) or no radius, given memory = {solver.memory} and "
            f"attention_radius = {architecture.attention_radius}"
        )
