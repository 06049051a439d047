"""Puzzles of users' files: what is read, how it is parted, and which line is named where one is no puzzle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eltbench import data
from eltbench.core.config import Run
from eltbench.data.base import Dataset
from eltbench.data.form import check_splits
from eltbench.data.maze import Maze
from eltbench.data.sudoku import Sudoku
from eltbench.training.identity import run_id

ONE = "1.3.3.1.2.4.4.2.", "1234341221434321"


def write(path: Path, lines: list[tuple[str, str]], head: str = "question,answer") -> Path:
    path.write_text("\n".join([head, *(f"{question},{answer}" for question, answer in lines)]) + "\n")
    return path


def sudokus(count: int, size: int = 4) -> list[tuple[str, str]]:
    """Puzzles that the package digs, in the public form."""
    items = Sudoku(size, hardest=size, puzzles=count).training()
    answers = ["".join(str(digit + 1) for digit in values) for values in items.values]
    return [
        ("".join("0" if hides else digit for digit, hides in zip(answer, hidden, strict=True)), answer)
        for answer, hidden in zip(answers, items.hidden, strict=True)
    ]


def mazes(count: int) -> list[tuple[str, str]]:
    items = Maze(rooms=3, longest=4, furthest=7).batch(np.random.default_rng(0), count)
    questions = ["".join("# SG"[cell] for cell in cells) for cells in items.context]
    return [
        (question, "".join("o" if on and cell == " " else cell for cell, on in zip(question, values, strict=True)))
        for question, values in zip(questions, items.values, strict=True)
    ]


def made(name: str, path: Path, **more: str) -> Dataset:
    return data.create(name, path=str(path), **more)


@pytest.mark.parametrize("head", ["question,answer", "quizzes,solutions", "Puzzle,Solution"])
@pytest.mark.parametrize(("name", "lines"), [("sudoku-file", sudokus(64)), ("maze-file", mazes(64))])
def test_a_file_in_the_public_form_is_read_and_parted(name, lines, head, tmp_path):
    world = made(name, write(tmp_path / "puzzles.csv", lines, head))
    check_splits(world)
    training, held = world.training(), world.heldout()
    assert len(training.values) + len(held.values) == len({question for question, _ in lines})
    assert 0 < len(held.values) < len(training.values)
    batch = world.batch(np.random.default_rng(0), 32)
    assert batch.values.shape == (32, world.spec.tokens)
    assert (world.difficulty(batch) > 0).all()


def test_what_is_read_is_what_was_dug(tmp_path):
    items = Sudoku(4, hardest=4, puzzles=64).training()
    world = made("sudoku-file", write(tmp_path / "a.csv", sudokus(64)))
    dug = {values.tobytes() + hidden.tobytes() for values, hidden in zip(items.values, items.hidden, strict=True)}
    for split in (world.training(), world.heldout()):
        assert {v.tobytes() + h.tobytes() for v, h in zip(split.values, split.hidden, strict=True)} <= dug
    assert world.spec == Sudoku(4).spec


def test_a_second_file_holds_the_held_out_puzzles(tmp_path):
    lines = sudokus(32)
    world = made(
        "sudoku-file", write(tmp_path / "a.csv", lines[:24]), heldout_path=str(write(tmp_path / "b.csv", lines[24:]))
    )
    assert (len(world.training().values), len(world.heldout().values)) == (24, 8)


def test_the_content_decides_what_a_run_is(tmp_path):
    run = Run("elt", "masked", "sudoku-file")
    lines = sudokus(32)
    paths = [write(tmp_path / name, its) for name, its in (("a.csv", lines), ("b.csv", lines), ("c.csv", lines[1:]))]
    first, same, other = (run_id(replace(run, dataset_options={"path": str(path)})) for path in paths)
    assert first == same != other


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("1.3", ONE[1], "line 3: expected 16, 36 or 81 characters twice, given 3 and 16"),
        (ONE[0], ONE[1][1:], "given 16 and 15"),
        ("5" + ONE[0][1:], ONE[1], "digits are 1 to 4, and 0 or a dot where hidden, given '5'"),
        (ONE[0], "." + ONE[1][1:], "given '.'"),
        ("2" + ONE[0][1:], ONE[1], "it changes a digit that is given"),
        ("." * 16, ONE[1], "the puzzle has several solutions"),
        ("." * 16, "1" * 16, "the puzzle has several solutions"),
        ("11" + "." * 14, "11" + ONE[1][2:], "the puzzle has no solution"),
    ],
)
def test_a_line_that_is_no_puzzle_is_named(question, answer, said, tmp_path):
    path = write(tmp_path / "a.csv", [sudokus(2)[0], (question, answer)])
    with pytest.raises(ValueError, match=said):
        made("sudoku-file", path).training()


OPEN = "######S G##   ##   ######"


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("#" * 24, "#" * 24, "expected a square of cells twice, given 24 and 24 characters"),
        (OPEN.replace("S", "x"), OPEN, "in the answer, given 'x'"),
        (OPEN.replace("S", " "), OPEN, "expected one 'S', given 0"),
        (OPEN, OPEN.replace("#", " ", 1), "the answer is of another maze"),
        (OPEN.replace("S G", "S#G").replace(" ", "#"), OPEN.replace("S G", "S#G").replace(" ", "#"), "no path leads"),
        (OPEN, OPEN, "the marked cells are no shortest path, which has 2 steps"),
        ("######S  ##  G##   ######", "######So ## oG##   ######", "several paths are as short"),
    ],
)
def test_a_line_that_is_no_maze_is_named(question, answer, said, tmp_path):
    path = write(tmp_path / "a.csv", [mazes(1)[0], (question, answer)])
    with pytest.raises(ValueError, match=f"line 3: .*{said}"):
        made("maze-file", path).training()


def test_what_is_wrong_with_a_whole_file_is_told(tmp_path):
    lines = sudokus(16)
    cases = {
        "the header must name 'question' and 'answer', given \\['a', 'b'\\]": (lines, "a,b"),
        "line 18: the same puzzle as in line 2": ([*lines, lines[0]], "question,answer"),
        "line 18: puzzles of several sizes: \\[16, 36\\] cells": ([*lines, *sudokus(1, 6)], "question,answer"),
        "too few puzzles": (lines[:1], "question,answer"),
    }
    for number, (said, given) in enumerate(cases.items()):
        with pytest.raises(ValueError, match=said):
            made("sudoku-file", write(tmp_path / f"{number}.csv", *given)).training()
    both = write(tmp_path / "both.csv", lines[3:5])
    with pytest.raises(ValueError, match=r"both\.csv, line 2: stands also in .*all\.csv, line 5"):
        made("sudoku-file", write(tmp_path / "all.csv", lines), heldout_path=str(both)).training()
    (tmp_path / "short.csv").write_text("question,answer\n1234\n")
    with pytest.raises(ValueError, match="line 2: expected 2 fields, given 1"):
        made("sudoku-file", tmp_path / "short.csv").training()
    with pytest.raises(ValueError, match="give the CSV file as option path"):
        data.create("maze-file")
