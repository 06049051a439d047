"""Pictures of puzzles: which items, what each cell says, and that right and wrong differ without colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_solving import SUDOKU, Solver, model_of

from eltbench.evaluation import settling, solving
from eltbench.evidence import figures

EXITS = (1, 2, 3, 4)


def solved_from(model, monkeypatch, exit_: int):
    """A model that solves every item at that exit and beyond, and before it has one cell wrong in each."""
    monkeypatch.setattr(
        model.engine, "predict", Solver(model, lambda at, target, hidden: np.full(len(target), at >= exit_))
    )
    return model


@pytest.mark.parametrize("dataset", ["maze", "sudoku", "latin"])
def test_the_items_stand_as_the_measurement_saw_them(dataset, monkeypatch):
    model = solved_from(model_of(dataset), monkeypatch, 3)
    settled = settling.settle(model, 4, EXITS)
    wrong = (settled.hidden & (settled.guesses != settled.target)).sum(axis=-1)
    assert wrong.tolist() == [[1] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert solving.solved(model, model.dataset.heldout(), EXITS)[:, 0].tolist() == [False, False, True, True]


def test_items_are_spread_from_the_easiest_to_the_hardest_whatever_their_answers():
    difficulty = np.array([3, 1, 2, 1, 5, 4])
    assert difficulty[settling.spread(difficulty, 3)].tolist() == [1, 2, 5]
    assert settling.spread(difficulty, 9).tolist() == [1, 3, 2, 0, 5, 4]  # all there are


def test_cells_show_what_a_dataset_says():
    sudoku, maze = (settling.settle(model_of(name), 2, (1,)) for name in ("sudoku", "maze"))
    shown = np.where(sudoku.texts == "", 0, np.where(sudoku.texts == "", "0", sudoku.texts).astype(int))
    assert ((shown > 0) == ~sudoku.hidden).all()
    assert (shown[~sudoku.hidden] == sudoku.target[~sudoku.hidden] + 1).all()
    for item in range(2):
        assert sorted(set(maze.texts[item])) == ["", "#", "G", "S"]
        assert ((maze.texts[item] == "#") == ~maze.hidden[item]).all()
        assert (maze.target[item][np.isin(maze.texts[item], ["S", "G"])] == 1).all()


def test_a_wrong_cell_is_struck_through_and_counted(monkeypatch):
    from eltbench.evidence import puzzles

    settled = settling.settle(solved_from(model_of("sudoku"), monkeypatch, 3), 2, EXITS)
    axes = puzzles.table(settled, EXITS).axes
    strokes = [
        sum(len(each.get_segments()) for each in axis.collections if hasattr(each, "get_segments")) for axis in axes
    ]
    assert strokes == [0, 1, 1, 0, 0] * 2
    assert [axis.get_xlabel() for axis in axes[:5]] == ["", "1 wrong", "1 wrong", "solved", "solved"]
    deepest = f"L = {settled.trained} = L_max"
    assert [axis.get_title() for axis in axes[:5]].count(deepest) == 1


@pytest.mark.slow
def test_the_animation_has_a_frame_for_every_exit_and_rests_at_l_max(monkeypatch, tmp_path):
    model = solved_from(model_of("sudoku"), monkeypatch, 3)
    settled = settling.settle(model, 4, EXITS)
    settling.write(settled, tmp_path / "p.gif")
    durations = []
    with Image.open(tmp_path / "p.gif") as moving:
        assert moving.n_frames == len(EXITS)
        for place in range(len(EXITS)):
            moving.seek(place)
            durations.append(moving.info["duration"])
    assert durations[settled.exits.index(settled.trained)] == settling.HELD
    settling.write(settled, tmp_path / "p.png", settling.told(settled))
    with Image.open(tmp_path / "p.png") as still:
        assert "4 held-out puzzles" in still.info[figures.ABOUT]
    assert max((tmp_path / name).stat().st_size for name in ("p.png", "p.gif")) < 200_000
    with pytest.raises(ValueError, match=r"\.gif file, given"):
        settling.write(settled, tmp_path / "p.mp4")


def test_a_world_without_puzzles_is_refused():
    with pytest.raises(ValueError, match="holds no puzzles"):
        settling.settle(model_of("relay"), 4, EXITS)


@pytest.mark.slow
def test_one_model_is_shown_from_the_command_line(tmp_path, capsys):
    from eltbench.cli.main import main

    options = [f"--option=dataset.{name}={value}" for name, value in SUDOKU.items()]
    asked = ["--architecture.block=bert", "--architecture.width=8", "--optimisation.steps=2", "--runs", str(tmp_path)]
    assert main(["train", "--task=masked", "--dataset=sudoku", *options, *asked]) == 0
    run = capsys.readouterr().out.split()[-1]
    out = tmp_path / "answers.gif"
    shown = ["sample", run, "--loops=1:3", "--samples=2", "--runs", str(tmp_path), "--out", str(out)]
    assert main(shown) == 0
    with Image.open(out) as moving:
        assert moving.n_frames <= 3  # frames that are alike are one
    assert main([*shown, "--steps=4"]) == 2
    assert "without noise" in capsys.readouterr().err
