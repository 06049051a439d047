"""Adaptive computation time: how many loops each token takes part in, and what it outputs then."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from eltbench.backends.halting import EPSILON, Tally
from eltbench.backends.jax.blocks import Linear


class Halting(eqx.Module):
    """Graves' accumulation (arXiv 1603.08983) as the universal transformer uses it (arXiv 1807.03819).

    The torch room states the formulas. Nothing here feeds back into the recurrent state, so every exit equals a run
    that is capped there.
    """

    linear: Linear

    def __init__(self, width: int) -> None:
        self.linear = Linear(width, 1)

    def start(self, state: Array) -> Tally:
        """The tally at the first loop; state (B, T, D)."""
        ones = jnp.ones_like(state[..., :1])
        return Tally(jnp.zeros_like(state), ones, jnp.ones_like(ones, dtype=bool), ones)

    def advance(self, tally: Tally, state: Array) -> Tally:
        """The tally for the next loop, given the state (B, T, D) after the current one."""
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
        """What the head reads (B, T, D) if the current loop is the cap: the remainder falls on its state."""
        return tally.accumulated + tally.unspent * tally.running * state

    def ponder(self, tally: Tally) -> Array:
        """Loops spent plus remainder (B, T) if the current loop is the cap."""
        return (tally.loops + tally.unspent)[..., 0]

    def unhalted(self, tally: Tally) -> Array:
        """The probability (B, T) left to the loops from the tally's current one on: 0 for tokens that have halted."""
        return (tally.unspent * tally.running)[..., 0]
