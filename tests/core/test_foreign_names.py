"""Names in files lead to what is registered, or to what the user named; nothing else is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

import eltbench
from eltbench import studies, trainers
from eltbench.cli import main as cli
from eltbench.cli.run_study import main as study_command
from eltbench.core import registry
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.evidence import results
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import Outcome
from eltbench.studies.throughput import recommend
from eltbench.training.model import load_model

RELAY = Path(__file__).parents[2] / "results" / "extrapolation" / "relay"
TRAP = "from pathlib import Path\n\nPath({mark!r}).touch()\n\n\ndef test():\n    raise AssertionError\n"
PARTS = ("trainer", "task", "dataset")
MINE = """
from eltbench.trainers.no_ilsd import NoILSD

class Mine(NoILSD):
    version = 1

class Alone:
    version = 1
"""
PRESET = """
[tiny]
seeds = 1
smoke = true
architecture = {{ unique_layers = 1, max_loops = 2, width = 8, heads = 2 }}
optimisation = {{ steps = 2, batch_size = 4, warmup_steps = 1 }}
measurement = {{ heldout_draws = 1, sample_loops = [1, 2], samples = 20, sampling = {{ steps = 2 }} }}
worlds = [{{ task = "{task}", dataset = "{dataset}" }}]
arms = [{{ trainer = "{trainer}" }}]
"""
TINY = Run(
    "elt",
    "diffusion",
    "digits",
    architecture=Architecture(unique_layers=1, max_loops=2, width=8, heads=2),
    optimisation=Optimisation(steps=2, batch_size=4, warmup_steps=1),
)


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
    """What a test allows is forgotten after it."""
    monkeypatch.setattr(registry, "_allowed", set())


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported, and its name in the form that a class has."""
    mark = tmp_path / "imported"
    (tmp_path / "trap_module.py").write_text(TRAP.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "trap_module", raising=False)
    return "trap_module:test", mark


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with a trainer of the user's own, which is worked in."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def cached(root: Path, run_id: str, **names: str) -> Path:
    """A run's folder as a stranger may send it, finished, with these names in its files."""
    store, run = RunStore(root), Run(**{"trainer": "elt", "task": "diffusion", "dataset": "digits", **names})
    folder = store.directory(run_id)
    folder.mkdir(parents=True)
    save_file({"x": np.zeros(2, np.float32)}, folder / "checkpoint.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps({"run": run.to_dict(), "step": 1000}))
    store.begin(run, run_id)
    store.finish(run, run_id, seconds=1.0, resumed=False)
    return folder


def published(folder: Path, study: str, trainer: str = "elt") -> Path:
    """Results as a stranger may send them."""
    folder.mkdir(parents=True)
    table = results.read_table(RELAY / "rows.parquet")
    names = pa.array([study] * len(table), table.schema.field("study").type)
    results.write_table(folder / "rows.parquet", table.set_column(table.column_names.index("study"), "study", names))
    (folder / "claims.json").write_text(json.dumps({"study": study, "preset": "relay", "claims": {}}))
    made = json.loads((RELAY / "provenance.json").read_text())
    made["commands"][0]["presets"][0]["arms"][0]["trainer"] = trainer
    (folder / "provenance.json").write_text(json.dumps(made))
    return folder


@pytest.mark.parametrize("part", PARTS)
def test_a_checkpoint_imports_nothing(trap, tmp_path, part, capsys):
    name, mark = trap
    folder = cached(tmp_path / "runs", "0" * 16, **{part: name})
    with pytest.raises(ValueError, match=rf"{part} 'trap_module:test' is not registered.* \+trap_module:test"):
        load_model(folder)
    assert cli.main(["sample", str(folder)]) == 2
    assert "+trap_module:test" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_run_cache_that_is_verified_or_merged_imports_nothing(trap, tmp_path, part, capsys):
    name, mark = trap
    for origin in ("a", "b"):
        cached(tmp_path / origin, "0" * 16, **{part: name})
    cli.main(["runs", "verify", "--runs", str(tmp_path / "a")])
    assert "+trap_module:test" in capsys.readouterr().out
    cli.main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--into", str(tmp_path / "c")])
    assert not mark.exists()


@pytest.mark.parametrize("arguments", [["compare"], ["merge", "--into", "c"], ["merge", "--dry-run", "--into", "c"]])
def test_results_that_are_compared_or_merged_import_nothing(trap, tmp_path, arguments, capsys):
    name, mark = trap
    for origin in ("a", "b"):
        published(tmp_path / origin / "x" / "tiny", study=name)
    command, *options = arguments
    folders = [str(tmp_path / origin / ("x/tiny" if command == "compare" else "")) for origin in ("a", "b")]
    assert cli.main([command, *folders, *options]) == 2
    assert "study 'trap_module:test' is not registered" in capsys.readouterr().err
    assert not mark.exists()


def test_a_report_of_results_imports_nothing(trap, tmp_path):
    name, mark = trap
    folder = published(tmp_path / "results" / "x" / "tiny", study=name, trainer=name)
    (folder / "summary.csv").write_text("trainer\n")
    cli.main(["report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "page.html")])
    assert not mark.exists()


@pytest.mark.parametrize(
    "named", [{"study": "trap_module:test"}, {"study": "extrapolation", "trainer": "trap_module:test"}]
)
def test_a_recommendation_from_rows_and_their_provenance_imports_nothing(trap, tmp_path, named):
    _, mark = trap
    path = published(tmp_path / "tiny", **named) / "rows.parquet"
    with pytest.raises(ValueError, match="'trap_module:test' is not registered"):
        recommend.planned_runs(path, results.load_rows(path))
    assert not mark.exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_preset_imports_nothing_that_the_command_line_does_not_name(trap, tmp_path, part, capsys):
    name, mark = trap
    known = {"trainer": "elt", "task": "diffusion", "dataset": "digits", part: name}
    (tmp_path / "theirs.toml").write_text(PRESET.format(**known))
    given = ["study", "extrapolation", "--preset", "theirs.toml", "--dry-run", "--runs", "runs"]
    assert cli.main(given) == 2
    assert f"{part} 'trap_module:test' is not registered" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("name", ["\x1b[2J:x", "a b:C", "os:", ":C", "..os:C", "os:path.join", "/tmp/x:C"])
def test_what_cannot_name_a_class_is_unknown_and_printed_harmlessly(name):
    with pytest.raises(registry.UnknownNameError) as refusal:
        trainers.get(name)
    assert str(refusal.value).startswith(f"unknown trainer {name!r}")
    assert str(refusal.value).isprintable()


# What the user names


def test_python_code_allows_a_class_by_name(mine):
    registry.allow("mine:Mine")
    assert trainers.create("mine:Mine").name == "mine:Mine"
    with pytest.raises(ValueError, match="give module:Class, given 'mine'"):
        registry.allow("mine")


@pytest.mark.slow
@pytest.mark.parametrize("word", [0, 5])
def test_a_plus_anywhere_on_the_command_line_allows_a_class(mine, word, capsys):
    (mine / "own.toml").write_text(PRESET.format(trainer="mine:Mine", task="diffusion", dataset="digits"))
    given = ["study", "extrapolation", "--preset", "own.toml", "--runs", "runs", "--dry-run"]
    given.insert(word, "+mine:Mine")
    assert cli.main(given) == 0, capsys.readouterr().err
    assert "mine:Mine" in capsys.readouterr().out


@pytest.mark.slow
def test_a_plus_is_understood_by_a_study_s_own_command_too(mine, capsys):
    (mine / "own.toml").write_text(PRESET.format(trainer="mine:Mine", task="diffusion", dataset="digits"))
    assert study_command("extrapolation", ["--preset", "own.toml", "+mine:Mine", "--runs", "runs", "--dry-run"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("given", [["--trainers", "elt,+mine:Mine"]])
def test_a_plus_among_trainers_adds_an_arm_and_allows_it(mine, given, capsys):
    (mine / "own.toml").write_text(PRESET.format(trainer="elt", task="diffusion", dataset="digits"))
    assert cli.main(["study", "extrapolation", "--preset", "own.toml", *given, "--runs", "runs", "--dry-run"]) == 0
    assert "mine:Mine diffusion digits" in capsys.readouterr().out


def test_what_is_a_value_of_the_command_line_is_named_by_the_user(mine, monkeypatch, capsys):
    trained = []
    fine = Outcome()
    monkeypatch.setattr("eltbench.execution.train.sweep", lambda jobs, store, progress: trained.extend(jobs) or fine)
    assert cli.main(["train", "--trainer", "mine:Mine", "--runs", "runs"]) == 0, capsys.readouterr().err
    assert trained[0].run.trainer == "mine:Mine"


@pytest.mark.parametrize(
    ("name", "what"), [("mine:Alone", "no subclass of Trainer"), ("mine:NoILSD.exits", "unknown trainer")]
)
def test_a_class_of_another_kind_is_refused_before_it_is_called(mine, name, what):
    if "." not in name:
        registry.allow(name)
    with pytest.raises(ValueError, match=what):
        trainers.create(name)


def test_what_is_no_class_is_refused_before_it_is_called(trap):
    name, _ = trap
    registry.allow(name)
    with pytest.raises(ValueError, match="trap_module:test' is no class"):
        trainers.create(name)


def test_a_trainer_does_not_pass_for_a_study(mine):
    registry.allow("mine:Mine")
    with pytest.raises(ValueError, match="no subclass of Study"):
        studies.create("mine:Mine")


@pytest.mark.slow
def test_worker_processes_are_told_what_is_allowed(mine):
    environment = {**os.environ, "PYTHONPATH": str(Path(eltbench.__file__).parents[1])}
    (mine / "own.toml").write_text(PRESET.format(trainer="mine:Mine", task="diffusion", dataset="digits"))
    command = [sys.executable, "-m", "eltbench.studies.extrapolation", "--preset", "own.toml", "--runs", "runs"]
    refused, done = (
        subprocess.run([*command, *more], cwd=mine, env=environment, capture_output=True, text=True, timeout=300)
        for more in ([], ["+mine:Mine"])
    )
    assert refused.returncode == 2
    assert "add +mine:Mine to the command line" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["runs_done"] == 1


# Where modules are found

STRAYS = ("tyro", "numpy", "filelock", "json")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "eltbench"],
        ["-m", "eltbench.cli.main"],
        ["-c", "import sys; from eltbench.cli.main import main; sys.exit(main())"],
    ],
)
def test_a_stray_file_of_the_current_folder_does_not_stand_for_a_library(tmp_path, command):
    if command[0] == "-c":  # as the installed script, whose own folder stands first
        command = ["-P", *command]
    for name in STRAYS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('stray {name}')")
    environment = {**os.environ, "PYTHONPATH": str(Path(eltbench.__file__).parents[1])}
    given = [sys.executable, *command, "train", "--option", "nothing"]
    done = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert "error: --option: give for example trainer.decay=cosine" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["eltbench.execution.worker", "eltbench.execution.step_cost", "eltbench.studies.throughput.timing_process"],
)
def test_a_stray_file_does_not_stand_for_a_library_in_a_process_of_our_own(tmp_path, module):
    for name in STRAYS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('stray {name}')")
    environment = {**os.environ, "PYTHONPATH": str(Path(eltbench.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=tmp_path,
        env=environment,
        input="",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (3, "")  # its sender is gone, which it finds once it has loaded all


@pytest.mark.slow
def test_a_class_in_the_current_folder_is_found_after_everything_that_is_installed(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    environment = {**os.environ, "PYTHONPATH": str(Path(eltbench.__file__).parents[1])}
    given = [sys.executable, "-m", "eltbench", "train", "--trainer", "mine:Alone"]
    done = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert "no subclass of Trainer" in done.stderr
