"""Recursive depth in JAX (see the torch room)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from eltbench.accounting import NetworkSpec
from eltbench.backends import positions
from eltbench.backends.jax.blocks import Linear
from eltbench.backends.jax.network import Network, Reading
from eltbench.backends.steps import Carry, Conditioning
from eltbench.core.fixed_point import Solver

Pair = tuple[Array, Array]
"""Answer and latent, each (B, P + T, D)."""


class RecursiveNetwork(Network):
    """A network whose loop is a supervised step of the tiny recursive model (see the torch room)."""

    judge: Linear

    def __init__(self, spec: NetworkSpec, *, solver: Solver | None = None) -> None:
        super().__init__(spec, solver=solver)
        self.judge = Linear(spec.architecture.width, 1)

    def embed(
        self, inputs: Array, labels: Array, context: Array | None, log_snr: Array | None, dropped: Array | None = None
    ) -> tuple[Array, Conditioning]:
        embedded, conditioning = super().embed(inputs, labels, context, log_snr, dropped)
        given = embedded if conditioning.injected is None else conditioning.injected
        first = positions.first_states(self.spec.architecture.width)
        return jnp.broadcast_to(first, (*embedded.shape[:2], len(first))), conditioning._replace(injected=given)

    def loop(self, state: Array, conditioning: Conditioning, index: Array) -> Array:
        """The state (B, P + T, 2 D) after a loop, the same map for every index, with its whole gradient."""
        return self._recursed(state, conditioning, self.spec.recursion.recursions)

    def advance(
        self, carry: Carry, conditioning: Conditioning, index: Array, fields: tuple[str, ...]
    ) -> tuple[Carry, Reading]:
        """What comes out of a loop, with the gradient of its last recursion, and what the exit there takes from it."""
        network, before, shared = lax.stop_gradient((self, carry.state, conditioning))
        state = network._recursed(before, shared, self.spec.recursion.recursions - 1)
        state = self._recursed(lax.stop_gradient(state), conditioning, 1)
        halting = None
        if "halting" in fields:
            answer = state[:, self.prefix :, : self.spec.architecture.width]  # (B, T, D)
            logit = self.judge(answer.mean(axis=1)).astype(jnp.float32)
            halting = jnp.broadcast_to(logit, answer.shape[:2])
        read, kept = (state if field in fields else None for field in ("prediction", "state"))
        return Carry(state, None, None), Reading(read, kept, None, None, halting)

    def read(self, state: Array, conditioning: Conditioning) -> Array:
        """The predictions, from the answer alone."""
        return super().read(state[..., : self.spec.architecture.width], conditioning)

    def _recursed(self, state: Array, conditioning: Conditioning, times: int) -> Array:
        given, plain, block = conditioning.injected, conditioning._replace(injected=None), super().loop
        assert given is not None

        def think(pair: Pair, _: None) -> tuple[Pair, None]:
            answer, latent = pair
            return (answer, block(latent + answer + given, plain, jnp.int32(1))), None

        def recur(pair: Pair, _: None) -> tuple[Pair, None]:
            (answer, latent), _ = lax.scan(think, pair, length=self.spec.recursion.latent_steps)
            return (block(answer + latent, plain, jnp.int32(1)), latent), None

        answer, latent = jnp.split(state, 2, axis=-1)
        pair, _ = lax.scan(recur, (answer, latent), length=times)
        return jnp.concat(pair, axis=-1)


def network_of(spec: NetworkSpec, *, solver: Solver | None = None) -> Network:
    """The network of this depth scheme (see `Network`)."""
    return (RecursiveNetwork if spec.depth == "recursive" else Network)(spec, solver=solver)
