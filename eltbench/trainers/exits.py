"""What a training step reads: loop counts, and since which loop the gradient of each flows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple


class Exit(int):
    """A loop count whose gradient goes back to loop `since` alone: the state after that loop is taken as constant."""

    since: int

    def __new__(cls, loops: int, since: int = 0) -> Exit:
        """Raises ValueError unless 0 ≤ since < loops."""
        if not 0 <= since < loops:
            raise ValueError(f"an exit at loop {loops} has a gradient since one of loops 0 to {loops - 1}, not {since}")
        made = super().__new__(cls, loops)
        made.since = since
        return made


class Pass(NamedTuple):
    """Exits that one pass through the network reads, its state detached after loop `since` (0: nowhere)."""

    exits: tuple[int, ...]
    since: int


def passes(exits: Sequence[int]) -> list[Pass]:
    """The passes of a step, in the order of its exits: neighbours with one `since` are read by the same."""
    return [Pass(tuple(map(int, its)), since) for since, its in groupby(exits, lambda each: getattr(each, "since", 0))]


def truncates(exits: Sequence[int]) -> bool:
    """Whether the trainer of these exits stops gradients at some steps, and here perhaps at none."""
    return any(isinstance(each, Exit) for each in exits)
