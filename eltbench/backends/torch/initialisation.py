"""The weights a network starts from, drawn by torch from the recipe that all backends share."""

from __future__ import annotations

import torch
from torch import nn

from eltbench.backends.initialisation import start


def initialise(network: nn.Module, generator: torch.Generator | None, *, zero_head: bool) -> None:
    """Set every parameter of a Network, drawing from `generator` in the order of its modules."""
    for name, parameter in network.named_parameters():
        kind, scale = start(name, zero_head=zero_head)
        if kind == "normal":
            nn.init.normal_(parameter, std=scale, generator=generator)
        elif kind == "xavier":
            for matrix in parameter.detach().view(-1, *parameter.shape[-2:]):
                nn.init.xavier_uniform_(matrix, generator=generator)
        elif kind == "identity":
            nn.init.eye_(parameter)
        else:
            nn.init.constant_(parameter, scale)
