"""What a network holds and computes, in closed form: the truth that backends' counters are tested against."""

from eltbench.accounting.network import (
    BYTES,
    Depth,
    flops,
    macs,
    macs_by_part,
    parameters,
    state_length,
    token_grid,
    weight_bytes,
)

__all__ = [
    "BYTES",
    "Depth",
    "flops",
    "macs",
    "macs_by_part",
    "parameters",
    "state_length",
    "token_grid",
    "weight_bytes",
]
