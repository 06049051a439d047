"""The looped map of one batch in JAX, with its derivative."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from eltbench.backends.base import Recurrence
from eltbench.backends.jax.network import Network
from eltbench.backends.steps import Conditioning
from eltbench.tasks.base import Batch


class JaxRecurrence(Recurrence):
    """The recurrence of a network on an uploaded batch, in float32 whatever the run's precision.

    It has weights of its own: those of the engine are given away at the next training step.
    """

    def __init__(self, network: Network, batch: Batch) -> None:
        self.network, self.solver = jax.tree.map(jnp.copy, network), network.solver
        self.initial, self.conditioning = _embed(self.network, *batch.given)  # (B, P + T, D)

    def loop(self, state: Array, index: int) -> Array:
        return _loop(self.network, state, self.conditioning, jnp.int32(index))

    def read(self, state: Array) -> Array:
        return _read(self.network, state, self.conditioning)

    def jacobian(self, state: Array, index: int) -> Callable[[Array], Array]:
        """J·v in forward mode; the state is computed again with every product, at about the product's own cost."""
        return partial(_product, self.network, self.conditioning, state, jnp.int32(index))


_embed = jax.jit(lambda network, *given: network.embed(*given))
_loop = jax.jit(lambda network, *given: network.loop(*given))
_read = jax.jit(lambda network, *given: network.read(*given))


@jax.jit
def _product(network: Network, conditioning: Conditioning, state: Array, index: Array, vector: Array) -> Array:
    return jax.jvp(lambda state: network.loop(state, conditioning, index), (state,), (vector,))[1]
