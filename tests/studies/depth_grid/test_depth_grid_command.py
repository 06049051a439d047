"""The command of the study depth_grid: a tiny grid from end to end, and grids that are refused."""

from __future__ import annotations

import json

import pytest

import eltbench
from eltbench.cli import run_study as command
from eltbench.evidence import schema
from eltbench.execution import step_cost
from eltbench.execution.step_cost import Cost
from eltbench.execution.sweep import Outcome
from eltbench.studies.depth_grid.study import DepthGrid

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


WITH_CLAIM = """
[tiny]
grid = { depth = 8, unique_layers = [2, 4] }
architecture = { width = 16, heads = 2 }
worlds = [{ task = "diffusion", dataset = "digits" }]
arms = [
    { trainer = "elt" },
    { trainer = "unique-depth", role = "equal-compute", architecture = { unique_layers = 8, max_loops = 1 } },
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
    assert set(line["claims"]) == {claim.id for claim in DepthGrid.claims}
    folder = tmp_path / "results" / "depth_grid" / "tiny"
    files = ["claims.json", "figure.pdf", "figure.png", "provenance.json", "rows.parquet", "summary.csv"]
    assert sorted(path.name for path in folder.iterdir()) == [".lock", *files]
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


@pytest.fixture
def a_minute_each(monkeypatch):
    """Every run takes a minute to begin, and nothing else."""
    monkeypatch.setattr(step_cost, "calibrate", lambda runs, workers: dict.fromkeys(runs, Cost(60.0, 0.0)))


@pytest.mark.parametrize("dry", [True, False])
def test_a_budget_makes_what_fits_and_says_what_is_left_out(tmp_path, capsys, monkeypatch, a_minute_each, dry):
    made = []
    monkeypatch.setattr(command, "sweep", lambda jobs, *_, **__: made.extend(jobs) or Outcome())
    asked = ("--seeds", "0:3", "--workers", "1", "--budget", "7min", *(["--dry-run"] if dry else []))
    assert ask(tmp_path, *asked, text=WITH_CLAIM) == 0
    said = capsys.readouterr()
    told = (said.out if dry else said.err).splitlines()
    assert told[:2] == [
        "left out: elt diffusion digits 4N×2L width=16 heads=2",
        "cannot be decided by these runs: iso-compute-gain, diffusion digits torch width 16",
    ]
    if dry:
        assert told[-1] == "0 cached, 6 to make, about 6 min 00 s with 1 workers"
        assert (len(told), made) == (2 + 6 + 2, [])
    else:
        assert [(job.run.architecture.unique_layers, job.run.seed) for job in made] == [
            (layers, seed) for layers in (2, 8) for seed in range(3)
        ]


def test_a_budget_that_fits_nothing_is_refused_with_the_smallest_that_would(tmp_path, capsys, a_minute_each):
    asked = ("--seeds", "0:3", "--workers", "1", "--budget")
    assert ask(tmp_path, *asked, "5min", text=WITH_CLAIM) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no model that a claim needs fits into 5 min 00 s with 3 seeds" in said.err
    assert "the smallest budget that would work is 360s (6 min 00 s), for what iso-compute" in said.err
    assert not (tmp_path / "runs").exists()
    assert ask(tmp_path, *asked, "360s", "--dry-run", text=WITH_CLAIM) == 0


def test_a_further_trainer_is_trained_at_every_size_of_the_grid(tmp_path, capsys, a_minute_each):
    assert ask(tmp_path, "--trainers", "+no-ilsd", "--dry-run") == 0
    listed = capsys.readouterr().out
    for size in ("1N×4L", "2N×2L"):
        for trainer in ("elt", "no-ilsd"):
            assert f"{trainer} diffusion digits {size}" in listed
    how, total = listed.splitlines()[-2:]
    assert how.startswith(f"how that is known: 5 kinds were timed here just now ({step_cost.HOW})")
    assert total.startswith("0 cached, 5 to make, about ")


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
