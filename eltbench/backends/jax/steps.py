"""A pass in JAX that is taken loop by loop, of which items may leave."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eltbench.backends.jax.network import Network, in_precision
from eltbench.backends.steps import Carry, Conditioning, Steps, select_items
from eltbench.tasks.base import Batch, ExitOutput


class JaxSteps(Steps):
    """A pass of a network over an uploaded batch of B items, until the engine's next training step.

    A program is compiled for every number of items that it runs on, so those that are left are filled up, by items
    computed twice, to B or the next power of two: at most 2 + log₂ B programs, whatever leaves when. What is handed out
    has no filling and lies on the host, where arrays of any length cost no compilation.
    """

    def __init__(self, network: Network, batch: Batch, precision: str) -> None:
        self._network, self._precision, self._loops = network, precision, 0
        self._carry, self._conditioning = _begin(network, batch, precision)
        self._places = np.arange(len(batch.labels))  # of the items that are left, among those that are computed

    @property
    def initial(self) -> np.ndarray:
        return self._on_host(self._carry.state)[:, self._network.prefix :]

    def advance(self, fields: tuple[str, ...]) -> ExitOutput:
        self._loops += 1
        index = np.int32(self._loops)
        self._carry, output = _advance(self._network, self._carry, self._conditioning, index, fields, self._precision)
        return ExitOutput(*(None if field is None else self._on_host(field) for field in output))

    def keep(self, places: np.ndarray) -> None:
        self._places = self._places[places]
        left = len(self._places)
        filled = 1 << (left - 1).bit_length()
        if filled < len(self._carry.state):
            rows = np.concatenate([self._places, np.repeat(self._places[:1], filled - left)])
            self._carry, self._conditioning = _select((self._carry, self._conditioning), rows)
            self._places = np.arange(left)

    def _on_host(self, field: Array) -> np.ndarray:
        return np.asarray(field, np.float32)[self._places]


@partial(jax.jit, static_argnums=2)
def _begin(network: Network, batch: Batch, precision: str) -> tuple[Carry, Conditioning]:
    return in_precision(network, precision).begin(batch)


@partial(jax.jit, static_argnums=(4, 5))
def _advance(
    network: Network, carry: Carry, conditioning: Conditioning, index: Array, fields: tuple[str, ...], precision: str
) -> tuple[Carry, ExitOutput]:
    network = in_precision(network, precision)
    carry, reading = network.advance(carry, conditioning, index, fields)
    return carry, network.output(reading, conditioning)


@jax.jit
def _select(passed: tuple[Carry, Conditioning], places: Array) -> tuple[Carry, Conditioning]:
    return select_items(passed, jnp.asarray(places))
