"""`torchrun … -m eltbench train`: one run by all its processes, whose files the first keeps."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from eltbench.cli import main as cli
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.execution.store import RunStore
from eltbench.training.identity import run_id
from eltbench.training.loop import fit
from eltbench.training.model import load_model

ARGUMENTS = [
    *("--architecture.unique-layers", "1", "--architecture.max-loops", "2", "--architecture.width", "8"),
    *("--architecture.heads", "2", "--optimisation.steps", "6", "--optimisation.batch-size", "4"),
    *("--optimisation.log-every", "1", "--optimisation.checkpoint-every", "3"),
]
RUN = Run(
    "elt",
    "diffusion",
    "digits",
    architecture=Architecture(unique_layers=1, max_loops=2, width=8, heads=2),
    optimisation=Optimisation(steps=6, batch_size=4, log_every=1, checkpoint_every=3),
)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "eltbench"]


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_stopped_and_leave_one_runs_files(tmp_path):
    whole, run = tmp_path / "whole", replace(RUN, devices=2)
    fit(RUN, whole)
    store = RunStore(tmp_path / "runs")
    directory = store.directory(run_id(run))

    def stop(done, _):
        if done == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(RUN, directory, stop)  # the checkpoint of step 3 is there
    process = subprocess.run(
        [*TORCHRUN, "train", *ARGUMENTS, "--devices", "2", "--runs", str(store.root)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (process.returncode, process.stdout) == (0, f"{run_id(run)}\n"), process.stderr
    assert process.stderr.count("[1/1] elt diffusion digits 1N×2L width=8 heads=2 seed 0: ") == 1

    files = {"checkpoint.json", "checkpoint.safetensors", "done.json", "log.jsonl", "run.json", "lock"}
    assert {path.name for path in directory.iterdir()} == files
    assert store.record(run_id(run))["resumed"] is True
    logs = ((folder / "log.jsonl").read_text().splitlines() for folder in (whole, directory))
    expected, logged = ([json.loads(line) for line in lines] for lines in logs)
    assert [line["step"] for line in logged] == list(range(6))
    for ours, theirs in zip(expected, logged, strict=True):
        assert theirs.pop("exits") == ours.pop("exits")
        assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6 * ours["loss"])
    model = load_model(run_id(run), runs=store.root)  # on one device
    assert (model.run, model.run_id) == (run, run_id(run))


# What needs no second process


@pytest.fixture
def ask(capsys, monkeypatch, tmp_path):
    """Run a command as torchrun's only process would; gives its exit code, stdout and stderr."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    for name, value in {**place, "TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)

    def run(command, *arguments):
        code = cli.main([command, *arguments, "--runs", str(tmp_path / "runs")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_what_is_there_is_not_trained_again(ask, tmp_path):
    assert ask("train", *ARGUMENTS)[:2] == (0, f"{run_id(RUN)}\n")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.*")}
    assert ask("train", *ARGUMENTS) == (0, f"{run_id(RUN)}\n", "")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.*")}


def test_a_run_that_fails_leaves_its_traceback_and_exits_with_one(ask, tmp_path):
    code, said, error = ask("train", *ARGUMENTS, "--optimisation.learning-rate", "1e30")
    assert (code, said) == (1, "")
    assert "failed: DivergedError: " in error
    (failure,) = (tmp_path / "runs").glob("*/failure.txt")
    assert "Traceback" in failure.read_text()


def test_a_run_that_another_process_makes_is_refused(ask, tmp_path):
    with RunStore(tmp_path / "runs").lock(run_id(RUN)):
        code, _, error = ask("train", *ARGUMENTS)
    assert code == 2
    assert f"another process is making run {run_id(RUN)}" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--devices", "2"), "torchrun started 1 processes, one a device, given devices = 2"),
        (("train", "--devices", "3"), "devices must divide batch_size, given batch_size 64 and devices 3"),
        (("train", "--backend", "jax"), "backend 'jax' divides a batch within one process: call eltbench without"),
        (("study", "extrapolation"), "a study starts its own processes, also for several devices: call it without"),
    ],
)
def test_what_torchrun_cannot_start_is_refused(ask, tmp_path, arguments, message):
    code, said, error = ask(*arguments)
    assert (code, said) == (2, "")
    assert message in error
    assert not (tmp_path / "runs").exists()
