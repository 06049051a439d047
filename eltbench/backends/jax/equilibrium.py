"""How gradients flow through a fixed point."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array, lax

from eltbench.core.fixed_point import Solver


def phantom_gradient(solver: Solver, function: Callable[[Array], Array], state: Array) -> Array:
    """The state itself, with the gradient of k damped steps z ← z + λ (f(z) - z) from it (see the torch room)."""
    state = lax.stop_gradient(state)

    def step(point: Array, _: None) -> tuple[Array, None]:
        return point + solver.damping * (function(point) - point), None

    point, _ = lax.scan(step, state, length=solver.phantom_steps)
    return state + (point - lax.stop_gradient(point))
