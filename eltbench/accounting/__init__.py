"""What a network holds, computes and moves, in closed form: the truth that backends' counters are tested against."""

from eltbench.accounting.memory import activation_bytes, peak_bytes
from eltbench.accounting.network import (
    BYTES,
    Depth,
    check_call,
    flops,
    macs,
    macs_by_part,
    parameters,
    state_length,
    token_grid,
    weight_bytes,
)
from eltbench.accounting.traffic import arithmetic_intensity, moved_bytes
from eltbench.accounting.work import calls_per_step, sample_flops, step_flops

__all__ = [
    "BYTES",
    "Depth",
    "activation_bytes",
    "arithmetic_intensity",
    "calls_per_step",
    "check_call",
    "flops",
    "macs",
    "macs_by_part",
    "moved_bytes",
    "parameters",
    "peak_bytes",
    "sample_flops",
    "state_length",
    "step_flops",
    "token_grid",
    "weight_bytes",
]
