"""What the command of a study refuses before anything is trained, and what it says to write instead."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eltbench import studies
from eltbench.cli import run_study as command
from eltbench.core import machine

PRESET = """
[tiny]
architecture = { unique_layers = 1, max_loops = 2, width = 8, heads = 2 }
worlds = [{ task = "diffusion", dataset = "digits" }]
arms = [{ trainer = "elt" }, { trainer = "no-ilsd" }]
"""


@pytest.fixture
def refusal(capsys, tmp_path, monkeypatch):
    """What the command says when it refuses, having started and written nothing."""
    (tmp_path / "mine.toml").write_text(PRESET)
    popen = subprocess.Popen

    def refuse(arguments, **options):
        assert "eltbench.execution.worker" not in arguments, "a run was started"
        return popen(arguments, **options)  # libraries start some when they are loaded

    monkeypatch.setattr(subprocess, "Popen", refuse)

    def run(*arguments, where=None):
        preset = () if "--preset" in arguments else ("--preset", tmp_path / "mine.toml:tiny")
        given = (*preset, "--runs", tmp_path / "runs", "--results", where or tmp_path / "results", *arguments)
        code = command.main("extrapolation", [str(argument) for argument in given])
        said = capsys.readouterr()
        assert (code, said.out) == (2, "")
        assert said.err.startswith("error: ")
        assert not (tmp_path / "runs").exists()
        return said.err

    return run


def test_workers_that_are_left_open_are_as_many_as_the_control_groups_give_time_for(refusal, monkeypatch):
    def opened(engine, scheduler, workers):
        raise ValueError(f"{workers} workers")

    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_processor_limits", lambda groups, tree: iter([3]))
    monkeypatch.setattr(command.executors, "opened", opened)
    assert refusal() == "error: 3 workers\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trainers", "etl"), "unknown trainer of preset 'tiny' 'etl'; did you mean 'elt'?"),
        (("--trainers", "+universal"), "unknown trainer 'universal'; did you mean 'universal-transformer'?"),
        (("--trainers", "+elt"), "two models that its rows could not tell apart: elt diffusion digits"),
        (("--trainers", "+unique-depth"), "has no loops: give max_loops = 1"),
        (("--tasks", "difusion"), "did you mean 'diffusion'?"),
        (("--preset", "quik"), "unknown preset of extrapolation 'quik'; did you mean 'quick'?"),
        (("--preset", "nowhere.toml:tiny"), "preset file nowhere.toml"),
        (("--backend", "troch"), "unknown backend 'troch'; did you mean 'torch'?"),
        (("--vectorise-seeds",), "--vectorise-seeds: backend 'torch' trains every seed in a program of its own; "),
        (("--backend", "jax,torch", "--vectorise-seeds"), "--vectorise-seeds: backend 'torch' trains every seed in a"),
        (("--device", "cpuu"), "torch has no device 'cpuu' here; known: cpu"),
        (("--engine", "dask"), "--engine dask: give --scheduler an address such as tcp://HOST:8786, or a cluster file"),
        (("--engine", "dask", "--scheduler", "nowhere.toml"), "cluster file nowhere.toml: "),
        (("--scheduler", "tcp://a:1"), "--scheduler belongs to --engine dask, given 'tcp://a:1' with 'local'"),
        (("--seeds", "0:1000000000"), "seeds: give at most 10,000, given '0:1000000000'"),
        (("--seeds", "two"), "seeds: give numbers or a range such as 0:5, given 'two'"),
        (("--seeds", "5:2"), "seeds: give numbers or a range such as 0:5, given '5:2'"),
        (
            ("--budget", "2 pc"),
            "--budget: give a span of time such as 30d, 12h, 90m, 1h30m or 3600s, given '2 pc'",
        ),
        (("--workers", "-1"), "workers: give 1 or more, or 0 for as many as fit, given -1"),
    ],
)
def test_bad_input_is_refused_with_what_to_write_instead(refusal, arguments, message):
    assert message in refusal(*arguments)


def test_a_world_that_is_there_twice_in_two_ways_is_refused(refusal, tmp_path):
    world = '{ task = "diffusion", dataset = "digits" }'
    again = '{ task = "diffusion", dataset = "digits", architecture = { max_loops = 4 }, optimisation = { steps = 9 } }'
    control = PRESET.replace('"elt" }', '"elt", role = "control" }').replace(', { trainer = "no-ilsd" }', "")
    (tmp_path / "twice.toml").write_text(control.replace(world, f"{world}, {again}"))
    said = refusal("--preset", tmp_path / "twice.toml:tiny")
    assert "has diffusion digits torch twice" in said
    assert "optimisation.steps: once 1000, then 9" in said


def test_a_study_of_a_name_that_is_no_folder_is_refused(refusal, monkeypatch):
    monkeypatch.setattr(studies.get("extrapolation"), "name", "../extrapolation")
    assert "study: a name begins with a letter or digit" in refusal("--preset", "quick")


def test_a_backend_that_is_not_installed_names_the_extra_to_install(refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    for arguments in (("--backend", "jax"), ("--backend", "torch,jax"), ("--backend", "jax", "--vectorise-seeds")):
        assert "backend 'jax' needs optax, not installed here: pip install 'eltbench[jax]'" in refusal(*arguments)


def test_results_that_cannot_be_written_are_refused_before_training(refusal, tmp_path):
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"cannot write to {where}" in refusal(where=where)


def test_a_run_cache_that_cannot_be_written_is_refused_before_training(refusal, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refusal("--runs", tmp_path / "file" / "runs")


def test_an_option_that_does_not_exist_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as refusal:
        command.main("extrapolation", ["--trainer", "elt"])
    assert refusal.value.code == 2
    said = capsys.readouterr()
    assert "--trainers" in said.err
    assert "Traceback" not in said.err
