"""Seeds trained as one program: each sees, learns and leaves what it would by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from test_jax_training import RATE, assert_same_weights, compilations
from two_backends import small_run

from eltbench.backends.jax.seeds import JaxSeeds
from eltbench.core.config import Run
from eltbench.training import loop as training
from eltbench.training.loop import DivergedError, build_engine, draw, fit, fit_seeds, parts
from eltbench.training.record import WEIGHTS

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STEPS = 20
RUN = replace(small_run("elt", "diffusion", optimisation={"snapshot_every": 7}), backend="jax")
SLOW = pytest.mark.slow
PAIRS = [
    pytest.param(RUN, id="elt diffusion"),
    pytest.param(
        small_run(
            "universal-transformer",
            "masked",
            "digits-codes",
            block="bert",
            dropout=0.2,
            optimisation={"ema_debias": True},
        ),
        id="universal masked with dropout, average debiased",
        marks=SLOW,
    ),
    pytest.param(small_run("progressive", "masked", block="bert"), id="progressive masked", marks=SLOW),
    pytest.param(small_run("trm", "masked", block="bert"), id="trm masked", marks=SLOW),
]


def of(seed: int, run: Run = RUN) -> Run:
    return replace(run, seed=seed, backend="jax")


def together(folder: Path, *seeds: int, report=None, run: Run = RUN) -> list[training.Trainee]:
    return fit_seeds({folder / str(seed): of(seed, run) for seed in seeds}, report)


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def stop_at(step: int):
    def report(*told) -> None:
        if told[-2] >= step:
            raise InterruptedError

    return report


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Two folders of one run: the same files, losses at every step and weights at the end, to float tolerance."""
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    lines, others = logged(ours), logged(theirs)
    assert [line["step"] for line in lines] == list(range(STEPS))
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        assert line["exits"] == other["exits"]
        for name in line.keys() - {"exits"}:  # a term may be small beside the loss it is part of
            assert abs(line[name] - other[name]) <= 1e-5 * max(line["loss"], line[name]), (line["step"], name)
    weights, expected = (
        {name: array for name, array in load_file(folder / WEIGHTS).items() if name.startswith(("weights", "average"))}
        for folder in (ours, theirs)
    )
    assert_same_weights(expected, weights, STEPS)


@pytest.mark.slow
def test_the_step_of_all_seeds_is_compiled_once_whatever_their_exits():
    made, runs = parts(RUN), [of(3), of(8)]
    seeds, seen = JaxSeeds([build_engine(run) for run in runs]), set()
    jax.clear_caches()
    for step in range(STEPS):
        batches, exits = zip(*(draw(run, made, step) for run in runs), strict=True)
        seen.add(exits)
        with compilations() as compiled:
            seeds.step(batches, exits, step / 19, RATE)
        assert len(compiled) == (step == 0)
    assert len(seen) == 4


@pytest.mark.slow
@pytest.mark.parametrize("run", PAIRS)
def test_each_seed_equals_its_own_separate_run(run, tmp_path):
    trainees = together(tmp_path / "together", 3, 8, run=run)
    assert [(trainee.step, trainee.error) for trainee in trainees] == [(STEPS, None)] * 2
    for seed in (3, 8):
        fit(of(seed, run), tmp_path / "apart" / str(seed))
        assert_same_training(tmp_path / "together" / str(seed), tmp_path / "apart" / str(seed))
    lines = [logged(tmp_path / "together" / str(seed)) for seed in (3, 8)]
    assert all(ours["loss"] != theirs["loss"] for ours, theirs in zip(*lines, strict=True))  # each its own data
    if run.trainer in ("elt", "random-loops"):
        assert any(ours["exits"] != theirs["exits"] for ours, theirs in zip(*lines, strict=True))


@pytest.mark.slow
def test_the_engine_of_a_seed_is_that_of_its_checkpoint(tmp_path):
    for trainee in together(tmp_path, 3, 8):
        loaded = build_engine(trainee.run)
        assert loaded.load(trainee.directory) == STEPS
        batch = loaded.upload(draw(trainee.run, parts(trainee.run), 0)[0])
        ours, theirs = (engine.predict(batch, (1, 4))[1].prediction for engine in (trainee.engine, loaded))
        assert np.array_equal(ours, theirs)


# Interrupted and resumed


@pytest.mark.slow
def test_a_run_begun_among_others_is_finished_alone(tmp_path):
    fit(of(3), tmp_path / "whole")
    with pytest.raises(InterruptedError):
        together(tmp_path, 3, 8, report=stop_at(8))
    fit(of(3), tmp_path / "3")
    assert_same_training(tmp_path / "3", tmp_path / "whole")


@pytest.mark.slow
def test_runs_begun_alone_are_finished_together_each_from_its_own_step(tmp_path):
    for seed in (3, 8):
        fit(of(seed), tmp_path / "whole" / str(seed))
    with pytest.raises(InterruptedError):
        fit(of(3), tmp_path / "3", stop_at(12))  # saved at step 10; the other has not begun
    told = []
    together(tmp_path, 8, 3, report=lambda run, done, steps: told.append((run.seed, done, steps)))
    assert told[0] == (3, 10, 20)  # what it resumes from
    assert told[1:6] == [(8, 4, 20), (8, 8, 20), (8, 10, 20), (8, 12, 20), (3, 12, 20)]  # the one behind catches up
    for seed in (3, 8):
        assert_same_training(tmp_path / str(seed), tmp_path / "whole" / str(seed))


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(tmp_path):
    together(tmp_path, 3, 8)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    assert [trainee.step for trainee in together(tmp_path, 3, 8)] == [STEPS, STEPS]
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*")} == before


# One fails, the others go on


def spoil(monkeypatch, at: dict[int, int]) -> None:
    """Let the inputs of a seed be no numbers at the step that `at` names."""

    def spoilt(run, made, step):
        batch, exits = draw(run, made, step)
        return (batch._replace(inputs=batch.inputs * np.nan), exits) if at.get(run.seed) == step else (batch, exits)

    monkeypatch.setattr(training, "draw", spoilt)


@pytest.mark.slow
def test_a_seed_that_diverges_fails_alone_with_its_step(tmp_path, monkeypatch):
    together(tmp_path / "sound", 3, 8)
    spoil(monkeypatch, {8: 6})
    sound, diverged = together(tmp_path, 3, 8)
    assert isinstance(diverged.error, DivergedError)
    assert diverged.error.step == 6
    assert [line["step"] for line in logged(tmp_path / "8")] == list(range(6))
    assert build_engine(of(8)).load(tmp_path / "8") == 5
    assert not (tmp_path / "8" / "snapshot-7.safetensors").exists()
    assert sound.error is None
    assert logged(tmp_path / "3") == logged(tmp_path / "sound" / "3")
    whole, beside = (load_file(folder / "3" / WEIGHTS) for folder in (tmp_path / "sound", tmp_path))
    assert all(np.array_equal(array, beside[name]) for name, array in whole.items())


@pytest.mark.slow
def test_nothing_goes_on_when_all_have_diverged(tmp_path, monkeypatch):
    spoil(monkeypatch, {3: 1, 8: 5})
    told = []
    trainees = together(tmp_path, 3, 8, report=lambda run, done, steps: told.append((run.seed, done)))
    assert [trainee.error.step for trainee in trainees] == [1, 5]
    assert told == [(8, 4)]


@pytest.mark.slow
def test_a_damaged_checkpoint_fails_its_own_seed(tmp_path):
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / WEIGHTS).write_bytes(b"no checkpoint")
    sound, damaged = together(tmp_path, 3, 8)
    assert (sound.step, sound.error) == (STEPS, None)
    assert isinstance(damaged.error, ValueError)
    assert "damaged" in str(damaged.error)


# What cannot be trained together


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (replace(RUN, backend="torch"), "backend 'torch' trains every seed in a program of its own; .*: jax"),
        (replace(RUN, devices=2), "vectorised seeds share one device, given devices = 2"),
    ],
)
def test_runs_that_cannot_be_vectorised_are_refused_before_anything_is_written(run, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit_seeds({tmp_path / str(seed): replace(run, seed=seed) for seed in (3, 8)})
    assert not list(tmp_path.iterdir())


def test_runs_that_differ_in_more_than_their_seed_are_refused(tmp_path):
    with pytest.raises(ValueError, match="differ in their seed alone"):
        fit_seeds({tmp_path / "3": of(3), tmp_path / "8": replace(of(8), precision="bf16")})


def test_a_trainer_that_reads_more_exits_for_one_seed_than_for_another_is_told_to_train_apart():
    seeds = JaxSeeds([build_engine(of(seed)) for seed in (3, 8)])
    batches, _ = zip(*(draw(of(seed), parts(RUN), 0) for seed in (3, 8)), strict=True)
    with pytest.raises(
        ValueError, match=r"equally many exits at a step, given \[\[1, 3\], \[3\]\]; train the seeds .* apart"
    ):
        seeds.step(batches, [(1, 3), (3,)], 0.0, RATE)
    with pytest.raises(ValueError, match="ends at max_loops = 3"):
        seeds.step(batches, [(1, 3), (3, 4)], 0.0, RATE)
