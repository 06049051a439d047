"""Per-loop adapters: a low-rank update of the shared block's linear maps, another one in every loop."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from eltbench.accounting import NetworkSpec
from eltbench.backends.adapters import LowRank, Updates
from eltbench.backends.jax.blocks import blank


class Stack(eqx.Module):
    """The low-rank updates of one linear map, of all loops."""

    down: Array  # (loops, rank, inputs), A
    up: Array  # (loops, outputs, rank), B

    def __init__(self, loops: int, rank: int, inputs: int, outputs: int) -> None:
        self.down, self.up = blank(loops, rank, inputs), blank(loops, outputs, rank)

    def at(self, index: Array) -> LowRank:
        """The update in loop `index` (1 is the first); loops beyond the last that has one take that."""
        place = jnp.minimum(index, len(self.down)) - 1
        return self.down[place], self.up[place]


class Adapters(eqx.Module):
    """The updates of one layer (see the torch room); the loop's number may be traced."""

    qkv: Stack
    projection: Stack
    expand: Stack
    contract: Stack

    def __init__(self, spec: NetworkSpec) -> None:
        loops, rank = spec.architecture.max_loops, spec.architecture.loop_adapter_rank
        self.qkv, self.projection, self.expand, self.contract = (Stack(loops, rank, *each) for each in spec.maps)

    def at(self, index: Array) -> Updates:
        """The layer's updates in loop `index` (1 is the first)."""
        return Updates(*(stack.at(index) for stack in (self.qkv, self.projection, self.expand, self.contract)))
