"""Processes that are really killed, files that are really cut short: nothing is lost, trained twice or left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_plugin import RUN, STEPS, install, job, logged, plug_in

from eltbench.execution.progress import Lines
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import sweep

pytestmark = pytest.mark.slow

COMMAND = """
import json, sys
from dataclasses import asdict
from faulty_plugin import job
from eltbench.execution import processes
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import sweep
processes.PATIENCE = 5  # what a gate holds cannot pause
jobs = [job(seed, **options) for seed, options in json.loads(sys.argv[2])]
options = json.loads(sys.argv[3])
print(json.dumps(asdict(sweep(jobs, RunStore(sys.argv[1]), workers=2, **options))))
"""
PATIENCE = 300  # seconds for what takes a few on an idle machine


class Command:
    """A sweep in a process of its own, as a user would start it."""

    def __init__(self, folder: Path, runs: list, **options) -> None:
        self.store, self.runs = RunStore(folder / "runs"), runs
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(self.store.root), json.dumps(runs), json.dumps(options)],
            env=install(folder / "plugin"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def outcome(self) -> dict:
        said, _ = self.process.communicate(timeout=PATIENCE)
        return json.loads(said)


@pytest.fixture
def started():
    commands = []

    def start(folder, runs, **options):
        commands.append(Command(folder, runs, **options))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
        command.process.communicate()


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    plug_in(monkeypatch, tmp_path / "plugin")


def held(tmp_path, *seeds):
    """Runs that stop at their third step, after a checkpoint at the second, until the gate is removed."""
    (tmp_path / "gate").touch()
    return [(seed, {"log": str(tmp_path / f"log-{seed}"), "gate": str(tmp_path / "gate")}) for seed in seeds]


def steps(tmp_path, seed):
    return logged(tmp_path / f"log-{seed}")


def wait(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def alive(pid):
    """Whether a process runs; one that waits to be buried does not."""
    try:
        os.kill(int(pid), 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()


def ids(*runs):
    return [job(seed, **options).run_id for seed, options in runs]


def test_a_killed_command_leaves_no_process_and_is_finished_by_its_repetition(tmp_path, started, plugin):
    seeds = 1, 2
    runs = held(tmp_path, *seeds)
    command = started(tmp_path, runs)
    wait(lambda: all(len(steps(tmp_path, seed)) == 3 for seed in seeds))
    children = {pid for seed in seeds for pid in steps(tmp_path, seed)}
    assert len(children) == len(seeds)
    assert all(map(alive, children))
    os.kill(command.process.pid, signal.SIGKILL)  # itself alone: its workers must notice
    wait(lambda: not any(map(alive, children)), seconds=5)

    (tmp_path / "gate").unlink()
    outcome = started(tmp_path, runs).outcome()
    assert sorted(outcome["done"]) == sorted(ids(*runs))
    # steps 0, 1, 2, then 2 and 3 from the checkpoint that the second step had left
    assert all(len(steps(tmp_path, seed)) == 5 for seed in seeds)


def test_the_processes_of_a_divided_run_end_with_the_command_and_its_repetition_starts_new_ones(
    tmp_path, started, plugin
):
    runs = [(seed, {**options, "devices": 2}) for seed, options in held(tmp_path, 1)]
    command = started(tmp_path, runs)
    wait(lambda: len(steps(tmp_path, 1)) == 4)  # both at their second step
    ranks = set(steps(tmp_path, 1))
    assert len(ranks) == 2
    assert all(map(alive, ranks))
    os.kill(command.process.pid, signal.SIGKILL)
    wait(lambda: not any(map(alive, ranks)), seconds=5)

    (tmp_path / "gate").unlink()
    assert started(tmp_path, runs).outcome() == {"done": ids(*runs), "cached": [], "failed": {}}
    assert len(steps(tmp_path, 1)) == 4 + 2 * STEPS


def test_ctrl_c_ends_the_running_processes_and_keeps_their_checkpoints(tmp_path, started, plugin):
    runs = held(tmp_path, 1, 2, 3)
    command = started(tmp_path, runs)
    wait(lambda: all(len(steps(tmp_path, seed)) == 3 for seed in (1, 2)))
    os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does: to parent and children alike
    assert command.process.wait(timeout=10) != 0
    wait(lambda: not any(alive(pid) for seed in (1, 2) for pid in steps(tmp_path, seed)), seconds=5)
    assert [command.store.state(run_id) for run_id in ids(*runs)] == ["partial", "partial", "missing"]


@pytest.mark.parametrize(
    ("number", "tell"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)],
    ids=["Ctrl-C, to its process group", "SIGTERM, to the command alone"],
)
def test_an_interrupted_command_pauses_its_runs_and_its_repetition_resumes_them(tmp_path, number, tell):
    (tmp_path / "gate").touch()
    options = [
        f"trainer.{name}={value}" for name, value in {"log": tmp_path / "log", "gate": tmp_path / "gate"}.items()
    ]
    options += [f"dataset.{name}={value}" for name, value in RUN.dataset_options]
    world = ["--task", RUN.task, "--dataset", RUN.dataset, "--optimisation.label-dropout", "0"]
    shape = ["--architecture.unique-layers", "1", "--architecture.width", "8", "--architecture.heads", "2"]
    shape += ["--architecture.block", "bert"]
    size = ["--optimisation.steps", "6", "--optimisation.batch-size", "4", "--runs", str(tmp_path / "runs")]
    command = [sys.executable, "-m", "eltbench", "train", "--trainer", "faulty", *world, *shape, *size]
    for option in options:
        command += ["--option", option]
    keywords = {"env": install(tmp_path / "plugin"), "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **keywords)
    wait(lambda: len(logged(tmp_path / "log")) == 3)
    tell(process.pid, number)
    time.sleep(0.2)
    (tmp_path / "gate").unlink()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert ": paused at step 3\n" in said
    assert "repeat the command to go on" in said
    assert "FAILED" not in said
    (directory,) = (tmp_path / "runs").iterdir()
    assert RunStore(tmp_path / "runs").state(directory.name) == "partial"
    again = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=PATIENCE, **keywords)
    assert again.returncode == 0
    assert ": resumes from step 3\n" in again.stderr
    assert len(logged(tmp_path / "log")) == 6


def test_a_second_ctrl_c_waits_for_nothing(tmp_path, started, plugin):
    runs = held(tmp_path, 1)
    command = started(tmp_path, runs)
    wait(lambda: len(steps(tmp_path, 1)) == 3)
    os.kill(command.process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert alive(steps(tmp_path, 1)[0])
    os.kill(command.process.pid, signal.SIGINT)
    wait(lambda: not alive(steps(tmp_path, 1)[0]), seconds=4)
    assert command.process.wait(timeout=10) != 0


def test_a_process_that_is_told_to_end_by_itself_leaves_a_run_to_be_resumed(tmp_path, started, plugin):
    runs = held(tmp_path, 1)
    command = started(tmp_path, runs)
    wait(lambda: len(steps(tmp_path, 1)) == 3)
    os.kill(int(steps(tmp_path, 1)[0]), signal.SIGTERM)
    (tmp_path / "gate").unlink()
    (run_id,) = ids(*runs)
    assert command.outcome()["failed"] == {run_id: "its process was told to end: paused at step 3"}
    assert command.store.state(run_id) == "partial"


def test_one_killed_run_fails_alone_and_is_made_by_the_repetition(tmp_path, started, plugin):
    runs = held(tmp_path, 1, 2)
    command = started(tmp_path, runs)
    wait(lambda: all(len(steps(tmp_path, seed)) == 3 for seed in (1, 2)))
    os.kill(int(steps(tmp_path, 1)[0]), signal.SIGKILL)
    (tmp_path / "gate").unlink()
    killed, sibling = ids(*runs)
    assert command.outcome() == {"done": [sibling], "cached": [], "failed": {killed: "process killed by SIGKILL"}}
    assert command.store.state(killed) == "failed"

    assert started(tmp_path, runs).outcome() == {"done": [killed], "cached": [sibling], "failed": {}}
    assert [len(steps(tmp_path, seed)) for seed in (1, 2)] == [5, STEPS]


def test_two_commands_on_one_store_train_no_run_twice(tmp_path, started, plugin):
    runs = held(tmp_path, 1, 2)
    both = [started(tmp_path, runs), started(tmp_path, runs[::-1])]
    wait(lambda: all(len(steps(tmp_path, seed)) == 3 for seed in (1, 2)))
    time.sleep(1)  # the other command's processes wait at the locks meanwhile, or come later: both must do
    (tmp_path / "gate").unlink()
    outcomes = [command.outcome() for command in both]
    assert [len(steps(tmp_path, seed)) for seed in (1, 2)] == [STEPS, STEPS]
    assert sorted(outcomes[0]["done"] + outcomes[1]["done"]) == sorted(ids(*runs))
    assert all(sorted(outcome["done"] + outcome["cached"]) == sorted(ids(*runs)) for outcome in outcomes)
    assert all(both[0].store.is_cached(job(seed, **options)) for seed, options in runs)


def test_truncated_files_are_reported_set_aside_and_redone(tmp_path, plugin, monkeypatch):
    store, asked = RunStore(tmp_path / "runs"), job(1, log=str(tmp_path / "log-1"))
    said = []
    monkeypatch.setattr(Lines, "_say", lambda self, text: said.append(text))
    rows = store.measurement_path(asked.run_id, "weighing", asked.digest)
    weights = store.directory(asked.run_id) / "checkpoint.safetensors"
    sweep([asked], store, progress=Lines())
    for damaged in (rows, weights):
        damaged.write_bytes(damaged.read_bytes()[:-100])
    outcome = sweep([asked], store, progress=Lines())
    assert outcome.done == [asked.run_id]
    assert store.is_cached(asked)
    assert len(steps(tmp_path, 1)) == 2 * STEPS  # trained from the beginning, not from what was damaged
    for damaged in (rows, weights):
        assert damaged.with_name(f"{damaged.name}.damaged-1").exists()
        assert any(line.startswith(f"warning: damaged file {damaged} (") for line in said)
