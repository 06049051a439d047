"""Bytes that the matrix products of a call move, and FLOPs per byte: what a roofline sets against two peaks.

Every product reads its operands and writes its result once; attention is one fused product that reads queries, keys
and values and writes its output. What lies between products (norms, activations, sums) is taken to be fused into them,
and look-ups are left out. No cache keeps an activation from one product to the next. Whether the shared block's
weights stay in a cache from one loop to the next is the question of the throughput claim, hence `resident`.
"""

from __future__ import annotations

from eltbench.accounting.network import BYTES, Depth, check_call, flops, state_length, token_grid
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec


def moved_bytes(
    architecture: Architecture,
    depth: Depth,
    spec: DataSpec,
    timed: bool,
    loops: int,
    exits: int = 1,
    batch: int = 1,
    precision: str = "fp32",
    *,
    resident: bool = False,
) -> dict[str, int]:
    """Bytes of one call on `batch` items, `weights` (biases included) and `activations`, all in `precision`.

    resident: the weights of the block are read once per call and not once per loop, those of a loop's adapters once per
    loop that has its own. Raises ValueError for an impossible call and an unknown precision.
    """
    if precision not in BYTES:
        raise ValueError(f"precision must be one of {list(BYTES)}, given {precision!r}")
    check_call(depth, loops, exits, batch)
    rows, columns = token_grid(architecture, depth, spec)
    tokens, length, d = rows * columns, state_length(architecture, depth, spec, timed), architecture.width
    hidden, layers = architecture.mlp_ratio * d, architecture.unique_layers
    patch = architecture.patch**2 * spec.channels
    outputs = patch if spec.kind == "continuous" else spec.vocabulary
    reads = 1 if resident else loops
    modulated = loops if architecture.loop_conditioning else 1

    # (input, output, vectors that pass per item, times the weights are read, times it is computed)
    products = [
        (d, 3 * d, length, layers * reads, layers * loops),
        (d, d, length, layers * reads, layers * loops),
        (d, hidden, length, layers * reads, layers * loops),
        (hidden, d, length, layers * reads, layers * loops),
        (d, outputs, tokens, exits, exits),
    ]
    if spec.kind == "continuous":
        products.append((patch, d, tokens, 1, 1))
    if architecture.input_injection:
        products.append((d, d, length, 1, 1))
    if timed:
        products.append((d, d, 1, 2, 2))
    if architecture.block == "dit":
        products += [(d, 6 * d, 1, layers * modulated, layers * modulated), (d, 2 * d, 1, 1, 1)]
    if depth == "universal":
        products.append((d, 1, length, loops - 1, loops - 1))
    adapted = min(loops, architecture.max_loops) if resident else loops
    weights = sum((inputs + 1) * results * read for inputs, results, _, read, _ in products)
    activations = sum((inputs + results) * vectors * times for inputs, results, vectors, _, times in products)
    activations += 4 * length * d * layers * loops  # attention
    if rank := architecture.loop_adapter_rank:  # two products a map, of which the second adds to what the map gave
        for inputs, results in ((d, 3 * d), (d, d), (d, hidden), (hidden, d)):
            weights += (inputs + results) * rank * layers * adapted
            activations += (inputs + 2 * rank + 2 * results) * length * layers * loops
    return {"weights": BYTES[precision] * weights, "activations": BYTES[precision] * batch * activations}


def arithmetic_intensity(
    architecture: Architecture,
    depth: Depth,
    spec: DataSpec,
    timed: bool,
    loops: int,
    exits: int = 1,
    batch: int = 1,
    precision: str = "fp32",
    *,
    resident: bool = False,
) -> float:
    """FLOPs per byte moved by one call on `batch` items (see `moved_bytes`)."""
    moved = moved_bytes(architecture, depth, spec, timed, loops, exits, batch, precision, resident=resident)
    return batch * flops(architecture, depth, spec, timed, loops, exits) / sum(moved.values())
