"""A pass that is taken loop by loop, of which items may leave: what an any-time prediction runs on."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from eltbench.core.arrays import Array, namespace
from eltbench.core.fixed_point import History
from eltbench.tasks.base import ExitOutput


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
