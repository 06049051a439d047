"""What a network holds, computes and moves, in closed form: the truth that backends' counters are tested against."""

from eltbench.accounting.memory import activation_bytes, peak_bytes
from eltbench.accounting.network import (
    BYTES,
    Depth,
    NetworkSpec,
    arithmetic_intensity,
    check_call,
    flops,
    macs,
    macs_by_part,
    moved_bytes,
    parameters,
    weight_bytes,
)
from eltbench.accounting.work import sample_flops, step_flops

__all__ = [
    "BYTES",
    "Depth",
    "NetworkSpec",
    "activation_bytes",
    "arithmetic_intensity",
    "check_call",
    "flops",
    "macs",
    "macs_by_part",
    "moved_bytes",
    "parameters",
    "peak_bytes",
    "sample_flops",
    "step_flops",
    "weight_bytes",
]
