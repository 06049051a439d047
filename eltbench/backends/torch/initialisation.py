"""The weights a network starts from, in one place, each with its reason."""

from __future__ import annotations

import torch
from torch import nn

CONTENT = 0.7  # root mean square of a sin-cos position: at the start content and place weigh the same
SMALL = 0.02  # DiT's and BERT's


def initialise(network: nn.Module, generator: torch.Generator | None, *, zero_head: bool) -> None:
    """Set every parameter of a Network, drawing from `generator` in the order of its modules (DiT's recipe)."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith("modulation") or (zero_head and name == "head.linear"):
                nn.init.zeros_(module.weight)  # adaLN-Zero: every block is the identity, the estimate the data's mean
            elif name == "head.linear" or name.startswith("condition."):
                nn.init.normal_(module.weight, std=SMALL, generator=generator)  # near-uniform logits, weak condition
            elif name == "injection":
                nn.init.eye_(module.weight)  # begins as plain addition of the embedded input
            else:
                nn.init.xavier_uniform_(module.weight, generator=generator)  # keeps the variance of what it maps
            nn.init.constant_(module.bias, 1.0 if name == "halting.linear" else 0.0)  # ACT begins with few loops
        elif isinstance(module, nn.Embedding):
            std = SMALL if name.startswith("condition.") else CONTENT
            nn.init.normal_(module.weight, std=std, generator=generator)
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
