"""Puzzles from files in the forms that are public: a line a puzzle, the question and its answer as text.

Sudoku: the digits of a square row by row, 0 or a dot where hidden, then those of its solution (the CSV of many
collections: `quizzes,solutions` or `question,answer`). Maze: the cells row by row, `#` a wall, a space a free cell, S
start, G goal; the answer marks the path by `o` (the 30×30 mazes of arXiv 2506.21734). A header names the columns.
"""

from __future__ import annotations

import csv
import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

from eltbench import data
from eltbench.core.streams import HELDOUT_SHARE
from eltbench.data.base import Clean, Dataset, DataSpec, Symbols
from eltbench.data.maze import FREE, GOAL, START, WALL, drawn
from eltbench.data.sudoku import BOXES, filled_in, rounds_of, solutions, symmetric

QUESTIONS, ANSWERS = ("quizzes", "question", "puzzle", "quiz"), ("solutions", "answer", "solution")
CELLS = {"#": WALL, " ": FREE, "S": START, "G": GOAL}


@dataclass(frozen=True)
class PuzzleFile(Dataset):
    """Puzzles of a CSV file; `heldout_path` names a file of held-out ones, else a hash parts the first.

    Every line is checked: the first that is no puzzle, or that stands in both splits, is named in a ValueError.
    """

    solvable = True

    path: str = field(default="", metadata={"location": True})
    heldout_path: str = field(default="", metadata={"location": True})

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(f"{self.name}: give the CSV file as option path, for example dataset.path=puzzles.csv")

    @classmethod
    @abstractmethod
    def read_line(cls, question: str, answer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, context and hidden cells (n, n) of one puzzle; ValueError for what is none."""

    @property
    def spec(self) -> DataSpec:
        side = self._splits()[0].values.shape[1]
        return self.form(math.isqrt(side))

    @classmethod
    @abstractmethod
    def form(cls, side: int) -> DataSpec:
        """The form of puzzles with so many cells a side."""

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        """`size` training puzzles drawn with replacement."""
        training = self._splits()[0]
        return training.select(rng.integers(len(training.values), size=size))

    def training(self) -> Clean:
        """All training puzzles."""
        return self._splits()[0].select(slice(None))

    def heldout(self) -> Clean:
        """All held-out puzzles."""
        return self._splits()[1].select(slice(None))

    @property
    def hardest_trained(self) -> int | None:
        """The greatest difficulty of the training puzzles."""
        difficulty = self.difficulty(self.training())
        return None if difficulty is None else int(difficulty.max())

    def fingerprint(self) -> str:
        """A hash of the files' content."""
        contents = [Path(path).expanduser().read_bytes() for path in (self.path, self.heldout_path) if path]
        return hashlib.sha256(b"\0".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()

    def _splits(self) -> tuple[Clean, Clean]:
        return _read(type(self), self.path, self.heldout_path, self.fingerprint())


@data.register("sudoku-file", version=1)
@dataclass(frozen=True)
class SudokuFile(PuzzleFile):
    """Sudoku of a CSV file, 16, 36 or 81 characters a puzzle, each with one solution, drawn under new symmetries."""

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        drawn = super().batch(rng, size)
        side = math.isqrt(drawn.values.shape[1])
        assert drawn.hidden is not None
        made = symmetric(drawn.values.reshape(-1, side, side), drawn.hidden.reshape(-1, side, side), rng)
        values, hidden = (each.reshape(size, -1) for each in made)
        return Clean(values, drawn.labels, hidden=hidden)

    @classmethod
    def read_line(cls, question: str, answer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        side = math.isqrt(len(question))
        if side not in BOXES or len(question) != side**2 or len(answer) != side**2:
            raise ValueError(f"expected 16, 36 or 81 characters twice, given {len(question)} and {len(answer)}")
        digits = "".join(map(str, range(1, side + 1)))
        if odd := (set(question) - set(digits) - {"0", "."}) | (set(answer) - set(digits)):
            raise ValueError(f"digits are 1 to {side}, and 0 or a dot where hidden, given {sorted(odd)[0]!r}")
        hidden = np.array([character in "0." for character in question]).reshape(side, side)
        values = np.array([int(character) - 1 for character in answer], np.int32).reshape(side, side)
        clues = [-1 if character in "0." else int(character) - 1 for character in question]
        if any(clue >= 0 and clue != value for clue, value in zip(clues, values.ravel(), strict=True)):
            raise ValueError("the solution is of another puzzle: it changes a digit that is given")
        found = (
            [values.tolist()]
            if _follows(values, hidden)
            else solutions([clues[row : row + side] for row in range(0, side**2, side)])
        )
        if found != [values.tolist()]:
            told = {0: "no solution", 1: "another solution than the one given"}.get(len(found), "several solutions")
            raise ValueError(f"the puzzle has {told}")
        return values, np.zeros_like(values), hidden

    @classmethod
    def form(cls, side: int) -> DataSpec:
        return DataSpec("tokens", (side, side), vocabulary=side)

    def strata(self, clean: Clean) -> np.ndarray | None:
        """The round of plain elimination that fills each cell (B, T): 0 where seen, n² + 1 where it takes a guess."""
        return rounds_of(clean)

    def difficulty(self, clean: Clean) -> np.ndarray | None:
        """Rounds of plain elimination (B,), n² + 1 where one has to guess."""
        rounds = rounds_of(clean)
        return None if rounds is None else rounds.max(axis=1)


@data.register("maze-file", version=1)
@dataclass(frozen=True)
class MazeFile(PuzzleFile):
    """Square mazes of a CSV file, whose answer is a shortest path and the only one of its length."""

    @classmethod
    def read_line(cls, question: str, answer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        side = math.isqrt(len(question))
        if len(question) != side**2 or len(answer) != side**2 or side < 2:
            raise ValueError(f"expected a square of cells twice, given {len(question)} and {len(answer)} characters")
        if odd := (set(question) - set(CELLS)) | (set(answer) - set(CELLS) - {"o"}):
            raise ValueError(f"cells are '#', ' ', 'S' and 'G', and 'o' in the answer, given {sorted(odd)[0]!r}")
        for symbol in "SG":
            if question.count(symbol) != 1:
                raise ValueError(f"expected one {symbol!r}, given {question.count(symbol)}")
        if question != answer.replace("o", " "):
            raise ValueError("the answer is of another maze")
        context = np.array([CELLS[cell] for cell in question], np.int32).reshape(side, side)
        values = np.array([cell in "oSG" for cell in answer], np.int32).reshape(side, side)
        _check_path(context, values)
        return values, context, context != WALL

    @classmethod
    def form(cls, side: int) -> DataSpec:
        return DataSpec("tokens", (side, side), vocabulary=2, context_vocabulary=4)

    def symbols(self, clean: Clean) -> Symbols:
        """Walls, start, goal, and dots on the path."""
        return drawn(clean)

    def difficulty(self, clean: Clean) -> np.ndarray:
        """Steps from start to goal (B,)."""
        return clean.values.sum(axis=1) - 1


def _follows(values: np.ndarray, hidden: np.ndarray) -> bool:
    """Whether plain elimination shows that these values are the only ones."""
    if (filled_in(values[None], hidden[None]) > len(values) ** 2).any():
        return False
    return solutions(values.tolist(), 1) == [values.tolist()]  # the rules hold


def _check_path(context: np.ndarray, values: np.ndarray) -> None:
    """Raise ValueError unless the marked cells are the only shortest path from start to goal."""
    side = len(context)
    number = np.arange(side**2).reshape(side, side)
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    first, second = (np.concatenate([pair[end].ravel() for pair in pairs]) for end in (0, 1))
    free = (context != WALL).ravel()
    joined = free[first] & free[second]
    graph = coo_array((np.ones(joined.sum()), (first[joined], second[joined])), shape=(side**2, side**2)).tocsr()
    ends = [int(np.flatnonzero(context.ravel() == symbol)[0]) for symbol in (START, GOAL)]
    ahead, back = shortest_path(graph, directed=False, unweighted=True, indices=ends)
    length = ahead[ends[1]]
    if not np.isfinite(length):
        raise ValueError("no path leads from start to goal")
    on_some, marked = ahead + back == length, values.ravel() > 0
    if marked.sum() != length + 1 or (marked & ~on_some).any():
        raise ValueError(f"the marked cells are no shortest path, which has {int(length)} steps")
    if on_some.sum() != length + 1:
        raise ValueError("several paths are as short as the marked one")


@lru_cache(maxsize=4)
def _read(kind: type[PuzzleFile], path: str, heldout_path: str, fingerprint: str) -> tuple[Clean, Clean]:
    """Training and held-out puzzles; the fingerprint only says that the files are still the same."""
    parts = [_lines(kind, each) for each in (path, heldout_path) if each]
    if len(parts) == 1:
        (every,) = parts
        held = {key: each for key, each in every.items() if _number(key) % HELDOUT_SHARE == 0}
        parts = [{key: each for key, each in every.items() if key not in held}, held]
    training, held = parts
    if twice := training.keys() & held.keys():
        key = min(twice)
        raise ValueError(f"{heldout_path}, line {held[key][0]}: stands also in {path}, line {training[key][0]}")
    for place, split in ((path, training), (heldout_path or path, held)):
        if not split:
            raise ValueError(
                f"{place}: too few puzzles, none is left for {'training' if split is training else 'testing'}"
            )
    first, second = _clean(training), _clean(held)
    if first.values.shape[1] != second.values.shape[1]:
        raise ValueError(f"{heldout_path}: its puzzles are of another size than those of {path}")
    return first, second


Line = tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]


def _lines(kind: type[PuzzleFile], path: str) -> dict[str, Line]:
    """Question → line number and puzzle."""
    found: dict[str, Line] = {}
    sizes: set[int] = set()
    for number, question, answer in _texts(Path(path).expanduser()):
        try:
            puzzle = kind.read_line(question, answer)
            sizes.add(puzzle[0].size)
            if len(sizes) > 1:
                raise ValueError(f"puzzles of several sizes: {sorted(sizes)} cells")
            if question in found:
                raise ValueError(f"the same puzzle as in line {found[question][0]}")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        found[question] = number, puzzle
    return found


def _texts(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, question and answer of every line of a CSV file with a header."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            head = [name.strip().lower() for name in next(reader, [])]
            places = [next((head.index(name) for name in names if name in head), -1) for names in (QUESTIONS, ANSWERS)]
            if -1 in places:
                raise ValueError(f"{path}: the header must name {QUESTIONS[1]!r} and {ANSWERS[1]!r}, given {head}")
            for line in reader:
                if len(line) <= max(places):
                    raise ValueError(f"{path}, line {reader.line_num}: expected {len(head)} fields, given {len(line)}")
                yield reader.line_num, line[places[0]], line[places[1]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file: {error}") from None


def _number(question: str) -> int:
    return int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "little")


def _clean(split: dict[str, Line]) -> Clean:
    values, context, hidden = (
        np.stack(each).reshape(len(split), -1) for each in zip(*(puzzle for _, puzzle in split.values()), strict=True)
    )
    return Clean(values, np.zeros(len(values), np.int32), context if context.any() else None, hidden)
