"""Latin squares of order 4: all 576 are known, so what a partly hidden square allows is known exactly.

A square is a 4x4 grid in which every row and every column holds each of four symbols once. The task masks cells as it
likes. Counting the squares that agree with the seen cells gives the exact posterior of a hidden one, and with it the
irreducible part of a model's loss (`evaluation.signals.per_sample`).

Renaming the symbols of a square gives a square; under it the 576 fall into 24 classes of 24. Whole classes are held
out, so no held-out square is a training square under other names. Permuted rows or columns lead from one split into the
other, and no split by classes prevents it: under all three kinds of permutation there are but two kinds of square (432
and 144), which both splits hold 3 to 1. The posterior is that of a square drawn from all 576.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

from eltbench import data
from eltbench.core.streams import stream
from eltbench.data.base import Clean, Dataset, DataSpec

ORDER = 4
MASK = ORDER  # the symbol of a hidden cell, as in `Batch.inputs`
CELLS = ORDER**2
HELDOUT_SHARE = 1 / 3  # of the classes of each kind: 6 of 18 and 2 of 6, hence 192 of 576 squares
NEVER = CELLS + 1  # the rounds of a cell that naked singles leave open


@data.register("latin", version=1)
@dataclass(frozen=True)
class Latin(Dataset):
    """Latin squares of order 4, 384 to train on and 192 held out, without classes; the task masks cells."""

    solvable = True

    @property
    def spec(self) -> DataSpec:
        return DataSpec("tokens", (ORDER, ORDER), vocabulary=ORDER)

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        training = squares()[~_heldout()]
        return _clean(training[rng.integers(len(training), size=size)])

    def training(self) -> Clean:
        return _clean(squares()[~_heldout()])

    def heldout(self) -> Clean:
        return _clean(squares()[_heldout()])

    def strata(self, clean: Clean) -> np.ndarray | None:
        """`rounds` of every cell where the items say what they hide; None where the task masks them (use `rounds`)."""
        return None if clean.hidden is None else rounds(np.where(clean.hidden, MASK, clean.values))


def squares() -> np.ndarray:
    """All 576 squares (576, 16) int32 in row order, sorted."""
    return _squares().copy()


def posterior(tokens: np.ndarray) -> np.ndarray:
    """p(cell = symbol | seen cells) (B, 16, 4) for a square drawn from all 576, by enumeration; tokens (B, 16).

    Raises ValueError where the seen cells of an item belong to no square.
    """
    tokens = _checked(tokens)
    same = _one_hot(tokens).reshape(len(tokens), -1) @ _one_hot(_squares()).reshape(len(_squares()), -1).T  # (B, 576)
    agreeing = (same == (tokens != MASK).sum(axis=1, keepdims=True)).astype(np.float64)
    count = agreeing.sum(axis=1)
    if not count.all():
        raise ValueError(f"latin: no square has the seen cells of item {int(count.argmin())}, so there is no posterior")
    shares = agreeing @ _one_hot(_squares()).reshape(len(_squares()), -1) / count[:, None]
    return shares.reshape(len(tokens), CELLS, ORDER)


def rounds(tokens: np.ndarray) -> np.ndarray:
    """Rounds of naked singles after which each cell is known (B, 16): 0 where seen, 17 (`NEVER`) where they stop short.

    One round fills, at once, every cell for which its row and its column leave a single symbol. A cell at 17 may still
    be certain by more than one step of reasoning, or truly open (see `posterior`).
    """
    grid = _one_hot(_checked(tokens)).reshape(-1, ORDER, ORDER, ORDER) > 0  # (B, row, column, symbol)
    found = np.where(grid.any(-1), 0, NEVER)  # (B, row, column)
    for number in range(1, CELLS + 1):
        taken = grid.any(1, keepdims=True) | grid.any(2, keepdims=True)  # (B, row, column, symbol)
        single = ((~taken).sum(-1) == 1) & (found == NEVER)
        if not single.any():
            break
        grid |= ~taken & single[..., None]
        found[single] = number
    return found.reshape(-1, CELLS)


def valid(tokens: np.ndarray) -> np.ndarray:
    """Whether each sample (B, 16) is a Latin square (B,)."""
    grid = _one_hot(_checked(tokens)).reshape(-1, ORDER, ORDER, ORDER)
    return (grid.sum(1) == 1).all((1, 2)) & (grid.sum(2) == 1).all((1, 2))


@lru_cache
def _squares() -> np.ndarray:
    rows = np.array(list(permutations(range(ORDER))), np.int32)
    grids = rows[np.indices((len(rows),) * ORDER).reshape(ORDER, -1).T]  # any four rows, (24⁴, row, column)
    return grids[(np.sort(grids, axis=1) == np.arange(ORDER)[:, None]).all((1, 2))].reshape(-1, CELLS)


@lru_cache
def _heldout() -> np.ndarray:
    """Which of the squares are held out (576,): whole classes, the same share of those of either kind."""
    squares = _squares()
    renamed = np.take_along_axis(squares[:, :ORDER].argsort(axis=1), squares, axis=1)  # the first row reads 0 1 2 3
    forms, member = np.unique(renamed, axis=0, return_inverse=True)
    rows = forms.reshape(-1, ORDER, ORDER)
    twice = np.take_along_axis(rows, rows, axis=2)  # each row applied to itself as a permutation
    cyclic = (twice != np.arange(ORDER)).any(axis=(1, 2))  # in the other kind every row is its own inverse
    rng = stream("latin", 0, "split")
    kinds = [rng.permutation(np.flatnonzero(kind)) for kind in (cyclic, ~cyclic)]
    return np.isin(member, np.concatenate([kind[: round(HELDOUT_SHARE * len(kind))] for kind in kinds]))


def _one_hot(tokens: np.ndarray) -> np.ndarray:
    """(B, 16, 4) float64, zeros where hidden."""
    return np.eye(ORDER + 1, ORDER)[tokens]


def _checked(tokens: np.ndarray) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.shape[1] != CELLS or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"latin: expected integer tokens (B, {CELLS}), given {tokens.dtype} of shape {tokens.shape}")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() <= MASK):
        raise ValueError(f"latin: tokens are 0..3, or {MASK} where hidden, given {tokens.min()}..{tokens.max()}")
    return tokens


def _clean(values: np.ndarray) -> Clean:
    return Clean(values.copy(), np.zeros(len(values), np.int32))
