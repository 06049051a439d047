"""Sudoku of size 4, 6 and 9: puzzles with one solution, whose difficulty is known.

Difficulty is the number of rounds of plain elimination: one round fills, at once, every cell that allows a single digit
and every digit that has a single place left in a row, a column or a box. Where that stops short one has to guess, and
the difficulty is n² + 1.

Puzzles are dug from full squares, cell by cell in random order, as long as plain elimination still solves them, which
also shows that the solution is the only one; each stops at a number of holes of its own, so that easy ones occur. With
`guess` digging goes on as long as a search finds one solution. Training puzzles are drawn under new symmetries every
time: digits renamed, rows and columns permuted within bands, bands permuted, transposed where boxes are square. A hash
of what is seen puts every puzzle, also one under a symmetry, into one of the splits. A held-out puzzle may still be a
training puzzle under a symmetry: at size 4 that cannot be avoided, at 6 and 9 it does not happen by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eltbench import data
from eltbench.core.streams import held_out, stream
from eltbench.core.validation import whole
from eltbench.data.base import Clean, Dataset, DataSpec

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows and columns of a box
DUG_AT_ONCE = 512
BATCHES = 200  # dug before puzzles of a difficulty are taken for too rare


@data.register("sudoku", version=1)
@dataclass(frozen=True)
class Sudoku(Dataset):
    """Puzzles of one size; hidden cells are to be filled.

    puzzles: how many are dug for training, each then drawn under ever new symmetries. hardest: rounds of elimination of
    the hardest training puzzle. Half of the held-out puzzles are as hard as those of training, half are harder. guess:
    among the harder ones are some that elimination does not solve.
    """

    solvable = True

    size: int = 6
    puzzles: int = 2048
    hardest: int = 4
    guess: bool = False
    heldout_items: int = 256

    def __post_init__(self) -> None:
        if self.size not in BOXES:
            raise ValueError(f"sudoku: size must be one of {', '.join(map(str, BOXES))}, given {self.size!r}")
        for name, least in (("puzzles", 1), ("hardest", 1), ("heldout_items", 2)):
            if not whole(getattr(self, name)) or getattr(self, name) < least:
                raise ValueError(
                    f"sudoku: {name} must be an integer of at least {least}, given {getattr(self, name)!r}"
                )

    @property
    def spec(self) -> DataSpec:
        """An n×n grid of n digits, without classes."""
        return DataSpec("tokens", (self.size, self.size), vocabulary=self.size)

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        """`size` training puzzles, each under a symmetry of its own."""
        values, hidden = self._training()
        chosen = rng.integers(len(values), size=size)
        values, hidden = values[chosen], hidden[chosen]
        drawn = symmetric(values, hidden, rng)
        held = held_out(self.name, _seen(*drawn))[:, None, None]  # these stay as they were dug
        return _clean(np.where(held, values, drawn[0]), np.where(held, hidden, drawn[1]))

    def training(self) -> Clean:
        """The training puzzles as they were dug."""
        return _clean(*self._training())

    def heldout(self) -> Clean:
        """The held-out puzzles, those as hard as in training first."""
        half = self.heldout_items // 2
        easy = _dug(self.size, "heldout", self.heldout_items - half, (1, self.hardest), heldout=True, guess=False)
        furthest = self.size**2 + 1 if self.guess else self.size**2
        hard = _dug(self.size, "harder", half, (self.hardest + 1, furthest), heldout=True, guess=self.guess)
        return _clean(*(np.concatenate(parts) for parts in zip(easy, hard, strict=True)))

    def strata(self, clean: Clean) -> np.ndarray | None:
        """The round of plain elimination that fills each cell (B, T): 0 where seen, n² + 1 where it takes a guess."""
        return rounds_of(clean)

    def difficulty(self, clean: Clean) -> np.ndarray | None:
        """Rounds of plain elimination (B,), n² + 1 where one has to guess."""
        rounds = rounds_of(clean)
        return None if rounds is None else rounds.max(axis=1)

    @property
    def hardest_trained(self) -> int:
        """Rounds of the hardest training puzzle."""
        return self.hardest

    def _training(self) -> tuple[np.ndarray, np.ndarray]:
        return _dug(self.size, "training", self.puzzles, (1, self.hardest), heldout=False, guess=False)


def rounds_of(clean: Clean) -> np.ndarray | None:
    """`filled_in` of puzzles as items (B, T); None where the items do not say what they hide."""
    if clean.hidden is None:
        return None
    side = math.isqrt(clean.values.shape[1])
    square = -1, side, side
    return filled_in(clean.values.reshape(square), clean.hidden.reshape(square)).reshape(clean.values.shape)


def filled_in(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The round of plain elimination that fills each cell (B, n, n): 0 where seen, n² + 1 where it stops short."""
    count, size = len(values), values.shape[1]
    cells, units_of = _units(size)
    known = np.where(hidden, 0, 1 << values).reshape(count, -1)  # digits as bits (B, n²)
    found = np.where(hidden, size**2 + 1, 0).reshape(count, -1)
    for number in range(1, size**2 + 1):
        taken = np.bitwise_or.reduce(known[:, cells], axis=2)  # in each unit (B, 3n)
        allowed = (1 << size) - 1 & ~np.bitwise_or.reduce(taken[:, units_of], axis=1)
        allowed[found <= size**2] = 0
        once, twice = np.zeros_like(taken), np.zeros_like(taken)  # digits that have a place in a unit, or several
        for places in np.moveaxis(allowed[:, cells], 2, 0):
            twice |= once & places
            once |= places
        single = allowed & np.bitwise_or.reduce((once & ~twice)[:, units_of], axis=1)
        single = np.where(allowed & (allowed - 1), single, allowed)
        new = single > 0
        if not new.any():
            break
        known |= single
        found[new] = number
    return found.reshape(values.shape)


@lru_cache
def _units(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells of every row, column and box (3n, n), and the three units of every cell (3, n²)."""
    rows, columns = BOXES[size]
    row, column = np.divmod(np.arange(size**2), size)
    units_of = np.stack([row, size + column, 2 * size + row // rows * (size // columns) + column // columns])
    return np.stack([np.flatnonzero((units_of == unit).any(axis=0)) for unit in range(3 * size)]), units_of


def solutions(clues: Sequence[Sequence[int]], most: int = 2) -> list[list[list[int]]]:
    """The solutions of one puzzle, at most so many, by search; clues: n rows of n digits from 0, −1 where hidden."""
    size = len(clues)
    rows, columns = BOXES[size]
    units = [[0] * size for _ in range(3)]  # digits that are taken, as bits: of rows, columns, boxes
    grid, open_cells, found = [list(row) for row in clues], [], []

    def box(row: int, column: int) -> int:
        return row // rows * (size // columns) + column // columns

    for row in range(size):
        for column in range(size):
            places = tuple(zip(units, (row, column, box(row, column)), strict=True))
            if grid[row][column] < 0:
                open_cells.append((row, column, places))
                continue
            bit = 1 << grid[row][column]
            if any(unit[place] & bit for unit, place in places):
                return []
            for unit, place in places:
                unit[place] |= bit

    def search() -> None:
        if not open_cells:
            found.append([list(row) for row in grid])
            return
        taken = [units[0][row] | units[1][column] | units[2][places[2][1]] for row, column, places in open_cells]
        chosen = max(range(len(open_cells)), key=lambda place: taken[place].bit_count())
        row, column, places = open_cells.pop(chosen)
        for digit in range(size):
            bit = 1 << digit
            if taken[chosen] & bit or len(found) >= most:
                continue
            grid[row][column] = digit
            for unit, place in places:
                unit[place] ^= bit
            search()
            for unit, place in places:
                unit[place] ^= bit
        grid[row][column] = -1
        open_cells.insert(chosen, (row, column, places))

    search()
    return found


def symmetric(values: np.ndarray, hidden: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles (B, n, n), each under a random symmetry of its own."""
    count, size = len(values), values.shape[1]
    rows, columns = BOXES[size]
    names = rng.permuted(np.tile(np.arange(size), (count, 1)), axis=1)
    values = np.take_along_axis(names, values.reshape(count, -1), axis=1).reshape(values.shape)
    for axis, height in ((1, rows), (2, columns)):
        bands = rng.permuted(np.tile(np.arange(size // height), (count, 1)), axis=1)
        within = rng.permuted(np.tile(np.arange(height), (count, size // height, 1)), axis=2)
        order = (bands[:, :, None] * height + within).reshape(count, size)
        order = order[:, :, None] if axis == 1 else order[:, None, :]
        values, hidden = (np.take_along_axis(each, order, axis=axis) for each in (values, hidden))
    turned = (rng.random(count) < 0.5)[:, None, None] & (rows == columns)
    values, hidden = (np.where(turned, each.swapaxes(1, 2), each) for each in (values, hidden))
    return values, hidden


@lru_cache(maxsize=8)
def _dug(
    size: int, purpose: str, count: int, rounds: tuple[int, int], *, heldout: bool, guess: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values and hidden cells (count, n, n) of puzzles of one split with a difficulty in this range, none twice."""
    kept: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    for number in range(BATCHES):
        rng = stream("sudoku", 0, f"{purpose} {size}", number)
        values = _full(size, DUG_AT_ONCE, rng)
        hidden = _dig(values, rng)
        if guess:
            _dig_further(values[: DUG_AT_ONCE // 4], hidden[: DUG_AT_ONCE // 4], rng)
        difficulty = filled_in(values, hidden).max(axis=(1, 2))
        fits = (
            (difficulty >= rounds[0])
            & (difficulty <= rounds[1])
            & (held_out("sudoku", _seen(values, hidden)) == heldout)
        )
        for place in np.flatnonzero(fits):
            kept.setdefault(_seen(values[place], hidden[place]).tobytes(), (values[place], hidden[place]))
        if len(kept) >= count:
            values, hidden = (np.stack(each[:count]) for each in zip(*kept.values(), strict=True))
            return values, hidden
    raise ValueError(
        f"sudoku: puzzles of {rounds[0]} to {rounds[1]} rounds are too rare at size {size}: "
        f"{len(kept)} of {count} found"
    )


def _full(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random full squares (count, n, n): one is searched from a random first row, then drawn under symmetries."""
    empty = [[-1] * size for _ in range(size)]
    made = []
    for _ in range(max(1, count // 16)):
        clues = [list(row) for row in empty]
        clues[0] = [int(digit) for digit in rng.permutation(size)]
        for row in range(1, size):  # one digit a row at random where it fits: other squares than search alone finds
            tried = [list(each) for each in clues]
            tried[row][int(rng.integers(size))] = int(rng.integers(size))
            clues = tried if solutions(tried, 1) else clues
        made.append(solutions(clues, 1)[0])
    values = np.array(made, np.int32)[rng.integers(len(made), size=count)]
    return symmetric(values, np.zeros(values.shape, bool), rng)[0]


def _dig(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cells to hide (B, n, n) that plain elimination still finds, up to a random number of holes."""
    count, size = len(values), values.shape[1]
    hidden = np.zeros(values.shape, bool)
    order = rng.permuted(np.tile(np.arange(size**2), (count, 1)), axis=1)
    holes = rng.integers(size**2 // 3, size**2, size=count)
    items = np.arange(count)
    for place in range(size**2):
        row, column = np.divmod(order[:, place], size)
        tried = hidden.copy()
        tried[items, row, column] = hidden.sum(axis=(1, 2)) < holes
        open_ = np.flatnonzero(tried[items, row, column])
        solved = (filled_in(values[open_], tried[open_]) <= size**2).all(axis=(1, 2))
        hidden[open_[solved], row[open_[solved]], column[open_[solved]]] = True
    return hidden


def _dig_further(values: np.ndarray, hidden: np.ndarray, rng: np.random.Generator) -> None:
    """Hide more cells, in place, as long as a search finds one solution alone."""
    size = values.shape[1]
    for square, holes in zip(values, hidden, strict=True):
        for place in rng.permutation(np.flatnonzero(~holes)):
            holes[divmod(place, size)] = True
            if len(solutions(_seen(square, holes).tolist())) != 1:
                holes[divmod(place, size)] = False


def _seen(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The clues, −1 where hidden."""
    return np.where(hidden, -1, values)


def _clean(values: np.ndarray, hidden: np.ndarray) -> Clean:
    flat = len(values), -1
    return Clean(values.reshape(flat).astype(np.int32), np.zeros(len(values), np.int32), hidden=hidden.reshape(flat))
