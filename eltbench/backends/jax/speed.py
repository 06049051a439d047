"""JAX networks to be timed at inference: the loop as XLA's own loop, or unrolled into one program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eltbench.backends.jax.initialisation import initialise
from eltbench.backends.jax.network import Network, in_precision
from eltbench.backends.jax.ops import JaxOps
from eltbench.backends.jax.parallel import available_devices
from eltbench.backends.speed import Body, Call, random_batch
from eltbench.backends.steps import Conditioning
from eltbench.tasks.base import Batch, Predict


class JaxSpeed:
    """See `eltbench.backends.speed.Speed`: `scan` is the engine's own form, `unrolled` a program without a loop."""

    modes = ("scan", "unrolled")

    def __init__(self, device: str, threads: int) -> None:
        self.device = available_devices(device)[0]  # XLA reads its threads from the environment when it starts
        self.ops = JaxOps(self.device)

    def network(self, body: Body) -> Network:
        """A network with random weights, converted to the precision once."""
        if body.mode not in self.modes:
            raise ValueError(f"JAX runs calls in the modes {', '.join(self.modes)}, given {body.mode!r}")
        network = Network(body.network)
        network = initialise(network, np.random.default_rng(0), zero_head=False)
        return jax.device_put(in_precision(network, body.precision), self.device)

    def predict(self, body: Body) -> Predict:
        network, run = self.network(body), jax.jit(_unrolled if body.mode == "unrolled" else _scanned, static_argnums=2)

        def predict(inputs: Array, labels: Array, log_snr: Array, context: Array, loops: int) -> Array:
            return self._done(run(network, Batch(inputs, labels, context, log_snr, None, None), loops))

        return predict

    def call(self, body: Body) -> Call:
        predict, batch = self.predict(body), self.inputs(body)
        return lambda: predict(batch.inputs, batch.labels, batch.log_snr, batch.context, body.loops)

    def blocks(self, body: Body) -> Call:
        network, batch = self.network(body), self.inputs(body)
        state, conditioning = jax.jit(lambda network: network.embed(*batch.given))(network)

        @jax.jit
        def run(network: Network, state: Array, conditioning: Conditioning) -> Array:
            return jax.lax.fori_loop(1, body.loops + 1, lambda at, h: network.loop(h, conditioning, at), state)

        return lambda: self._done(run(network, state, conditioning))

    def unhoisted(self, body: Body) -> Call:
        raise ValueError("JAX's compiler moves what does not depend on the loop out of it: time this in torch")

    def wait(self, last: Any) -> None:
        jax.block_until_ready(last)

    def inputs(self, body: Body) -> Batch:
        return jax.device_put(random_batch(body), self.device)

    def _done(self, result: Array) -> Array:
        """On a CPU one call waits for the other, as in a sampler; JAX would run several at a time."""
        return jax.block_until_ready(result) if self.device.platform == "cpu" else result


def _scanned(network: Network, batch: Batch, loops: int) -> Array:
    return network.infer(batch, jnp.array([loops]), ("prediction",))[0].prediction


def _unrolled(network: Network, batch: Batch, loops: int) -> Array:
    state, conditioning = network.embed(*batch.given)
    for index in range(1, loops + 1):
        state = network.loop(state, conditioning, jnp.int32(index))
    return network.read(state, conditioning)
