"""The command of the study depth_grid: a tiny grid from end to end, and grids that are refused."""

from __future__ import annotations

import json

import pytest

import eltbench
from eltbench import schema
from eltbench.studies import command
from eltbench.studies.depth_grid import DepthGrid

PRESET = """
[tiny]
seeds = 1
grid = { depth = 4 }
architecture = { width = 16, heads = 2 }
optimisation = { steps = 3, batch_size = 8, log_every = 3 }
measurement = { heldout_draws = 1, samples = 20, sampling = { steps = 2 }, timed_batch = 4, timing_rounds = 1 }
worlds = [{ task = "diffusion", dataset = "digits" }]
arms = [
    { trainer = "elt" },
    { trainer = "unique-depth", role = "equal-compute", architecture = { unique_layers = 4, max_loops = 1 } },
]
"""


def ask(folder, *arguments, text=PRESET, name="tiny"):
    (folder / "mine.toml").write_text(text)
    places = ("--runs", folder / "runs", "--results", folder / "results")
    given = ("--preset", f"{folder / 'mine.toml'}:{name}", *places, *arguments)
    return command.main("depth_grid", [str(argument) for argument in given])


@pytest.mark.slow
def test_a_grid_is_trained_measured_decided_drawn_and_not_trained_again(tmp_path, capsys):
    assert ask(tmp_path) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["runs_done"], line["runs_cached"], line["runs_failed"]) == (3, 0, 0)
    assert set(line["claims"]) == set(DepthGrid.claims)
    folder = tmp_path / "results" / "depth_grid" / "tiny"
    files = ["claims.json", "figure.pdf", "figure.png", "provenance.json", "rows.parquet", "summary.csv"]
    assert sorted(path.name for path in folder.iterdir()) == files
    rows = eltbench.load_rows(folder)
    assert list(rows.columns) == schema.row_schema(DepthGrid.columns).names
    sizes = {tuple(size) for size in rows[["trainer", "unique_layers", "max_loops"]].drop_duplicates().to_numpy()}
    assert sizes == {("elt", 1, 4), ("elt", 2, 2), ("unique-depth", 4, 1)}
    assert {"heldout_loss", "kernel_distance", "call_seconds"} <= set(rows["metric"])
    assert rows[rows["metric"] == "call_seconds"][["batch_size", "threads"]].notna().all(axis=None)
    before = (folder / "rows.parquet").read_bytes()
    assert ask(tmp_path, "--trainers", "elt") == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["runs_done"], line["runs_cached"]) == (0, 2)
    assert len(eltbench.load_rows(folder)) == len(rows)
    assert ask(tmp_path) == 0
    assert (folder / "rows.parquet").read_bytes() == before


def test_a_further_trainer_is_trained_at_every_size_of_the_grid(tmp_path, capsys):
    assert ask(tmp_path, "--trainers", "+no-ilsd", "--dry-run") == 0
    listed = capsys.readouterr().out
    for size in ("1N×4L", "2N×2L"):
        for trainer in ("elt", "no-ilsd"):
            assert f"{trainer} diffusion digits {size}" in listed
    assert "0 cached, 5 to make" in listed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depth = 4", "depth = 40", "grid: depth 40 is above cap = 16; the nearest depth that would work is 16"),
        ("depth = 4", "depth = 4, unique_layers = [3]", "unique_layers 3 is part of no N×L with N·L = 4; the nearest"),
        ("depth = 4", "depths = 4", "unknown grid field 'depths'; did you mean 'depth'?"),
        ("{ depth = 4 }", "4", "preset 'tiny': grid must be a table, given 4"),
        ("width = 16", "width = 15", "heads must divide width, given width 15 and heads 2; the nearest width that"),
        ("depth = 4", "depth = 4, widths = [30]", "must be a multiple of 4 (2-D positions), given 30; the nearest"),
        ("max_loops = 1 }", "max_loops = 2 }", "'unique-depth' has no loops: give max_loops = 1"),
        ('trainer = "elt"', 'trainer = "unique-depth"', "'unique-depth' has no loops: give max_loops = 1"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_is_made(tmp_path, capsys, old, new, message):
    assert old in PRESET
    assert ask(tmp_path, text=PRESET.replace(old, new)) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]
