"""State tracking: the running product of a word over a finite group, which a network can only know by its depth.

An item is a word g_1 … g_m of group elements, all seen. At position i the product p_i = g_i ∘ … ∘ g_1 is to be named.
The word problem of S5 and A5 is complete for NC¹, so no network of constant depth is known to solve it at every length
(Barrington 1989; Merrill and Sabharwal, arXiv 2404.08819); that of Z2 is parity, that of Z60 counting modulo 60.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

from eltbench import data
from eltbench.core.streams import stream
from eltbench.core.validation import whole
from eltbench.data.base import Clean, Dataset, DataSpec

TRAINING_ITEMS = 1024
GROUPS = ("z2", "z60", "s3", "s5", "a5")


@data.register("group", version=1)
@dataclass(frozen=True)
class Group(Dataset):
    """Words over a finite group and their running products, generated without end.

    group: z2 or z60 (addition), s3 or s5 (all permutations), a5 (the even ones). trained: the longest word that is
    trained on; held-out words have every length up to `length`. Behind a word stands a symbol of its own.
    """

    solvable = True

    group: str = "s5"
    length: int = 16
    trained: int = 8
    heldout_items: int = 512

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"group: group must be one of {', '.join(GROUPS)}, given {self.group!r}")
        for name, least in (("length", 2), ("trained", 1), ("heldout_items", 1)):
            if not whole(getattr(self, name)) or getattr(self, name) < least:
                raise ValueError(f"group: {name} must be an integer of at least {least}, given {getattr(self, name)!r}")
        if self.trained > self.length:
            raise ValueError(f"group: trained must not exceed length, given {self.trained} > {self.length}")

    @property
    def spec(self) -> DataSpec:
        """A row of `length` products beside as many elements, without classes."""
        elements = len(table(self.group))
        return DataSpec("tokens", (1, self.length), vocabulary=elements, context_vocabulary=elements + 1)

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        """`size` new items, their lengths and elements uniform and independent."""
        return self._items(rng, rng.integers(1, self.trained + 1, size=size))

    def training(self) -> Clean:
        """A fixed sample of 1,024 items of the stream."""
        return self.batch(stream(self.name, 0, "training"), TRAINING_ITEMS)

    def heldout(self) -> Clean:
        """A fixed sample of `heldout_items` of every length up to `length`, drawn independently of every stream."""
        rng = stream(self.name, 0, "heldout")
        return self._items(rng, rng.integers(1, self.length + 1, size=self.heldout_items))

    def _items(self, rng: np.random.Generator, lengths: np.ndarray) -> Clean:
        products = table(self.group)
        elements = len(products)
        word = rng.integers(elements, size=(len(lengths), self.length), dtype=np.int32)
        values = np.empty_like(word)
        values[:, 0] = word[:, 0]
        for place in range(1, self.length):
            values[:, place] = products[word[:, place], values[:, place - 1]]
        hidden = np.arange(self.length) < lengths[:, None]
        word[~hidden], values[~hidden] = elements, 0
        return Clean(values, np.zeros(len(lengths), np.int32), context=word, hidden=hidden)

    def strata(self, clean: Clean) -> np.ndarray | None:
        """How many elements are multiplied (B, T): the place in the word, 0 behind its end."""
        if clean.hidden is None:
            return None
        return np.where(clean.hidden, np.arange(1, self.length + 1), 0)

    def difficulty(self, clean: Clean) -> np.ndarray | None:
        """The length of each word (B,)."""
        return None if clean.hidden is None else clean.hidden.sum(axis=1)

    @property
    def hardest_trained(self) -> int:
        """The longest word of the training stream."""
        return self.trained


def table(group: str) -> np.ndarray:
    """The products (n, n) of a group's elements: entry [a, b] is a ∘ b, first b and then a; element 0 is neutral."""
    return _table(group).copy()


@lru_cache
def _table(group: str) -> np.ndarray:
    degree = int(group[1:])
    if group[0] == "z":
        return (np.add.outer(np.arange(degree), np.arange(degree)) % degree).astype(np.int32)
    elements = [each for each in permutations(range(degree)) if group[0] == "s" or _even(each)]
    number = {each: place for place, each in enumerate(elements)}
    made = [[number[tuple(a[place] for place in b)] for b in elements] for a in elements]
    return np.array(made, np.int32)


def _even(permutation: tuple[int, ...]) -> bool:
    inversions = sum(a > b for place, a in enumerate(permutation) for b in permutation[place + 1 :])
    return inversions % 2 == 0
