"""The looped map of one batch in JAX, with its derivative."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from eltbench.backends.base import Recurrence
from eltbench.backends.jax.network import Conditioning, Network
from eltbench.tasks.base import Batch


class JaxRecurrence(Recurrence):
    """The recurrence of a network on an uploaded batch, in float32 whatever the run's precision.

    It has weights of its own: those of the engine are given away at the next training step.
    """

    def __init__(self, network: Network, batch: Batch) -> None:
        self.network, self.solver = jax.tree.map(jnp.copy, network), network.solver
        self.initial, self.conditioning = _embed(self.network, batch)  # (B, P + T, D)

    def loop(self, state: Array, index: int) -> Array:
        return _loop(self.network, self.conditioning, state, jnp.int32(index))

    def read(self, state: Array) -> Array:
        return _read(self.network, self.conditioning, state)

    def jacobian(self, state: Array, index: int) -> Callable[[Array], Array]:
        """J·v in forward mode; the state is computed again with every product, at about the product's own cost."""
        return partial(_product, self.network, self.conditioning, state, jnp.int32(index))


@jax.jit
def _embed(network: Network, batch: Batch) -> tuple[Array, Conditioning]:
    return network.embed(batch.inputs, batch.labels, batch.context, batch.log_snr)


@jax.jit
def _loop(network: Network, conditioning: Conditioning, state: Array, index: Array) -> Array:
    return network.loop(state, conditioning, index)


@jax.jit
def _read(network: Network, conditioning: Conditioning, state: Array) -> Array:
    return network.read(state, conditioning)


@jax.jit
def _product(network: Network, conditioning: Conditioning, state: Array, index: Array, vector: Array) -> Array:
    return jax.jvp(lambda state: network.loop(state, conditioning, index), (state,), (vector,))[1]
