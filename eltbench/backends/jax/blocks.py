"""The layers of a network: linear maps, attention, the two kinds of transformer block, and the head.

Parameters have the names and shapes of the torch room. A layer is made with blank parameters, which `initialise`
replaces. Norms and sums are in float32; a linear map computes in the type of its weight (see `network.in_precision`).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from eltbench.accounting import NetworkSpec
from eltbench.backends import positions
from eltbench.backends.adapters import PLAIN, LowRank, Updates
from eltbench.core.config import Architecture

Modulation = tuple[Array, ...]  # shifts, scales (one already added) and gates, each (B, 1, D)
EXACT = "float32"  # of a float32 product on accelerators whose default is coarser; products in bf16 stay as they are


def blank(*shape: int) -> Any:
    """A place for a parameter of this shape."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Linear(eqx.Module):
    """x Wᵀ + b, over any leading axes."""

    weight: Array  # (outputs, inputs)
    bias: Array

    def __init__(self, inputs: int, outputs: int) -> None:
        self.weight, self.bias = blank(outputs, inputs), blank(outputs)

    def __call__(self, x: Array) -> Array:
        mapped = jnp.matmul(x.astype(self.weight.dtype), self.weight.T, precision=EXACT)
        # in float32 also for bf16, since the bias's gradient is a sum over all items and tokens
        return (mapped.astype(jnp.float32) + self.bias.astype(jnp.float32)).astype(mapped.dtype)


def updated(mapped: Array, x: Array, update: LowRank | None) -> Array:
    """W x + B A x (B, T, outputs), given W x."""
    if update is None:
        return mapped
    down, up = update
    low = jnp.matmul(x.astype(down.dtype), down.T, precision=EXACT)  # (B, T, rank)
    return mapped + jnp.matmul(low, up.T, precision=EXACT)


class Embedding(eqx.Module):
    """One vector per index; an index beyond the table gives NaN, for JAX would clamp it without a word."""

    weight: Array  # (entries, width)

    def __init__(self, entries: int, width: int) -> None:
        self.weight = blank(entries, width)

    def __call__(self, indices: Array) -> Array:
        return self.weight.at[indices].get(mode="fill", fill_value=jnp.nan)


class LayerNorm(eqx.Module):
    """Zero mean and unit variance over channels, in float32."""

    weight: Array | None
    bias: Array | None

    def __init__(self, width: int, *, affine: bool = True) -> None:
        self.weight, self.bias = (blank(width), blank(width)) if affine else (None, None)

    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
        return normal if self.weight is None or self.bias is None else normal * self.weight + self.bias


class Attention(eqx.Module):
    """Multi-head self-attention with one matrix product for queries, keys and values."""

    qkv: Linear
    projection: Linear
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int) -> None:
        self.qkv, self.projection, self.heads = Linear(width, 3 * width), Linear(width, width), heads

    def __call__(self, x: Array, mask: Array | None, updates: Updates = PLAIN) -> Array:
        """x (B, T, D), mask (T, T) with True where a query (row) sees a key (column)."""
        items, tokens, width = x.shape
        qkv = updated(self.qkv(x), x, updates.qkv).reshape(items, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = self.turned(qkv)
        everywhere = None if mask is None else mask[None, None]  # (1, 1, T, T)
        with jax.default_matmul_precision(EXACT):
            mixed = jax.nn.dot_product_attention(queries, keys, values, mask=everywhere)
        mixed = mixed.reshape(x.shape)
        return updated(self.projection(mixed), mixed, updates.projection)  # (B, T, D)

    def turned(self, qkv: Array) -> tuple[Array, ...]:
        """Queries, keys and values (B, T, heads, D / heads), as they come where positions are added to the input."""
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


class RotaryAttention(Attention):
    """Attention whose queries and keys turn with their place on the grid (see `positions.rotations`)."""

    spec: NetworkSpec = eqx.field(static=True)

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec.architecture.width, spec.architecture.heads)
        self.spec = spec

    def turned(self, qkv: Array) -> tuple[Array, ...]:
        size = qkv.shape[-1]
        tables = positions.rotations(self.spec.grid, size, self.spec.prefix)
        cosines, sines = (jnp.asarray(table)[:, None, None] for table in tables)  # (T, 1, 1, size)
        turning = qkv[:, :, :2].astype(jnp.float32)
        swapped = jnp.flip(turning.reshape(*turning.shape[:-1], 2, 2, size // 4), -2).reshape(turning.shape)
        turned = (turning * cosines + swapped * sines).astype(qkv.dtype)
        return turned[:, :, 0], turned[:, :, 1], qkv[:, :, 2]


class MLP(eqx.Module):
    """Two linear maps with a GELU between them."""

    expand: Linear
    contract: Linear
    approximate: bool = eqx.field(static=True)

    def __init__(self, width: int, ratio: int, *, approximate: bool) -> None:
        self.expand, self.contract = Linear(width, ratio * width), Linear(ratio * width, width)
        self.approximate = approximate

    def __call__(self, x: Array, updates: Updates = PLAIN) -> Array:
        hidden = jax.nn.gelu(updated(self.expand(x), x, updates.expand), approximate=self.approximate)
        return updated(self.contract(hidden), hidden, updates.contract)  # (B, T, D)


class Block(eqx.Module):
    """The parts that both kinds of transformer block have."""

    norm1: LayerNorm
    attention: Attention
    norm2: LayerNorm
    mlp: MLP
    after1: LayerNorm | None  # norm "sandwich"
    after2: LayerNorm | None
    scale: float = eqx.field(static=True)  # of what a layer adds

    def __init__(self, architecture: Architecture, *, affine: bool, approximate: bool) -> None:
        width, sandwich = architecture.width, architecture.norm == "sandwich"
        self.norm1, self.norm2 = LayerNorm(width, affine=affine), LayerNorm(width, affine=affine)
        self.attention = Attention(width, architecture.heads)
        self.mlp = MLP(width, architecture.mlp_ratio, approximate=approximate)
        self.after1 = LayerNorm(width, affine=affine) if sandwich else None
        self.after2 = LayerNorm(width, affine=affine) if sandwich else None
        self.scale = architecture.residual_factor


class DiTBlock(Block):
    """adaLN-Zero block (DiT, arXiv 2212.09748): 18 D² weights, of which 6 D² make the modulation.

    The modulation is a separate call because it depends on the condition and not on the state: a looped network makes
    it once and passes it in at every loop. The gate scales each channel, so the norms need no weights of their own. In
    every block, `recalled` (B, T, D) is added between attention and MLP.
    """

    modulation: Linear

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, affine=False, approximate=True)
        self.modulation = Linear(architecture.width, 6 * architecture.width)

    def modulate(self, activated: Array) -> Modulation:
        """The six vectors (B, 1, D) of this layer from the activated condition (B, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(self.modulation(activated)[:, None], 6, axis=-1)
        if self.scale != 1:  # once per call, and not at every loop
            gate1, gate2 = self.scale * gate1, self.scale * gate2
        return shift1, 1 + scale1, gate1, shift2, 1 + scale2, gate2

    def __call__(
        self,
        x: Array,
        modulation: Modulation,
        mask: Array | None,
        updates: Updates = PLAIN,
        kept: Array | None = None,
        recalled: Array | None = None,
    ) -> Array:
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        attended = normalised(self.after1, self.attention(shift1 + self.norm1(x) * scale1, mask, updates))
        x = x + gate1 * thinned(attended, kept, 0)  # (B, T, D)
        x = x if recalled is None else x + recalled
        expanded = normalised(self.after2, self.mlp(shift2 + self.norm2(x) * scale2, updates))
        return x + gate2 * thinned(expanded, kept, 1)


class BertBlock(Block):
    """Transformer block with the LayerNorm first; the condition is a token of its own, so there is no modulation."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, affine=True, approximate=False)

    def modulate(self, activated: Array) -> Modulation:
        """Nothing: this block takes its condition from the prefix token."""
        return ()

    def __call__(
        self,
        x: Array,
        modulation: Modulation,
        mask: Array | None,
        updates: Updates = PLAIN,
        kept: Array | None = None,
        recalled: Array | None = None,
    ) -> Array:
        attended = normalised(self.after1, self.attention(self.norm1(x), mask, updates))
        x = x + self.scale * thinned(attended, kept, 0)  # (B, T, D)
        x = x if recalled is None else x + recalled
        return x + self.scale * thinned(normalised(self.after2, self.mlp(self.norm2(x), updates)), kept, 1)


class PostNormBlock(BertBlock):
    """The block of BERT itself (arXiv 1810.04805): every norm comes behind the addition, and no layer before it."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)

    def __call__(
        self,
        x: Array,
        modulation: Modulation,
        mask: Array | None,
        updates: Updates = PLAIN,
        kept: Array | None = None,
        recalled: Array | None = None,
    ) -> Array:
        attended = thinned(normalised(None, self.attention(x, mask, updates)), kept, 0)
        x = self.norm1(x + self.scale * attended)  # (B, T, D)
        x = x if recalled is None else x + recalled
        return self.norm2(x + self.scale * thinned(normalised(None, self.mlp(x, updates)), kept, 1))


def block_of(spec: NetworkSpec) -> DiTBlock | BertBlock:
    """One layer of this network's loop; of `spec.unlooped`, one outside it."""
    architecture = spec.architecture
    kind = DiTBlock if architecture.block == "dit" else PostNormBlock if architecture.norm == "post" else BertBlock
    block = kind(architecture)
    if architecture.positions == "rotary":
        return eqx.tree_at(lambda block: block.attention, block, RotaryAttention(spec))
    return block


class Head(eqx.Module):
    """From the state to the prediction: a norm (modulated in a DiT, affine otherwise) and a linear map."""

    norm: LayerNorm
    modulation: Linear | None
    linear: Linear

    def __init__(self, width: int, outputs: int, *, modulated: bool) -> None:
        self.norm = LayerNorm(width, affine=not modulated)
        self.modulation = Linear(width, 2 * width) if modulated else None
        self.linear = Linear(width, outputs)

    def modulate(self, activated: Array) -> Modulation:
        """Shift and scale (B, 1, D) from the activated condition (B, D), or nothing."""
        if self.modulation is None:
            return ()
        shift, scale = jnp.split(self.modulation(activated)[:, None], 2, axis=-1)
        return shift, 1 + scale

    def __call__(self, x: Array, modulation: Modulation) -> Array:
        x = self.norm(x)  # (..., B, T, D)
        return self.linear(modulation[0] + x * modulation[1] if modulation else x)  # (..., B, T, outputs)


def normalised(norm: LayerNorm | None, added: Array) -> Array:
    """What a sub-layer adds, in float32, normalised where the norm is a sandwich."""
    return added.astype(jnp.float32) if norm is None else norm(added)


def thinned(added: Array, kept: Array | None, branch: int) -> Array:
    """What a branch of a layer adds (B, T, D), without what dropout leaves out; kept: factors (B, 2, T, D)."""
    return added if kept is None else added * kept[:, branch]
