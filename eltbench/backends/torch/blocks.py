"""The layers of a network: attention, the two kinds of transformer block, and the head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eltbench.accounting import NetworkSpec
from eltbench.backends import positions
from eltbench.backends.adapters import PLAIN, LowRank, Updates
from eltbench.core.config import Architecture

Modulation = tuple[Tensor, ...]  # shifts, scales (one already added) and gates, each (B, 1, D)


class Attention(nn.Module):
    """Multi-head self-attention with one matrix product for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, updates: Updates = PLAIN) -> Tensor:
        """x (B, T, D), mask (T, T) with True where a query (row) sees a key (column)."""
        qkv = updated(self.qkv(x), x, updates.qkv).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, D / heads)
        queries, keys, values = (each.transpose(1, 2) for each in self.turned(qkv))  # (B, heads, T, D / heads)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        mixed = mixed.transpose(1, 2).flatten(2)
        return updated(self.projection(mixed), mixed, updates.projection)  # (B, T, D)

    def turned(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, T, heads, D / heads), as they come where positions are added to the input."""
        return qkv.unbind(2)


class RotaryAttention(Attention):
    """Attention whose queries and keys turn with their place on the grid (see `positions.rotations`)."""

    cosines: Tensor  # (T, 1, 1, D / heads)
    sines: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        width, heads = spec.architecture.width, spec.architecture.heads
        super().__init__(width, heads)
        tables = positions.rotations(spec.grid, width // heads, spec.prefix)
        for name, table in zip(("cosines", "sines"), tables, strict=True):
            self.register_buffer(name, torch.tensor(table)[:, None, None], persistent=False)

    def turned(self, qkv: Tensor) -> tuple[Tensor, ...]:
        turning, values = qkv[:, :, :2], qkv[:, :, 2]
        swapped = turning.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)  # of a pair the other
        turned = torch.addcmul(turning * self.cosines, swapped, self.sines).to(qkv.dtype)
        return *turned.unbind(2), values


class MLP(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, width: int, ratio: int, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate
        self.expand = nn.Linear(width, ratio * width)
        self.contract = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor, updates: Updates = PLAIN) -> Tensor:
        hidden = F.gelu(updated(self.expand(x), x, updates.expand), approximate=self.approximate)
        return updated(self.contract(hidden), hidden, updates.contract)  # (B, T, D)


class DiTBlock(nn.Module):
    """adaLN-Zero block (DiT, arXiv 2212.09748): 18 D² weights, of which 6 D² make the modulation.

    The modulation is a separate call because it depends on the condition and not on the state: a looped network makes
    it once and passes it in at every loop. In every block, `recalled` (B, T, D) is added between attention and MLP.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, affine = architecture.width, False
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine)
        self.attention = Attention(width, architecture.heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine)
        self.mlp = MLP(width, architecture.mlp_ratio, "tanh")
        self.modulation = nn.Linear(width, 6 * width)
        self.scale = architecture.residual_factor
        # The gate that follows scales each channel, so the sandwich needs no weights of its own.
        sandwich = architecture.norm == "sandwich"
        self.after1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine) if sandwich else nn.Identity()
        self.after2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine) if sandwich else nn.Identity()

    def modulate(self, activated: Tensor) -> Modulation:
        """The six vectors (B, 1, D) of this layer from the activated condition (B, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(activated).unsqueeze(1).chunk(6, dim=-1)
        return shift1, 1 + scale1, gate1, shift2, 1 + scale2, gate2

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        mask: Tensor | None,
        updates: Updates = PLAIN,
        kept: Tensor | None = None,
        recalled: Tensor | None = None,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        attended = self.attention(torch.addcmul(shift1, self.norm1(x), scale1), mask, updates)
        x = torch.addcmul(x, gate1, thinned(self.after1(attended), kept, 0), value=self.scale)  # (B, T, D)
        x = x if recalled is None else x + recalled
        expanded = self.mlp(torch.addcmul(shift2, self.norm2(x), scale2), updates)
        return torch.addcmul(x, gate2, thinned(self.after2(expanded), kept, 1), value=self.scale)


class BertBlock(nn.Module):
    """Transformer block with the LayerNorm first; the condition is a token of its own, so there is no modulation."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, architecture.heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, architecture.mlp_ratio, "none")
        sandwich = architecture.norm == "sandwich"
        self.after1 = nn.LayerNorm(width, eps=1e-6) if sandwich else nn.Identity()
        self.after2 = nn.LayerNorm(width, eps=1e-6) if sandwich else nn.Identity()
        self.scale = architecture.residual_factor

    def modulate(self, activated: Tensor) -> Modulation:
        """Nothing: this block takes its condition from the prefix token."""
        return ()

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        mask: Tensor | None,
        updates: Updates = PLAIN,
        kept: Tensor | None = None,
        recalled: Tensor | None = None,
    ) -> Tensor:
        attended = thinned(self.after1(self.attention(self.norm1(x), mask, updates)), kept, 0)
        x = torch.add(x, attended, alpha=self.scale)  # (B, T, D)
        x = x if recalled is None else x + recalled
        return torch.add(x, thinned(self.after2(self.mlp(self.norm2(x), updates)), kept, 1), alpha=self.scale)


class PostNormBlock(BertBlock):
    """The block of BERT itself (arXiv 1810.04805): every norm comes behind the addition, and no layer before it."""

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        mask: Tensor | None,
        updates: Updates = PLAIN,
        kept: Tensor | None = None,
        recalled: Tensor | None = None,
    ) -> Tensor:
        attended = thinned(self.attention(x, mask, updates), kept, 0)
        x = self.norm1(torch.add(x, attended, alpha=self.scale))  # (B, T, D)
        x = x if recalled is None else x + recalled
        return self.norm2(torch.add(x, thinned(self.mlp(x, updates), kept, 1), alpha=self.scale))


def block_of(spec: NetworkSpec) -> DiTBlock | BertBlock:
    """One layer of this network's loop; of `spec.unlooped`, one outside it."""
    architecture = spec.architecture
    kind = DiTBlock if architecture.block == "dit" else PostNormBlock if architecture.norm == "post" else BertBlock
    block = kind(architecture)
    if architecture.positions == "rotary":
        block.attention = RotaryAttention(spec)
    return block


class Head(nn.Module):
    """From the state to the prediction: a norm (modulated in a DiT, affine otherwise) and a linear map."""

    def __init__(self, width: int, outputs: int, *, modulated: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=not modulated)
        self.modulation = nn.Linear(width, 2 * width) if modulated else None
        self.linear = nn.Linear(width, outputs)

    def modulate(self, activated: Tensor) -> Modulation:
        """Shift and scale (B, 1, D) from the activated condition (B, D), or nothing."""
        if self.modulation is None:
            return ()
        shift, scale = self.modulation(activated).unsqueeze(1).chunk(2, dim=-1)
        return shift, 1 + scale

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        x = self.norm(x)  # (B, T, D)
        return self.linear(torch.addcmul(modulation[0], x, modulation[1]) if modulation else x)  # (B, T, outputs)


def thinned(added: Tensor, kept: Tensor | None, branch: int) -> Tensor:
    """What a branch of a layer adds (B, T, D), without what dropout leaves out; kept: factors (B, 2, T, D)."""
    return added if kept is None else added * kept[:, branch]


def updated(mapped: Tensor, x: Tensor, update: LowRank | None) -> Tensor:
    """W x + B A x (B, T, outputs), given W x."""
    if update is None:
        return mapped
    down, up = update
    return torch.addmm(mapped.flatten(0, 1), F.linear(x, down).flatten(0, 1), up.T).view(mapped.shape)
