"""`eltbench.train` makes the run that the command makes; classes of a notebook reach the worker by their source."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import eltbench
from eltbench.cli import main as cli
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.training.identity import run_id

RUN = Run(
    "elt",
    "diffusion",
    "digits",
    architecture=Architecture(unique_layers=1, max_loops=2, width=8, heads=2),
    optimisation=Optimisation(steps=3, batch_size=4, warmup_steps=1),
)
COMMAND = """train --architecture.unique-layers 1 --architecture.max-loops 2 --architecture.width 8
--architecture.heads 2 --optimisation.steps 3 --optimisation.batch-size 4 --optimisation.warmup-steps 1 --runs"""
CELLS = [
    "from dataclasses import dataclass\nimport eltbench\nfrom eltbench.trainers import Trainer\nSHARE = 0.25",
    "def weighed(loss):\n    return SHARE * loss",
    '''
@eltbench.trainers.register("mine", version=2)
@dataclass(frozen=True)
class Mine(Trainer):
    """Two exits, the early one weighed."""

    depth = "looped"

    def exits(self, architecture, rng):
        return (1, architecture.max_loops)

    def objective(self, outputs, batch, progress, task, ops):
        early, last = (task.loss(output, batch, ops) for output in outputs)
        return {"early": weighed(early), "last": last}
''',
]
NOTEBOOK = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.loads(sys.argv[1]):
    shell.run_cell(cell).raise_error()
"""
FROM_HERE = {**os.environ, "PYTHONPATH": str(Path(eltbench.__file__).parents[1])}


def weights(runs: Path, run_id: str) -> dict[str, np.ndarray]:
    return load_file(runs / run_id / "checkpoint.safetensors")


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The model of a run, and the cache that it is in."""
    runs = tmp_path_factory.mktemp("runs")
    return eltbench.train(RUN, runs=runs, progress=False), runs


@pytest.mark.slow
def test_the_run_is_the_command_s_to_the_bit(trained, tmp_path, capsys):
    model, runs = trained
    assert cli.main([*COMMAND.split(), str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == model.run_id
    assert same(weights(runs, model.run_id), weights(tmp_path, model.run_id))
    drawn = [
        loaded.sample(np.arange(3), 2, steps=2) for loaded in (model, eltbench.load_model(tmp_path / model.run_id))
    ]
    assert np.array_equal(*drawn)


@pytest.mark.slow
def test_a_run_that_is_there_is_not_trained_again(trained, no_process, capsys):
    model, runs = trained
    assert eltbench.train(RUN, runs=runs).run_id == model.run_id
    assert capsys.readouterr().err == "runs to make: 0, cached: 1\n"


@pytest.mark.slow
def test_a_run_that_fails_raises_its_reason(tmp_path):
    diverging = replace(RUN, optimisation=replace(RUN.optimisation, learning_rate=1e38, steps=20))
    with pytest.raises(RuntimeError, match=r"DivergedError: .*failure\.txt"):
        eltbench.train(diverging, runs=tmp_path, progress=False)


def test_what_cannot_be_is_refused_before_anything_is_started(tmp_path, no_process, monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'elt'"):
        eltbench.train(replace(RUN, trainer="etl"), runs=tmp_path)
    with pytest.raises(ValueError, match="device"):
        eltbench.train(replace(RUN, device="tpu"), runs=tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(ValueError, match="without torchrun"):
        eltbench.train(RUN, runs=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_from_which_the_next_call_goes_on(tmp_path):
    long = replace(RUN, optimisation=replace(RUN.optimisation, steps=100_000, log_every=1, checkpoint_every=100_000))
    code = f"import eltbench\nfrom eltbench import *\neltbench.train({values(long)}, runs={str(tmp_path)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=FROM_HERE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 90
    while not any(path.stat().st_size for path in tmp_path.glob("*/log.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=90)
    assert "KeyboardInterrupt" in said
    with pytest.raises(ValueError, match=r"is trained to step [1-9]\d* of 100000"):
        eltbench.load_model(run_id(long), runs=tmp_path)


def values(run: Run) -> str:
    return f"eltbench.core.config.run_from_dict({run.to_dict()!r})"


@pytest.mark.slow
def test_a_trainer_of_a_notebook_s_cells_trains_as_that_of_a_file(tmp_path):
    (tmp_path / "my_trainer.py").write_text(
        "\n\n".join(CELLS).replace('@eltbench.trainers.register("mine", version=2)', "")
    )
    run = replace(RUN, trainer="mine")
    last = f"model = eltbench.train({values(run)}, runs='runs', progress=False)\nprint(model.run_id)"
    last = last.replace(
        "eltbench.core.config.run_from_dict", "__import__('eltbench.core.config').core.config.run_from_dict"
    )
    command = [sys.executable, "-c", NOTEBOOK, json.dumps([*CELLS, last])]
    made = subprocess.run(command, env=FROM_HERE, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stdout + made.stderr
    command = [sys.executable, "-m", "eltbench.cli.main", *COMMAND.split(), "runs", "--trainer", "my_trainer:Mine"]
    file = subprocess.run(command, env=FROM_HERE, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert file.returncode == 0, file.stderr
    ids = made.stdout.split()[-1], file.stdout.split()[-1]
    assert ids[0] != ids[1]  # a name is part of an identity
    assert same(*(weights(tmp_path / "runs", each) for each in ids))
