"""FLOPs of a whole sample and of a training step, from the MACs of one network call.

A product forward costs two backward: one for the gradient of its weights (or second factor) and one for that of its
input. The second is left out where the input is a constant: the patches, the waves of the log-SNR, and the modulation
of a network without class and noise level. Attention that recomputes its scores in the backward pass (FlashAttention)
does one product in five more than is counted here. Element-wise work (optimiser, averaging, norms) is left out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from eltbench.accounting.network import NetworkSpec, flops, macs, macs_by_part
from eltbench.core.fixed_point import Solver


def sample_flops(network: NetworkSpec, loops: int, steps: int, guidance_scale: float = 1.0) -> int:
    """FLOPs of drawing one item in `steps` sampling steps that read one exit.

    A step is one network call, with guidance (a scale other than 1) two. ValueError for steps below 1 and impossible
    loops.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, given {steps}")
    calls = 1 if guidance_scale == 1.0 else 2
    return steps * calls * flops(network, loops)


def step_flops(
    network: NetworkSpec,
    loops: int,
    exits: int = 1,
    phantom_steps: int = Solver.phantom_steps,
    learns: Collection[int] | None = None,
    since: int = 0,
) -> dict[str, int]:
    """FLOPs per item of a training step, `forward` and `backward`, that runs `loops` loops and reads `exits` heads.

    learns: the exits whose outputs carry a gradient (`Trainer.learns`), all by default; the backward pass begins at the
    deepest of them and goes through their heads. At equilibrium depth every exit is followed by `phantom_steps` more
    loops, and the backward pass goes through these alone. At recursive depth every exit also reads the halting logit,
    and the backward pass goes from it through its loop's last recursion. since: the state after so many loops is
    constant (0: none). Raises ValueError for impossible loops and exits.
    """
    deepest, heads = (loops, exits) if learns is None else (max(learns, default=0), len(learns))
    if not (0 < deepest <= loops and heads <= exits):
        given = sorted(learns or ())
        raise ValueError(f"learns must be 1 to {exits} of the exits up to loop {loops}, which are read, given {given}")
    forward = macs(network, loops, exits)
    if network.depth == "equilibrium":
        further = macs_by_part(network, phantom_steps * exits, exits)
        forward += further["layers"] + further["attention"]
        deepest = phantom_steps * heads
    judged = 0  # MACs of a halting logit, which is read from the mean over tokens
    if network.depth == "recursive":
        judged = network.architecture.width
        network = replace(network, recursion=replace(network.recursion, recursions=1))
        deepest = heads
    if not 0 <= since < deepest:
        raise ValueError(f"since must be 0 to {deepest - 1}, one of the loops before the deepest, given {since}")
    parts = macs_by_part(network, deepest - since, heads)  # that the backward pass goes through
    architecture, equilibrium = network.architecture, network.depth == "equilibrium"
    recalled_before = architecture.input_injection and architecture.recall == "before"
    constant_inputs = 0
    if since and not architecture.input_injection:  # what enters by the first state alone
        parts["embedding"] = parts["prelude"] = 0
        parts["conditioning"] *= architecture.block == "dit"
        if architecture.block == "dit":
            parts["modulation"] -= 6 * architecture.prelude * architecture.width**2
    if architecture.norm == "post" and not recalled_before:  # the first maps after a constant state see it itself
        (inputs, outputs), rank = network.maps[0], architecture.loop_adapter_rank
        constant_inputs += (heads if equilibrium else since > 0) * network.length * inputs * (outputs + rank)
    constant_inputs += parts["embedding"] + parts["conditioning"] // 2
    if not (network.timed or network.data.classes):
        constant_inputs += parts["modulation"]
    late = recalled_before and network.depth not in ("equilibrium", "recursive") and deepest == 1  # see the second loop
    unused = 2 * parts["injection"] if late else 0
    forward, backward = forward + exits * judged, 2 * (sum(parts.values()) + heads * judged) - constant_inputs - unused
    return {"forward": 2 * forward, "backward": 2 * backward}
