"""The sizes of a preset: which blocks of N layers are looped how often, and how wide they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

Pair = tuple[int, int]
"""N and L_max."""

SIZE = ("unique_layers", "max_loops")
LARGEST_CAP = 1024


@dataclass(frozen=True)
class Grid:
    """N×L of one effective depth, or a rectangle of them, and widths; empty by default.

    With `depth`, every N×L with N·L = depth and L > 1, which the two lists may narrow; without it, every N of
    `unique_layers` with every L of `max_loops`, as long as N·L does not exceed `cap`. Raises ValueError for a grid
    without a pair and for a number that is part of none, with the nearest that would be.
    """

    depth: int | None = None
    unique_layers: tuple[int, ...] = ()
    max_loops: tuple[int, ...] = ()
    cap: int = 16  # of the effective depth, in layers
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.cap < 2:
            raise ValueError(f"grid: cap must be at least 2, the depth of one layer looped twice, given {self.cap}")
        if self.cap > LARGEST_CAP:
            raise ValueError(f"grid: cap must be at most {LARGEST_CAP}, given {self.cap}")
        for name, least in (("unique_layers", 1), ("max_loops", 2), ("widths", 1)):
            if wrong := [value for value in getattr(self, name) if value < least]:
                why = "; list a model of one loop as an arm with max_loops = 1" if name == "max_loops" else ""
                raise ValueError(f"grid: {name} must be at least {least}, given {wrong[0]}{why}")
        if self.depth is None and bool(self.unique_layers) != bool(self.max_loops):
            given = "unique_layers" if self.unique_layers else "max_loops"
            raise ValueError(f"grid: give depth, or unique_layers and max_loops, given {given} alone")
        if self.depth is not None and not 2 <= self.depth <= self.cap:
            why, nearest = "without an N×L of more than one loop", "2"
            if self.depth > self.cap:
                why, nearest = f"above cap = {self.cap}", f"{self.cap}, or raise cap to {self.depth}"
            raise ValueError(f"grid: depth {self.depth} is {why}; the nearest depth that would work is {nearest}")
        for name in SIZE:
            self._check(name)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every (N, L_max) of the grid, the smallest block first."""
        if self.depth is None and not self.unique_layers:
            return ()
        every = product(self._choices("unique_layers"), self._choices("max_loops"))
        return tuple(pair for pair in every if self._fits(*pair))

    def architectures(self, arm: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What an arm says of its architecture, once for every size and width that it leaves open.

        An arm that names unique_layers or max_loops has its size, one that names width has its width.
        """
        sizes = [dict(zip(SIZE, pair, strict=True)) for pair in self.pairs if not set(SIZE) & set(arm)]
        widths = [{"width": width} for width in dict.fromkeys(self.widths) if "width" not in arm]
        return [{**arm, **width, **size} for width in widths or [{}] for size in sizes or [{}]]

    def _choices(self, name: str) -> list[int]:
        """The values of a list, or all that the cap allows where it is empty."""
        least = 2 if name == "max_loops" else 1
        return sorted(set(getattr(self, name))) or list(range(least, self.cap + 1))

    def _fits(self, unique_layers: int, loops: int) -> bool:
        depth = unique_layers * loops
        return depth <= self.cap if self.depth is None else depth == self.depth

    def _check(self, name: str) -> None:
        """Raise ValueError where a value of a list is in no pair."""
        least, other = (1, "max_loops") if name == "unique_layers" else (2, "unique_layers")
        partners = self._choices(other)

        def paired(value: int) -> bool:
            return any(self._fits(value, partner) for partner in partners)

        bound = f"N·L = {self.depth}" if self.depth is not None else f"N·L ≤ {self.cap}"
        for value in getattr(self, name):
            if not paired(value):
                fitting = [near for near in range(least, self.cap + 1) if paired(near)]
                below, above = [v for v in fitting if v < value][-1:], [v for v in fitting if v > value][:1]
                nearest = " or ".join(map(str, below + above))
                advice = f"the nearest that is: {nearest}" if nearest else f"raise cap to {value * min(partners)}"
                raise ValueError(f"grid: {name} {value} is part of no N×L with {bound}; {advice}")
