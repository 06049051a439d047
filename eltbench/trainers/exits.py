"""What a training step reads: loop counts, and since which loop the gradient of each flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Exit(int):
    """A loop count whose gradient goes back to loop `since` alone: the state after that loop is taken as constant.

    0: to the first loop. Each is read by a pass of its own through the network.
    """

    since: int

    def __new__(cls, loops: int, since: int) -> Exit:
        """Raises ValueError unless 0 ≤ since < loops."""
        if not 0 <= since < loops:
            raise ValueError(f"an exit at loop {loops} has a gradient since one of loops 0 to {loops - 1}, not {since}")
        made = super().__new__(cls, loops)
        made.since = since
        return made


class Pass(NamedTuple):
    """Exits that one pass through the network reads; its state is detached after loop `since`, None where it never is.

    A step has as many passes, and as many exits in each, as any other of its trainer, so that JAX compiles it once.
    """

    exits: tuple[int, ...]
    since: int | None


def passes(exits: Sequence[int]) -> list[Pass]:
    """The passes of a step, in the order of its exits: one for each `Exit`, and one for neighbours that are none.

    Raises ValueError where there are no exits.
    """
    if not exits:
        raise ValueError("exits: give at least one loop count")
    found: list[Pass] = []
    for each in exits:
        if isinstance(each, Exit):
            found.append(Pass((int(each),), each.since))
        elif found and found[-1].since is None:
            found[-1] = Pass((*found[-1].exits, each), None)
        else:
            found.append(Pass((each,), None))
    return found
