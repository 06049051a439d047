"""Mazes against networkx: trees of rooms, one path, splits that share no maze, and errors before anything is drawn."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from eltbench import data
from eltbench.data.base import Clean
from eltbench.data.form import check_splits
from eltbench.data.maze import GOAL, START, WALL, Maze

SMALL = Maze(rooms=3, frame=5, longest=4, furthest=7, heldout_items=64)


def graph(cells: np.ndarray) -> nx.Graph:
    """The free cells of one maze, joined where they touch."""
    free = {(int(row), int(column)) for row, column in np.argwhere(cells != WALL)}
    made = nx.Graph()
    made.add_nodes_from(free)
    made.add_edges_from((cell, (cell[0] + 1, cell[1])) for cell in free if (cell[0] + 1, cell[1]) in free)
    made.add_edges_from((cell, (cell[0], cell[1] + 1)) for cell in free if (cell[0], cell[1] + 1) in free)
    return made


def check(world: Maze, items: Clean, rooms: int, lengths: range) -> None:
    """What each item promises: a tree of rooms, the only path from start to goal, and its length."""
    side = world.side
    assert items.context is not None
    assert items.hidden is not None
    assert np.array_equal(items.hidden, items.context != WALL)
    for cells, values, length in zip(items.context, items.values, world.difficulty(items), strict=True):
        square = cells.reshape(side, side)
        free = graph(square)
        assert nx.is_tree(free)
        assert free.number_of_nodes() == 2 * rooms**2 - 1  # rooms, and one passage fewer
        assert all(row % 2 or column % 2 for row, column in free)
        ((start,), (goal,)) = (map(tuple, np.argwhere(square == symbol).tolist()) for symbol in (START, GOAL))
        path = nx.shortest_path(free, start, goal)
        assert {(int(row), int(column)) for row, column in np.argwhere(values.reshape(side, side))} == set(path)
        assert len(path) == 2 * length + 1
        assert int(length) in lengths


@pytest.mark.parametrize("world", [Maze(heldout_items=64), SMALL], ids=["whole frame", "part of the frame"])
def test_every_item_is_a_tree_with_its_only_path(world):
    check_splits(world)
    check(world, world.batch(np.random.default_rng(0), 64), world.rooms, range(1, world.longest + 1))
    check(world, world.heldout(), world.rooms, range(1, world.furthest + 1))


@pytest.mark.slow
def test_ten_thousand_items_are_as_promised():
    world = Maze()
    check(world, world.batch(np.random.default_rng(1), 10_000), 4, range(1, 9))


def test_half_of_the_held_out_items_are_longer_than_any_trained():
    world = Maze(heldout_items=100)
    lengths = world.difficulty(world.heldout())
    assert (lengths[:50] <= world.hardest_trained).all()
    assert (lengths[50:] > world.hardest_trained).all()


def test_larger_mazes_fill_the_frame():
    check(SMALL, SMALL.larger(), 5, range(1, 25))


def test_no_maze_stands_in_both_splits():
    world = Maze(rooms=3, longest=4, furthest=7, heldout_items=512)  # few enough to be drawn again and again
    trained = {row.tobytes() for row in world.batch(np.random.default_rng(0), 8192).context}
    held = {row.tobytes() for row in world.heldout().context}
    assert len(trained) < 6000
    assert not trained & held


def test_the_stream_is_what_its_generator_says_and_held_out_items_are_always_the_same():
    world = Maze(heldout_items=32)
    one, two = (world.batch(np.random.default_rng(3), 8) for _ in range(2))
    assert np.array_equal(one.context, two.context)
    assert np.array_equal(world.heldout().context, Maze(heldout_items=32).heldout().context)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rooms": 1}, "rooms must be an integer of at least 2, given 1"),
        ({"rooms": True}, "rooms must be an integer of at least 2, given True"),
        ({"frame": 3}, "a frame of 3 rooms a side cannot hold 4"),
        ({"rooms": 100}, "at most 64 rooms a side, given 100"),
        ({"longest": 12}, "path lengths must rise, .* given 1, 12, 12"),
        ({"furthest": 16}, ".* to at most 15 in 4×4 rooms, given 1, 8, 16"),
        ({"shortest": 9}, "path lengths must rise"),
        ({"heldout_items": 1}, "heldout_items must be an integer of at least 2, given 1"),
    ],
)
def test_a_maze_that_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=f"maze: {said}"):
        data.create("maze", **options)


def test_lengths_that_hardly_occur_are_told_and_not_waited_for(monkeypatch):
    monkeypatch.setattr("eltbench.data.maze.TRIES", 2)
    with pytest.raises(ValueError, match="paths of 97 to 98 rooms are too rare with 10 rooms a side: 0 of 32 found"):
        Maze(rooms=10, shortest=97, longest=98, furthest=99).batch(np.random.default_rng(0), 32)


def test_a_frame_without_room_holds_no_larger_mazes():
    assert Maze().larger() is None
