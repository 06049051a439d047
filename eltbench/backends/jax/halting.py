"""Adaptive computation time: how many loops each token takes part in, and what it outputs then."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from eltbench.backends.jax.blocks import Linear
from eltbench.backends.steps import EPSILON, Tally


class Halting(eqx.Module):
    """Graves' accumulation (arXiv 1603.08983) as the universal transformer uses it (arXiv 1807.03819).

    The torch room states the formulas and says what each method gives.
    """

    linear: Linear

    def __init__(self, width: int) -> None:
        self.linear = Linear(width, 1)

    def start(self, state: Array) -> Tally:
        ones = jnp.ones_like(state[..., :1])
        return Tally(jnp.zeros_like(state), ones, jnp.ones_like(ones, dtype=bool), ones)

    def advance(self, tally: Tally, state: Array) -> Tally:
        probability = jax.nn.sigmoid(self.linear(state).astype(tally.unspent.dtype))  # (B, T, 1)
        left = tally.unspent - probability
        goes_on = tally.running & (left > EPSILON)
        share = jnp.where(goes_on, probability, tally.unspent) * tally.running
        return Tally(
            tally.accumulated + share * state,
            jnp.where(goes_on, left, tally.unspent),
            goes_on,
            tally.loops + goes_on,
        )

    def output(self, tally: Tally, state: Array) -> Array:
        return tally.accumulated + tally.unspent * tally.running * state

    def ponder(self, tally: Tally) -> Array:
        return (tally.loops + tally.unspent)[..., 0]

    def unhalted(self, tally: Tally) -> Array:
        return (tally.unspent * tally.running)[..., 0]
