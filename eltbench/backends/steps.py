"""What a pass carries from loop to loop, and a pass that is taken loop by loop, of which items may leave."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from eltbench.core.arrays import Array, namespace
from eltbench.core.fixed_point import History
from eltbench.tasks.base import ExitOutput

EPSILON = 0.01  # a token halts once its probabilities sum to 1 - EPSILON


class Tally(NamedTuple):
    """The halting of every token before its state after the current loop is counted; all but the first (B, T, 1).

    accumulated: (B, T, D), the weighted sum of earlier states, complete where the token has halted.
    unspent: 1 minus the probabilities before the loop at which the token halted, or before the current loop.
    running: True where the token had not halted before the current loop.
    loops: loops in which the token took part, the current one included.
    """

    accumulated: Array
    unspent: Array
    running: Array
    loops: Array


class Conditioning(NamedTuple):
    """What does not depend on the loop, made once per call.

    vector: the condition (B, D). blocks: one modulation per layer, or None where it differs from loop to loop.
    coda: one modulation per layer behind the loop. head: the modulation of the head. injected: (B, P + T, D), added
    before every loop after the first, at equilibrium depth before the first too, or inside every layer (see
    `Architecture.recall`), or None. kept: (B, M, 2, P + T, D), 0 where dropout leaves out what a layer's attention or
    MLP adds, else 1/(1 - dropout), or None; first those of the prelude, last those of the coda.
    """

    vector: Array
    blocks: tuple[tuple[Array, ...], ...] | None
    coda: tuple[tuple[Array, ...], ...]
    head: tuple[Array, ...]
    injected: Array | None
    kept: Array | None


class Carry(NamedTuple):
    """What goes from loop to loop; the tally is for universal depth only, the history for equilibrium depth."""

    state: Array
    tally: Tally | None
    history: History | None


class Steps(Protocol):
    """One pass of averaged weights over an uploaded batch, at the loop that it has reached; at first there is none.

    What `Engine.predict` gives at an exit is what `advance` gives at that loop, in the run's precision, at every depth
    scheme. Arrays are of one library, which Array API functions can go on with, and have the items that are left.
    """

    @property
    def initial(self) -> Array:
        """The state (B, T, width) before the first loop, as long as no loop has run."""

    def advance(self, fields: tuple[str, ...]) -> ExitOutput:
        """Run one loop and read the exit there: the named fields of it, or nothing of it if none is named."""

    def keep(self, places: np.ndarray) -> None:
        """Go on with the items at these places (ascending, at least one) among those that are left, and no others."""


def select_items(value: Any, places: Array) -> Any:
    """The items at `places` (R,) of all arrays in nested tuples, which have them on their first axis, or are None.

    Of a solver's history, wherever it has them.
    """
    if value is None:
        return None
    if isinstance(value, History):
        return value.select(places)
    if isinstance(value, tuple):
        parts = [select_items(part, places) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return namespace(value).take(value, places, axis=0)
