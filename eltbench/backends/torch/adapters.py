"""Per-loop adapters: a low-rank update of the shared block's linear maps, another one in every loop."""

from __future__ import annotations

import torch
from torch import nn

from eltbench.accounting import NetworkSpec
from eltbench.backends.adapters import LowRank, Updates


class Stack(nn.Module):
    """The low-rank updates of one linear map, of all loops."""

    def __init__(self, loops: int, rank: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(loops, rank, inputs))  # A
        self.up = nn.Parameter(torch.empty(loops, outputs, rank))  # B

    def at(self, index: int) -> LowRank:
        """The update in loop `index` (1 is the first); loops beyond the last that has one take that."""
        place = min(index, len(self.down)) - 1
        down, up = self.down[place], self.up[place]
        # Also without gradients a view of a parameter says that it requires one, which torch's FLOP counter trips over.
        return (down, up) if torch.is_grad_enabled() else (down.detach(), up.detach())


class Adapters(nn.Module):
    """The updates of one layer, as in relaxed recursive transformers (arXiv 2410.20672).

    In loop l a map W of the layer becomes W + B_l·A_l, with no further scale: queries, keys and values together,
    attention's projection, and both maps of the MLP. Biases, norms and modulation stay shared. A is random and B zero
    at the start, where the layer is thus the plain one. Loops beyond max_loops take the update of max_loops.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        loops, rank = spec.architecture.max_loops, spec.architecture.loop_adapter_rank
        self.qkv, self.projection, self.expand, self.contract = (Stack(loops, rank, *each) for each in spec.maps)

    def at(self, index: int) -> Updates:
        """The layer's updates in loop `index` (1 is the first)."""
        return Updates(*(stack.at(index) for stack in (self.qkv, self.projection, self.expand, self.contract)))
