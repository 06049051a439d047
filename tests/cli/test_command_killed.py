"""The study's own command, really killed, and two of them at once: nothing is lost, trained twice or left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eltbench

pytestmark = pytest.mark.slow

PATIENCE = 90  # seconds for what takes a few on an idle machine
PRESET = """
[tiny]
seeds = 2
architecture = { unique_layers = 1, max_loops = 2, width = 16, heads = 2, block = "bert" }
optimisation = { steps = 300, batch_size = 8, log_every = 5, checkpoint_every = 20, label_dropout = 0.0 }
measurement = { heldout_draws = 1, samples = 0 }
worlds = [{ task = "masked", dataset = "relay", dataset_options = { length = 4, strips = 2 } }]
arms = [{ trainer = "elt" }]
"""


def start(folder: Path, *arguments: str, temporary: Path | None = None) -> subprocess.Popen:
    (folder / "presets.toml").write_text(PRESET)
    command = [
        "-m",
        "eltbench.studies.extrapolation",
        "--preset",
        "presets.toml:tiny",
        "--runs",
        "runs",
        "--workers",
        "2",
    ]
    return subprocess.Popen(
        [sys.executable, *command, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(eltbench.__file__).parents[1]),
            **({} if temporary is None else {"TMPDIR": str(temporary)}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> dict:
    said, errors = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, errors
    return json.loads(said.splitlines()[-1])


def until(met, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def processes_in(folder: Path) -> list[int]:
    """Processes whose working directory is the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder.resolve():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="processes are looked up in /proc")
def test_a_killed_command_leaves_no_process_and_its_repetition_finishes_the_rest(tmp_path):
    command = start(tmp_path)
    until(lambda: len(list((tmp_path / "runs").glob("*/checkpoint.safetensors"))) == 2, "no run reached a checkpoint")
    os.kill(command.pid, signal.SIGKILL)  # itself alone: its workers must notice
    command.communicate(timeout=PATIENCE)
    until(lambda: not processes_in(tmp_path), "a process outlived its command")
    again = finished(start(tmp_path))
    assert (again["runs_done"] + again["runs_cached"], again["runs_failed"]) == (2, 0)
    rows = eltbench.load_rows(tmp_path / "results")
    assert sorted(rows["seed"].unique()) == [0, 1]
    for log in (tmp_path / "runs").glob("*/log.jsonl"):
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(300))


def test_two_commands_on_one_results_folder_publish_what_both_made(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = start(tmp_path, "--seeds", "0:2", temporary=tmp_path / "one")
    second = start(tmp_path, "--seeds", "1:3", temporary=tmp_path / "two")
    outcomes = [finished(first), finished(second)]
    assert sum(outcome["runs_done"] for outcome in outcomes) == 3  # the seed they share is trained once
    assert sum(outcome["runs_failed"] for outcome in outcomes) == 0
    assert sorted(eltbench.load_rows(tmp_path / "results")["seed"].unique()) == [0, 1, 2]
