"""The precision of matrix products, and weights in bf16 that are converted once and not in every loop of every call."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from eltbench.backends.torch.adapters import Stack
from eltbench.backends.torch.network import Network

LINEAR = (nn.Linear, Stack)  # whose weights all enter matrix products, which autocast takes in bf16


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """A context with matrix products in this precision; weights, norms and losses stay in float32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=torch.bfloat16)


def converted(network: nn.Module) -> None:
    """Make the weights of all linear maps bf16 in place: what autocast would do again in every call."""
    for module in network.modules():
        if isinstance(module, LINEAR):
            module.to(torch.bfloat16)


class Converted:
    """A copy of a float32 network for calls under bf16 autocast, with the numbers of the network itself.

    The copy is made at the first call and written anew where the network's weights have changed since. It is one copy
    and not a new one each time, so that compiled blocks stay compiled.
    """

    def __init__(self, network: Network, *, compiled: bool) -> None:
        self._network, self._compiled = network, compiled
        self._copy: Network | None = None
        self._versions: list[int] = []

    def __call__(self) -> Network:
        """The copy, with the weights that the network has now."""
        versions = [parameter._version for parameter in self._network.parameters()]  # torch counts writes in place
        if versions != self._versions:
            with torch.inference_mode(False), torch.no_grad():  # in inference mode tensors are made that none may write
                if self._copy is None:
                    self._copy = self._made()
                for own, parameter in zip(self._copy.parameters(), self._network.parameters(), strict=True):
                    own.copy_(parameter)
            self._versions = versions
        assert self._copy is not None
        return self._copy

    def _made(self) -> Network:
        made = copy.deepcopy(self._network).eval().requires_grad_(False)
        converted(made)
        if self._compiled:  # a copy of a compiled block is not compiled
            made.compile_block()
        return made
