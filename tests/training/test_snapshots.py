"""Snapshots: the averaged weights on the way, kept whole whatever happens, and weights that do not know of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from eltbench.core import atomic
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.execution import worker
from eltbench.execution.store import RunStore
from eltbench.training.identity import run_id
from eltbench.training.job import Job
from eltbench.training.loop import build_engine, fit, parts
from eltbench.training.model import Model, load_model
from eltbench.training.record import WEIGHTS

STEPS, EVERY = 10, 3
RUN = Run(
    "no-ilsd",  # whose objective does not ask how far the training is
    "diffusion",
    "digits",
    architecture=Architecture(unique_layers=1, max_loops=3, width=16, heads=2),
    optimisation=Optimisation(
        steps=STEPS, batch_size=8, warmup_steps=3, log_every=4, checkpoint_every=5, snapshot_every=EVERY
    ),
)
TAKEN = {3, 6, 9}
NOISY = np.random.default_rng(0).normal(size=(4, 8, 8, 1))


def plain(run: Run = RUN, **changes) -> Run:
    """The run without snapshots."""
    return replace(run, optimisation=replace(run.optimisation, snapshot_every=0, **changes))


def kept(directory) -> dict[str, dict[str, np.ndarray]]:
    """Every array of every safetensors file of the folder."""
    return {path.name: load_file(path) for path in directory.glob("*.safetensors")}


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, arrays in ours.items():
        assert arrays.keys() == theirs[name].keys()
        assert all(np.array_equal(array, theirs[name][key]) for key, array in arrays.items()), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the run, trained without interruption."""
    directory = tmp_path_factory.mktemp("whole")
    fit(RUN, directory)
    return directory


# What they hold


def test_the_steps_are_the_multiples_before_the_end():
    assert Optimisation(steps=100, snapshot_every=30).snapshots == (30, 60, 90)
    assert Optimisation(steps=100, snapshot_every=25).snapshots == (25, 50, 75)
    assert Optimisation(steps=100, snapshot_every=100).snapshots == Optimisation(steps=100).snapshots == ()
    with pytest.raises(ValueError, match="snapshot_every must be an integer of at least 0, given -5"):
        Optimisation(snapshot_every=-5)


def test_a_run_with_snapshots_ends_with_the_weights_of_one_without_under_a_name_of_its_own(whole, tmp_path):
    fit(plain(), tmp_path)
    assert {int(name[len("snapshot-") : -len(".safetensors")]) for name in kept(whole) if name != WEIGHTS} == TAKEN
    assert_same({WEIGHTS: kept(whole)[WEIGHTS]}, kept(tmp_path))
    assert run_id(plain()) != run_id(RUN)


@pytest.mark.parametrize("step", sorted(TAKEN))
def test_a_snapshot_predicts_as_the_end_of_a_shorter_run(step, whole, tmp_path):
    fit(plain(steps=step), tmp_path)
    at_step, ended, last = load_model(whole, step=step), load_model(tmp_path), load_model(whole)
    models = ended, at_step, last.at_step(step), last.at_step(STEPS)
    expected, found, asked, final = (model.predict(NOISY, log_snr=0.0, exits=(1, 3, 5)) for model in models)
    assert np.array_equal(expected, found)
    assert np.array_equal(expected, asked)
    assert not np.isclose(expected, final).all(axis=(1, 2, 3, 4)).any()  # at no exit
    assert (at_step.run, at_step.run_id) == (RUN, run_id(RUN))


def test_a_snapshot_is_a_quarter_of_a_checkpoint(whole):
    sizes = {path.name: sum(array.size for array in load_file(path).values()) for path in whole.glob("*.safetensors")}
    assert {4 * size for name, size in sizes.items() if name != WEIGHTS} == {sizes[WEIGHTS]}


# What goes wrong


class KilledError(BaseException):
    """Stands for the end of the process: no handler of the code under test catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("written", range(8))
def test_a_run_killed_before_any_of_its_files_appears_ends_as_an_uninterrupted_one(
    written, whole, tmp_path, monkeypatch
):
    """Files appear by `os.replace`: the log, three snapshots, and two checkpoints of two files."""
    replaced, real = [], os.replace

    def replace_or_die(source, target):
        if len(replaced) == written:
            raise KilledError
        replaced.append(target)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "replace", replace_or_die)
        with pytest.raises(KilledError):
            fit(RUN, tmp_path)
    fit(RUN, tmp_path)
    assert_same(kept(whole), kept(tmp_path))


@pytest.mark.slow
def test_a_process_that_is_really_killed_is_taken_up_again(tmp_path):
    run = replace(RUN, optimisation=replace(RUN.optimisation, steps=80, snapshot_every=7, checkpoint_every=30))
    code = "import sys, json; from eltbench.core.config import run_from_dict; from eltbench.training.loop import fit\n"
    code += "fit(run_from_dict(json.loads(sys.argv[1])), __import__('pathlib').Path(sys.argv[2]))"
    with subprocess.Popen([sys.executable, "-c", code, json.dumps(run.to_dict()), str(tmp_path / "killed")]) as process:
        deadline = time.monotonic() + 180  # a few seconds on an idle machine
        while not (tmp_path / "killed" / "snapshot-35.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert len(kept(tmp_path / "killed")) < 12
    fit(run, tmp_path / "killed")
    fit(run, tmp_path / "whole")
    assert_same(kept(tmp_path / "whole"), kept(tmp_path / "killed"))


@pytest.mark.parametrize("lost", [3, 9])
def test_a_snapshot_that_is_gone_is_made_by_training_again(lost, whole, tmp_path):
    fit(RUN, tmp_path)
    (tmp_path / f"snapshot-{lost}.safetensors").unlink()
    fit(RUN, tmp_path)
    assert_same(kept(whole), kept(tmp_path))


@pytest.mark.parametrize("damage", ["gone", "truncated", "flipped", "of another step"])
def test_a_damaged_snapshot_of_a_finished_run_is_set_aside_and_made_again(damage, tmp_path):
    def work() -> list[dict]:
        events: list[dict] = []
        worker.work([[job]], store, events.append)
        return events

    store, job = RunStore(tmp_path / "runs"), Job(RUN)
    assert work()[-1]["trained"]
    directory = store.directory(job.run_id)
    before, path = kept(directory), directory / "snapshot-6.safetensors"
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "of another step":
        path.write_bytes((directory / "snapshot-3.safetensors").read_bytes())
    else:
        path.write_bytes(data[:-7] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    warning, *_, last = work()
    assert f"snapshot-6.safetensors is {'gone' if damage == 'gone' else 'not the file'}" in warning["warning"]
    assert last["trained"]
    assert_same(before, kept(directory))
    assert store.state(job.run_id) == "done"
    assert not work()[-1]["trained"]


def test_a_damaged_snapshot_of_an_unfinished_run_is_set_aside_and_made_again(whole, tmp_path):
    def stop(done, _):
        if done >= 8:
            raise KilledError

    store = RunStore(tmp_path)
    directory, warnings = store.directory(run_id(RUN)), []
    with pytest.raises(KilledError):
        fit(RUN, directory, stop)
    (directory / "snapshot-3.safetensors").write_bytes(b"half")
    store.repair(run_id(RUN), warnings.append)
    assert "snapshot-3.safetensors is damaged" in warnings[0]
    fit(RUN, directory)
    assert_same(kept(whole), kept(directory))


def test_a_step_without_a_snapshot_is_refused_with_those_there_are(whole, tmp_path):
    with pytest.raises(ValueError, match="kept no weights of step 4; it has those of steps 3, 6, 9, 10"):
        load_model(whole, step=4)
    with pytest.raises(ValueError, match="it has those of steps 3, 6, 9, 10"):
        load_model(whole).at_step(0)
    fit(plain(steps=2), tmp_path)
    with pytest.raises(ValueError, match="no weights of step 1; it has those of steps 2"):
        load_model(tmp_path, step=1)


def test_a_model_that_was_never_stored_has_no_other_steps():
    with pytest.raises(ValueError, match="not loaded from a run's folder"):
        Model(RUN, build_engine(RUN), parts(RUN)).at_step(3)


def test_a_snapshot_of_another_network_or_step_is_refused(whole, tmp_path):
    engine = build_engine(replace(RUN, architecture=replace(RUN.architecture, width=32)))
    with pytest.raises(ValueError, match="does not fit this network"):
        engine.load_snapshot(whole, 3)
    (tmp_path / "snapshot-6.safetensors").write_bytes((whole / "snapshot-3.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"snapshot-6.safetensors is damaged or not eltbench's: it holds step 3"):
        build_engine(RUN).load_snapshot(tmp_path, 6)
    with pytest.raises(ValueError, match=r"snapshot-9.safetensors is damaged"):
        build_engine(RUN).load_snapshot(tmp_path, 9)
