"""Relay: strips of cells whose colours can only be known from afar, so that the depth a network needs is a theorem.

Along a strip c_i = pi_{g_i}(c_{i-1}): the gate g_i is seen and permutes the colours; only the first colour c_0 is
revealed. Gates are permutations, so c_i runs through all colours as c_0 does. As c_0 is uniform and independent of the
gates, c_i is uniform given every gate and nothing else: whatever cannot see c_0 can only guess. Attention of radius rho
carries c_0 by rho cells a layer, hence a cell at distance d cannot be known before N·L·rho >= d, for any gate set.

One unseen gate makes the colour uniform where gates are cyclic, and leaves a guess better than chance with K random
permutations. The theorem does not rest on this: a cell that sees c_0 through contiguous attention sees every gate
between.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import factorial

import numpy as np

from eltbench import data
from eltbench.core.streams import stream
from eltbench.data.base import Clean, Dataset, DataSpec

TRAINING_ITEMS = 1024


@data.register("relay", version=1)
@dataclass(frozen=True)
class Relay(Dataset):
    """Colours relayed along strips by gates, generated without end; the task is to name the hidden colours.

    The knobs are distance (`length`, cells a strip), breadth (`strips`) and rule size (`gates`): "cyclic" for the
    rotations of the colours (gate g maps colour c to (c + g) mod colours), or K for K random distinct permutations
    of the colours, always the same ones. The gate of a first cell permutes nothing.
    """

    length: int = 16
    strips: int = 1
    colours: int = 4
    gates: str | int = "cyclic"
    heldout_items: int = 512

    def __post_init__(self) -> None:
        for name, least in (("length", 2), ("strips", 1), ("colours", 2), ("heldout_items", 1)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(f"relay: {name} must be an integer of at least {least}, given {getattr(self, name)!r}")
        if self.gates == "cyclic":
            return
        if not isinstance(self.gates, int) or not 1 <= self.gates <= factorial(self.colours):
            raise ValueError(
                f"relay: gates must be 'cyclic' or a number of permutations in 1..{factorial(self.colours)} "
                f"({self.colours} colours), given {self.gates!r}"
            )

    @property
    def spec(self) -> DataSpec:
        grid = self.strips, self.length
        return DataSpec("tokens", grid, vocabulary=self.colours, context_vocabulary=len(self.permutations))

    @property
    def permutations(self) -> np.ndarray:
        """The gate set (K, colours): entry [g, c] is the colour that gate g makes of colour c."""
        return _permutations(self.colours, self.gates).copy()

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        permutations = self.permutations
        gates = rng.integers(len(permutations), size=(size, self.strips, self.length), dtype=np.int32)
        colours = np.empty_like(gates)
        colours[..., 0] = rng.integers(self.colours, size=(size, self.strips))
        for cell in range(1, self.length):
            colours[..., cell] = permutations[gates[..., cell], colours[..., cell - 1]]
        hidden = np.ones(gates.shape, bool)
        hidden[..., 0] = False
        return Clean(
            values=colours.reshape(size, -1),
            labels=np.zeros(size, np.int32),
            context=gates.reshape(size, -1),
            hidden=hidden.reshape(size, -1),
        )

    def training(self) -> Clean:
        return self.batch(stream(self.name, 0, "training"), TRAINING_ITEMS)

    def heldout(self) -> Clean:
        return self.batch(stream(self.name, 0, "heldout"), self.heldout_items)

    def strata(self, clean: Clean) -> np.ndarray:
        """Distance in cells (B, T) from the nearest revealed colour of the strip, 0 where revealed.

        Raises ValueError where a strip reveals nothing, for its colours cannot be known at any depth.
        """
        if clean.hidden is None:
            raise ValueError("relay: distances need items that carry `hidden`, given None")
        revealed = ~clean.hidden.reshape(-1, self.strips, 1, self.length)
        if not revealed.any(-1).all():
            raise ValueError("relay: every strip must reveal a colour, given one that hides all")
        cells = np.arange(self.length)
        between = np.abs(cells[:, None] - cells)  # (L, L)
        return np.where(revealed, between, self.length).min(-1).reshape(clean.hidden.shape)


def reachable(distance: int, depth: int, radius: int | None) -> bool:
    """Whether N·L = `depth` layers allow a cell `distance` from a revealed colour to be known: N·L·rho >= distance.

    `radius` None stands for attention without a limit, which reaches everything from the first layer.
    """
    return distance <= 0 or radius is None or depth * radius >= distance


@lru_cache
def _permutations(colours: int, gates: str | int) -> np.ndarray:
    if isinstance(gates, str):
        return ((np.arange(colours) + np.arange(colours)[:, None]) % colours).astype(np.int32)
    rng = stream("relay", 0, "gates")
    distinct: dict[tuple[int, ...], None] = {}  # keeps the order of drawing
    while len(distinct) < gates:
        distinct[tuple(rng.permutation(colours).tolist())] = None
    return np.array(list(distinct), np.int32)
