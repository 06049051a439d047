"""A study on a dataset of one's own, by the command line alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

import eltbench
from eltbench.cli import run_study as command
from eltbench.data.sudoku import Sudoku
from eltbench.studies.presets import load_preset


def csv_of(path, puzzles=40):
    """A user's file: 4×4 puzzles, a line each, 0 where hidden."""
    items = Sudoku(4, puzzles=puzzles).training()
    lines = ["quizzes,solutions"]
    for values, hidden in zip(items.values, items.hidden, strict=True):
        lines.append(",".join("".join(map(str, row)) for row in (np.where(hidden, 0, values + 1), values + 1)))
    path.write_text("\n".join(lines))
    return path


def smoke(**asked):
    return load_preset("extrapolation", "smoke").of_dataset(**asked)


def test_the_dataset_takes_the_place_of_a_world_of_its_kind(tmp_path):
    (world,) = smoke(dataset="sudoku-file", options={"path": str(csv_of(tmp_path / "mine.csv"))}).worlds
    assert (world.task, world.dataset) == ("masked", "sudoku-file")
    assert world.architecture == {"block": "bert"}  # of the masked world, without another world's attention radius
    (world,) = smoke(dataset="digits", options={}).worlds
    assert (world.task, world.dataset_options) == ("diffusion", {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--option", "dataset.path=x.csv"], "name the dataset that these are options of"),
        (["--dataset", "sudoku", "--option", "trainer.decay=linear"], "takes options of its --dataset alone"),
        (["--dataset", "sudoku", "--option", "dataset.sise=4"], "sise"),
        (["--dataset", "sudok"], "did you mean 'sudoku'"),
        (["--dataset", "sudoku", "--tasks", "diffusion"], "has no world for tokens data such as 'sudoku'"),
        (["--dataset", "sudoku-file", "--option", "dataset.path=nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_names_no_dataset_is_refused_before_any_training(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main("extrapolation", ["--preset", "smoke", "--runs", "runs", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_user_s_puzzles_go_through_the_study(tmp_path, capsys):
    file, results = csv_of(tmp_path / "puzzles.csv"), tmp_path / "results"
    given = ["--preset", "smoke", "--dataset", "sudoku-file", "--option", f"dataset.path={file}"]
    given += ["--trainers", "elt,unique-depth", "--runs", str(tmp_path / "runs"), "--results", str(results)]
    assert command.main("extrapolation", given) == 0
    rows = eltbench.load_rows(results)
    assert set(rows["dataset"]) == {"sudoku-file"}
    solved = rows[(rows["metric"] == "solved") & (rows["trainer"] == "elt") & rows["stratum"].isna()]
    assert sorted(solved["loops"]) == list(range(1, 17))  # up to 4·L_max
    assert solved["value"].between(0, 1).all()
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["runs_done"], said["runs_failed"]) == (2, 0)
