"""Transformer blocks that others wrote, to be timed beside ours on the same state: torch's, timm's, and DiT's."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from eltbench.backends.speed import Call
from eltbench.backends.torch.blocks import BertBlock, DiTBlock
from eltbench.backends.torch.precision import autocast, converted
from eltbench.core.config import Architecture


class PublishedDiTBlock(nn.Module):
    """adaLN-Zero block in the shape that was published with DiT (arXiv 2212.09748): modulation made in the block."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, self.heads = architecture.width, architecture.heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        hidden = architecture.mlp_ratio * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.adaln = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, T, D), condition (B, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln(condition).chunk(6, dim=1)  # (B, D)
        x = x + gate1.unsqueeze(1) * self.attend(_modulated(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(_modulated(self.norm2(x), shift2, scale2))

    def attend(self, x: Tensor) -> Tensor:
        """Multi-head self-attention, (B, T, D)."""
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(queries, keys, values)
        return self.projection(mixed.transpose(1, 2).flatten(2))


def contenders(architecture: Architecture, tokens: int, batch: int, device: str, precision: str) -> dict[str, Call]:
    """One pass of our block (`ours`) and of its peers on a state (batch, tokens, width); timm's where it is installed.

    A DiT block of ours makes its modulation within the call too, as the published one does. In bf16 ours runs as it is
    deployed, its products in bf16 and its norms and sums in float32; blocks of others are converted as a whole, the way
    they are fastest.
    """
    width, heads, hidden = architecture.width, architecture.heads, architecture.mlp_ratio * architecture.width
    draw, dtype = torch.Generator().manual_seed(0), torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(batch, tokens, width, generator=draw).to(device)
    condition = torch.randn(batch, width, generator=draw).to(device)
    their_x, their_condition = x.to(dtype), condition.to(dtype)

    def theirs(block: nn.Module) -> nn.Module:
        return block.to(device, dtype).eval().requires_grad_(False)

    modulated = architecture.block == "dit"
    block = (DiTBlock if modulated else BertBlock)(architecture)
    block = block.to(device).eval().requires_grad_(False)
    if precision == "bf16":
        converted(block)

    def ours() -> Tensor:
        with autocast(torch.device(device), precision):
            return block(x, block.modulate(nn.functional.silu(condition)) if modulated else (), None)

    found: dict[str, Call] = {"ours": ours}
    if modulated:
        published = theirs(PublishedDiTBlock(architecture))
        found["published DiT block"] = lambda: published(their_x, their_condition)
    else:
        layer = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        torchs = theirs(nn.TransformerEncoderLayer(width, heads, hidden, **layer))  # type: ignore[arg-type]
        found["torch.nn.TransformerEncoderLayer"] = lambda: torchs(their_x)
        with contextlib.suppress(ImportError):
            from timm.models.vision_transformer import Block

            timms = theirs(Block(width, heads, mlp_ratio=architecture.mlp_ratio, qkv_bias=True))
            found["timm.models.vision_transformer.Block"] = lambda: timms(their_x)
    return {name: torch.inference_mode()(call) for name, call in found.items()}


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
