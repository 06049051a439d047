"""Per-loop adapters: a low-rank update of the shared block's linear maps, another one in every loop."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from eltbench.backends.adapters import LowRank, Updates, shapes
from eltbench.backends.jax.blocks import blank
from eltbench.core.config import Architecture


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
    """The updates of one layer, as in relaxed recursive transformers (arXiv 2410.20672).

    The torch room says which maps are updated and how. The loop's number may be traced: its update is gathered.
    """

    qkv: Stack
    projection: Stack
    expand: Stack
    contract: Stack

    def __init__(self, architecture: Architecture) -> None:
        loops, rank = architecture.max_loops, architecture.loop_adapter_rank
        maps = shapes(architecture.width, architecture.mlp_ratio)
        self.qkv, self.projection, self.expand, self.contract = (Stack(loops, rank, *shape) for shape in maps)

    def at(self, index: Array) -> Updates:
        """The layer's updates in loop `index` (1 is the first)."""
        return Updates(*(stack.at(index) for stack in (self.qkv, self.projection, self.expand, self.contract)))
