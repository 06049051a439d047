"""Mazes whose rooms form a tree, so that exactly one path leads from start to goal: which cells lie on it?

A maze of R×R rooms is drawn on (2R + 1)² cells: rooms at odd places, walls or passages between them, a wall around. Its
tree is the least spanning tree of random weights (Kruskal). Walls, free cells, start and goal are seen; of every free
cell it is hidden whether the path runs over it. Difficulty is the length of the path in rooms walked. A maze belongs to
the training stream or to the held-out items by a hash of its walls, start and goal, so none is in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from eltbench import data
from eltbench.core.streams import held_out, stream
from eltbench.core.validation import whole
from eltbench.data.base import WALL as DARK
from eltbench.data.base import Clean, Dataset, DataSpec, Symbols

WALL, FREE, START, GOAL = range(4)
TRAINING_ITEMS = 1024
MOST_ROOMS = 64
TRIES = 200  # batches drawn before lengths are taken for too rare


@data.register("maze", version=1)
@dataclass(frozen=True)
class Maze(Dataset):
    """Mazes of `rooms` rooms a side in a frame that holds `frame` (0: as many), generated without end.

    shortest, longest: paths of the training stream, in rooms walked. Half of the held-out items have such paths, half
    have longer ones, up to `furthest`. `larger` are held-out mazes that fill the frame.
    """

    solvable = True

    rooms: int = 4
    frame: int = 0
    shortest: int = 1
    longest: int = 8
    furthest: int = 12
    heldout_items: int = 512

    def __post_init__(self) -> None:
        for name, least in (("rooms", 2), ("frame", 0), ("shortest", 1), ("longest", 1), ("furthest", 1)):
            if not whole(getattr(self, name)) or not least <= getattr(self, name) < MOST_ROOMS**2:
                raise ValueError(f"maze: {name} must be an integer of at least {least}, given {getattr(self, name)!r}")
        if not whole(self.heldout_items) or self.heldout_items < 2:
            raise ValueError(f"maze: heldout_items must be an integer of at least 2, given {self.heldout_items!r}")
        if max(self.rooms, self.frame) > MOST_ROOMS:
            raise ValueError(f"maze: at most {MOST_ROOMS} rooms a side, given {max(self.rooms, self.frame)}")
        if self.frame and self.frame < self.rooms:
            raise ValueError(f"maze: a frame of {self.frame} rooms a side cannot hold {self.rooms}")
        if not self.shortest <= self.longest < self.furthest < self.rooms**2:
            raise ValueError(
                f"maze: path lengths must rise, shortest <= longest < furthest, to at most {self.rooms**2 - 1} in "
                f"{self.rooms}×{self.rooms} rooms, given {self.shortest}, {self.longest}, {self.furthest}"
            )

    @property
    def side(self) -> int:
        """Cells a side of the frame."""
        return 2 * (self.frame or self.rooms) + 1

    @property
    def spec(self) -> DataSpec:
        """A square of cells on the path (1) or not (0), beside what each cell is, without classes."""
        return DataSpec("tokens", (self.side, self.side), vocabulary=2, context_vocabulary=4)

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        """`size` new mazes whose paths are as long as those of training."""
        return _drawn(rng, size, self.rooms, self.side, (self.shortest, self.longest), heldout=False)

    def training(self) -> Clean:
        """A fixed sample of 1,024 items of the stream."""
        return self.batch(stream(self.name, 0, "training"), TRAINING_ITEMS)

    def heldout(self) -> Clean:
        """A fixed sample of `heldout_items`: paths as in training first, then longer ones."""
        rng, half = stream(self.name, 0, "heldout"), self.heldout_items // 2
        parts = [
            _drawn(rng, size, self.rooms, self.side, lengths, heldout=True)
            for size, lengths in (
                (self.heldout_items - half, (self.shortest, self.longest)),
                (half, (self.longest + 1, self.furthest)),
            )
        ]
        return Clean._make(None if each[0] is None else np.concatenate(each) for each in zip(*parts, strict=True))

    def larger(self) -> Clean | None:
        """Held-out mazes that fill the frame, with any path; None where the frame is no larger than the rooms."""
        if self.frame <= self.rooms:
            return None
        rng = stream(self.name, 0, "larger")
        return _drawn(rng, self.heldout_items, self.frame, self.side, (1, self.frame**2 - 1), heldout=True)

    def strata(self, clean: Clean) -> np.ndarray | None:
        """The length of its maze's path, at every free cell (B, T); 0 on walls."""
        return np.where(clean.context == WALL, 0, self.difficulty(clean)[:, None])

    def difficulty(self, clean: Clean) -> np.ndarray:
        """The length of each maze's path in rooms walked (B,)."""
        return (clean.values.sum(axis=1) - 1) // 2

    def symbols(self, clean: Clean) -> Symbols:
        """Walls, start, goal, and dots on the path."""
        return drawn(clean)

    @property
    def hardest_trained(self) -> int:
        """The longest path of the training stream."""
        return self.longest


def drawn(clean: Clean) -> Symbols:
    """How mazes are drawn, whatever they come from."""
    texts = np.array([DARK, "", "S", "G"])  # as WALL, FREE, START and GOAL are numbered
    return Symbols(("", "●"), None if clean.context is None else texts[clean.context])


def _drawn(
    rng: np.random.Generator, size: int, rooms: int, side: int, lengths: tuple[int, int], *, heldout: bool
) -> Clean:
    """Mazes of one split whose path lengths are in a range; raises ValueError where such mazes are too rare."""
    cells, paths, count = [], [], 0
    for _ in range(TRIES):
        drawn, on_path = _mazes(rng, max(32, size), rooms, lengths)
        kept = held_out("maze", drawn) == heldout
        cells.append(drawn[kept])
        paths.append(on_path[kept])
        count += int(kept.sum())
        if count >= size:
            break
    else:
        raise ValueError(
            f"maze: paths of {lengths[0]} to {lengths[1]} rooms are too rare with {rooms} rooms a side: "
            f"{count} of {size} found"
        )
    inner = 2 * rooms + 1
    values, context = (np.zeros((size, side, side), np.int32) for _ in range(2))
    values[:, :inner, :inner] = np.concatenate(paths)[:size]
    context[:, :inner, :inner] = np.concatenate(cells)[:size]
    seen = context.reshape(size, -1)
    return Clean(values.reshape(size, -1), np.zeros(size, np.int32), context=seen, hidden=seen != WALL)


def _mazes(rng: np.random.Generator, size: int, rooms: int, lengths: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cells and path (B, 2R + 1, 2R + 1) of those of `size` random mazes that have a path in the range of lengths."""
    edges, count = _edges(rooms), rooms**2
    nodes = size * count
    offsets = count * np.arange(size)[:, None]
    first, second = (edges[:, end] + offsets for end in (0, 1))  # (B, E)
    weights = rng.random(first.shape) + 1  # above zero: a sparse zero is no edge
    graph = csr_array((weights.ravel(), (first.ravel(), second.ravel())), shape=(nodes, nodes))
    tree = minimum_spanning_tree(graph).tocoo()
    start: np.ndarray = rng.integers(count, size=size) + offsets[:, 0]
    # one search for all mazes: their starts hang on a node of its own
    rows = np.concatenate([tree.row, np.full(size, nodes)])
    columns = np.concatenate([tree.col, start])
    joined = csr_array((np.ones(len(rows)), (rows, columns)), shape=(nodes + 1, nodes + 1))
    parents = breadth_first_order(joined, nodes, directed=False)[1][:nodes]
    depth, level = np.where(parents == nodes, 0, -1), 0
    parents = np.where(parents == nodes, np.arange(nodes), parents)  # a start is its own
    while (found := (depth[parents] == level) & (depth < 0)).any():
        level += 1
        depth[found] = level
    depth = depth.reshape(size, count)
    wanted = (depth >= lengths[0]) & (depth <= lengths[1])
    goal = np.where(wanted, rng.random(wanted.shape), -1).argmax(axis=1) + offsets[:, 0]

    cells, path = (np.zeros((size, 2 * rooms + 1, 2 * rooms + 1), np.int32) for _ in range(2))
    cells[:, 1::2, 1::2] = FREE
    maze, row, column = _between(tree.row, tree.col, rooms)
    cells[maze, row, column] = FREE
    at = goal.copy()
    for _ in range(lengths[1] + 1):
        maze, place = at // count, at % count
        path[maze, 2 * (place // rooms) + 1, 2 * (place % rooms) + 1] = 1
        on, above = at != start, parents[at]
        maze, row, column = _between(at[on], above[on], rooms)
        path[maze, row, column] = 1
        at = above
    for which, symbol in ((start, START), (goal, GOAL)):
        place = which % count
        cells[np.arange(size), 2 * (place // rooms) + 1, 2 * (place % rooms) + 1] = symbol
    has = wanted.any(axis=1)
    return cells[has], path[has]


def _between(first: np.ndarray, second: np.ndarray, rooms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maze, row and column of the cell between two neighbouring rooms."""
    ends = [(node % rooms**2 // rooms, node % rooms) for node in (first, second)]
    return first // rooms**2, ends[0][0] + ends[1][0] + 1, ends[0][1] + ends[1][1] + 1


@lru_cache
def _edges(rooms: int) -> np.ndarray:
    """All pairs of neighbouring rooms (E, 2), numbered row by row."""
    number = np.arange(rooms**2).reshape(rooms, rooms)
    across = np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1)
    down = np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1)
    return np.concatenate([across, down])
