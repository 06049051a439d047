"""The distribution of every weight at the start, by its name: one recipe (DiT's) for all backends."""

from __future__ import annotations

from typing import Literal, NamedTuple

CONTENT = 0.7  # root mean square of a sin-cos position: at the start content and place weigh the same
SMALL = 0.02  # DiT's and BERT's


class Start(NamedTuple):
    """A constant, a normal of zero mean and deviation `scale`, the identity, or Xavier's uniform distribution.

    Xavier's goes by the last two axes; those before them count matrices.
    """

    kind: Literal["constant", "normal", "identity", "xavier"]
    scale: float = 0.0


def start(name: str, *, zero_head: bool) -> Start:
    """How the parameter called `name` in a checkpoint begins; `zero_head` where the output is continuous."""
    module, _, part = name.rpartition(".")
    last = module.rpartition(".")[2]
    if part == "up":
        return Start("constant", 0.0)  # an adapter adds nothing at first
    if module == "judge":
        return Start("constant", -5.0 if part == "bias" else 0.0)  # TRM's: no answer is taken to be right at first
    if part == "bias":
        return Start("constant", 1.0 if module == "halting.linear" else 0.0)  # ACT begins with few loops
    if last.startswith(("norm", "after")):
        return Start("constant", 1.0)
    if last == "modulation" or (zero_head and module == "head.linear"):
        return Start("constant", 0.0)  # adaLN-Zero: every block is the identity, the estimate the data's mean
    if module == "head.linear" or module.startswith("condition."):
        return Start("normal", SMALL)  # near-uniform logits, weak condition
    if module in ("embedding.tokens", "embedding.context"):
        return Start("normal", CONTENT)
    if module == "injection":
        return Start("identity")  # begins as plain addition of the embedded input
    return Start("xavier")  # keeps the variance of what it maps
