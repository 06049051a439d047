"""What a network holds and computes, in closed form: the truth that backends' counters are tested against.

Counted are multiply-accumulates (MACs) of the matrix products of one network call on one item: linear maps, and the
two products of attention (all pairs of tokens, also where an attention radius hides some). Norms, activations, sums
and embedding look-ups are left out, as in torch.utils.flop_counter, and so are the inner products and sums of Anderson
acceleration: with memory m about 4m for each value of the state, where a loop's linear maps take 12·N·width (mlp_ratio
4). FLOPs = 2·MACs. Guidance makes two calls of one.
"""

from __future__ import annotations

from typing import Literal, get_args

from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec

Depth = Literal["looped", "unique", "universal", "equilibrium"]
BYTES = {"fp32": 4, "bf16": 2}


def token_grid(architecture: Architecture, depth: Depth, spec: DataSpec) -> tuple[int, int]:
    """Rows and columns of the tokens; raises ValueError for a patch, depth or loop count that does not fit."""
    if depth not in get_args(Depth):
        raise ValueError(f"depth must be one of {', '.join(map(repr, get_args(Depth)))}, given {depth!r}")
    if depth == "unique" and architecture.max_loops != 1:
        raise ValueError(
            "architecture: a unique-depth network has no loops: expected max_loops 1 and all layers as unique_layers, "
            f"given max_loops {architecture.max_loops}"
        )
    if depth == "unique" and architecture.loop_adapter_rank:
        raise ValueError(
            "architecture: a unique-depth network has no loops to adapt: expected loop_adapter_rank 0, given "
            f"loop_adapter_rank {architecture.loop_adapter_rank}"
        )
    if spec.kind == "tokens":
        return spec.grid
    (rows, columns), patch = spec.grid, architecture.patch
    if rows % patch or columns % patch:
        raise ValueError(f"architecture: patch must divide the grid {spec.grid}, given patch {patch}")
    return rows // patch, columns // patch


def parameters(architecture: Architecture, depth: Depth, spec: DataSpec, timed: bool) -> dict[str, int]:
    """Trained values by part: embedding (and injection), block (modulation included), conditioning, head, halting,
    and the adapters of all loops.
    """
    token_grid(architecture, depth, spec)
    d, layers, patch_values = architecture.width, architecture.unique_layers, architecture.patch**2 * spec.channels
    if spec.kind == "continuous":
        embedding, outputs = _linear(patch_values, d), patch_values
    else:
        embedding, outputs = (spec.vocabulary + 1) * d, spec.vocabulary
    embedding += spec.context_vocabulary * d + (_linear(d, d) if architecture.input_injection else 0)

    hidden = architecture.mlp_ratio * d
    layer = _linear(d, 3 * d) + _linear(d, d) + _linear(d, hidden) + _linear(hidden, d)
    head = _linear(d, outputs)
    if architecture.block == "dit":
        layer, head = layer + _linear(d, 6 * d), head + _linear(d, 2 * d)
    else:
        norms = 4 if architecture.norm == "sandwich" else 2
        layer, head = layer + norms * 2 * d, head + 2 * d
    return {
        "embedding": embedding,
        "block": layers * layer,
        "conditioning": ((spec.classes + 1) * d if spec.classes else 0) + (2 * _linear(d, d) if timed else 0),
        "head": head,
        "halting": _linear(d, 1) if depth == "universal" else 0,
        "adapters": architecture.max_loops * layers * _update(architecture),
    }


def check_call(depth: Depth, loops: int, exits: int = 1, batch: int = 1) -> None:
    """Raise ValueError for loops below 1 or beyond a unique-depth network, more exits than loops, and no items."""
    if loops < 1 or (depth == "unique" and loops > 1):
        expected = "exactly 1 at unique depth" if depth == "unique" else "at least 1"
        raise ValueError(f"loops must be {expected}, given {loops}")
    if not 1 <= exits <= loops:
        raise ValueError(f"exits must be between 1 and the {loops} loops, given {exits}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, given {batch}")


def macs_by_part(
    architecture: Architecture, depth: Depth, spec: DataSpec, timed: bool, loops: int, exits: int = 1
) -> dict[str, int]:
    """MACs of one call per item by part; `layers` are the block's linear maps, `attention` its products among tokens.

    The call runs `loops` loops and reads the head at `exits` of them. Modulation is made once per call, or once per
    loop with loop_conditioning. Raises ValueError for an impossible call (see `check_call`).
    """
    check_call(depth, loops, exits)
    rows, columns = token_grid(architecture, depth, spec)
    d, layers, dit = architecture.width, architecture.unique_layers, architecture.block == "dit"
    tokens, length = rows * columns, state_length(architecture, depth, spec, timed)
    continuous, patch_values = spec.kind == "continuous", architecture.patch**2 * spec.channels
    modulated = loops if architecture.loop_conditioning else 1  # times that a layer's modulation is made
    return {
        "embedding": tokens * patch_values * d if continuous else 0,
        "injection": length * d * d if architecture.input_injection else 0,
        "conditioning": 2 * d * d if timed else 0,
        "modulation": 6 * d * d * layers * modulated + 2 * d * d if dit else 0,
        "layers": loops * layers * length * (4 + 2 * architecture.mlp_ratio) * d * d,
        "attention": loops * layers * 2 * length * length * d,
        "head": exits * tokens * d * (patch_values if continuous else spec.vocabulary),
        # the last loop takes what remains, whatever its probability
        "halting": (loops - 1) * length * d if depth == "universal" else 0,
        "adapters": loops * layers * length * _update(architecture),
    }


def state_length(architecture: Architecture, depth: Depth, spec: DataSpec, timed: bool) -> int:
    """Tokens of the state: those of the grid, and one more where a prefix token carries the condition."""
    rows, columns = token_grid(architecture, depth, spec)
    conditioned = spec.classes > 0 or timed or architecture.loop_conditioning
    return rows * columns + int(conditioned and architecture.block != "dit")


def macs(architecture: Architecture, depth: Depth, spec: DataSpec, timed: bool, loops: int, exits: int = 1) -> int:
    """MACs of one call per item that runs `loops` loops and reads the head at `exits` of them (see `macs_by_part`)."""
    return sum(macs_by_part(architecture, depth, spec, timed, loops, exits).values())


def flops(architecture: Architecture, depth: Depth, spec: DataSpec, timed: bool, loops: int, exits: int = 1) -> int:
    """2·MACs of one call per item."""
    return 2 * macs(architecture, depth, spec, timed, loops, exits)


def weight_bytes(architecture: Architecture, depth: Depth, spec: DataSpec, timed: bool, precision: str = "fp32") -> int:
    """Bytes of all weights in the precision of the matrix products ("fp32" or "bf16"), each read once."""
    if precision not in BYTES:
        raise ValueError(f"precision must be one of {list(BYTES)}, given {precision!r}")
    return BYTES[precision] * sum(parameters(architecture, depth, spec, timed).values())


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _update(architecture: Architecture) -> int:
    """Values of one loop's updates of one layer: (inputs + outputs) · rank of d×3d, d×d, d×h and h×d."""
    return (8 + 2 * architecture.mlp_ratio) * architecture.width * architecture.loop_adapter_rank
