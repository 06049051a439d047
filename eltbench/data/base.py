"""What a dataset is: clean items in NumPy, a training stream and a fixed held-out split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from eltbench.core.validation import whole


class Clean(NamedTuple):
    """Items without noise or masks.

    values: (B, H, W, C) float32 in [-1, 1], or (B, T) int32 tokens in row order of the grid.
    labels: (B,) int32 classes; zeros where the dataset has none.
    context: (B, T) int32 tokens that the network always sees beside the masked ones, or None.
    hidden: (B, T) bool, the tokens that this world hides, or None where the task draws its own masks.
    """

    values: np.ndarray
    labels: np.ndarray
    context: np.ndarray | None = None
    hidden: np.ndarray | None = None

    def select(self, index: Any) -> Clean:
        """The items at `index` (a slice or an array of positions), every field alike."""
        return Clean._make(None if field is None else field[index] for field in tuple(self))


WALL = "#"  # the text of a cell that nothing can be in


class Symbols(NamedTuple):
    """How the cells of puzzles are drawn.

    answers: a text for each token of the vocabulary. seen: (B, T) texts of what is seen of every cell, empty where
    nothing is and `WALL` where nothing can be; None: the tokens that are not hidden.
    """

    answers: tuple[str, ...]
    seen: np.ndarray | None = None


@dataclass(frozen=True)
class DataSpec:
    """The form of a dataset's items, all that a network needs to know of it."""

    kind: Literal["continuous", "tokens"]
    grid: tuple[int, int]  # pixels (H, W), or the grid of tokens
    channels: int = 1  # continuous only
    vocabulary: int = 0  # tokens only; the mask is one further symbol, with this index
    classes: int = 0  # 0: unconditional; the null label has index `classes`
    context_vocabulary: int = 0  # 0: no context tokens

    def __post_init__(self) -> None:
        if self.kind not in ("continuous", "tokens"):
            raise ValueError(f"the kind of data must be 'continuous' or 'tokens', given {self.kind!r}")
        if len(self.grid) != 2:
            raise ValueError(f"a grid has two sides (H, W), given {self.grid!r}")
        for name, value, least in (
            ("grid[0]", self.grid[0], 1),
            ("grid[1]", self.grid[1], 1),
            ("channels", self.channels, int(self.kind == "continuous")),
            ("vocabulary", self.vocabulary, int(self.kind == "tokens")),
            ("classes", self.classes, 0),
            ("context_vocabulary", self.context_vocabulary, 0),
        ):
            if not whole(value) or value < least:
                raise ValueError(
                    f"{self.kind} data: {name} must be a whole number of at least {least}, given {value!r}"
                )

    @property
    def tokens(self) -> int:
        """Number of grid positions."""
        return self.grid[0] * self.grid[1]


class Dataset(ABC):
    """One world of data; its dataclass fields are its options and are part of a run's identity.

    A field with the metadata {"location": True} only says where files lie: their content is in the identity instead.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    solvable: ClassVar[bool] = False  # whether items are puzzles, right or wrong as a whole, whose solving is measured

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """The form of the items."""

    @abstractmethod
    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        """`size` training items drawn with `rng`."""

    @abstractmethod
    def training(self) -> Clean:
        """The training split, or for a generated world a fixed sample of its stream."""

    @abstractmethod
    def heldout(self) -> Clean:
        """The held-out split, always the same items."""

    def fingerprint(self) -> str:
        """What the items are where options and version do not say it: a hash of the content of their files, else empty.

        Asked for every run of a plan, so a large dataset keeps what it found. OSError where the files cannot be read.
        """
        return ""

    def images(self, values: np.ndarray) -> np.ndarray | None:
        """Values as images (B, H, W, C) float32 in [-1, 1], or None where they are none."""
        return None

    def symbols(self, clean: Clean) -> Symbols:
        """How these puzzles are drawn, of a solvable world: by default tokens as numbers from 1."""
        return Symbols(tuple(str(token + 1) for token in range(self.spec.vocabulary)))

    def strata(self, clean: Clean) -> np.ndarray | None:
        """An integer per position (B, T) by which errors are also reported (relay: distance), or None."""
        return None

    def difficulty(self, clean: Clean) -> np.ndarray | None:
        """How hard each item is (B,), a whole number by which solving is reported, or None."""
        return None

    @property
    def hardest_trained(self) -> int | None:
        """The greatest difficulty of the training stream, where held-out items go beyond it."""
        return None

    def larger(self) -> Clean | None:
        """Held-out items that are larger than any of the training stream, in the same form, or None."""
        return None
