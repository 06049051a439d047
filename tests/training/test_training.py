from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from eltbench import trainers
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.data.digits import Digits
from eltbench.execution.cache import tensors
from eltbench.trainers.elt import ELT
from eltbench.training import loop as training
from eltbench.training.log import Log
from eltbench.training.loop import DivergedError, fit, learning_rate, parts
from eltbench.training.record import WEIGHTS

SMALL = Architecture(unique_layers=1, max_loops=3, width=16, heads=2)
UNIQUE = replace(SMALL, unique_layers=3, max_loops=1)


def small_run(trainer: str = "elt", steps: int = 10, **changes) -> Run:
    optimisation = Optimisation(steps=steps, batch_size=8, warmup_steps=3, log_every=3, checkpoint_every=4)
    architecture = UNIQUE if trainer == "unique-depth" else SMALL
    return replace(Run(trainer, "diffusion", "digits", architecture=architecture, optimisation=optimisation), **changes)


def logged(directory) -> list[dict]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


class StoppedError(Exception):
    pass


def fit_until(run: Run, directory, step: int) -> None:
    def stop(done, _):
        if done >= step:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(run, directory, stop)


class Recorder:
    """Stands for an engine and remembers what it is given."""

    leads = True

    def __init__(self) -> None:
        self.steps: list[tuple] = []

    def step(self, batch, exits, progress, rate):
        self.steps.append((batch, exits, progress, rate))
        return {"loss": np.float32(0)}

    def numpy(self, array):
        return np.asarray(array)

    def save(self, directory, step):
        pass


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """What `fit` hands to the engine over a whole run."""

    def record(run: Run) -> list[tuple]:
        recorder = Recorder()
        monkeypatch.setattr(training, "build_engine", lambda *_: recorder)
        fit(run, tmp_path / "recorded")
        return recorder.steps

    return record


# Items that have not the form of their dataset are not trained on


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("training", r"'digits', training items: labels must be 0\.\.9 .*, given 1\.\.10"),
        ("heldout", r"'digits', held-out items: labels must be 0\.\.9 .*, given 1\.\.10"),
        ("batch", r"'digits', batch of step 0: labels must be 0\.\.9 .*, given \d\.\.10"),
    ],
)
def test_labels_counted_from_one_are_refused_before_a_step(changed, message, recorded, monkeypatch):
    given = getattr(Digits, changed)

    def from_one(self, *asked):
        clean = given(self, *asked)
        return clean._replace(labels=np.append(clean.labels[:-1] + 1, 10))

    monkeypatch.setattr(Digits, changed, from_one)
    with pytest.raises(ValueError, match=f"^dataset {message}"):
        recorded(small_run())


@pytest.mark.parametrize("change", [lambda values: values * np.nan, lambda values: ((values + 1) * 127.5).astype("u1")])
def test_pixels_that_are_none_are_refused_as_such(change, recorded, monkeypatch):
    batch = Digits.batch
    monkeypatch.setattr(Digits, "batch", lambda *asked: batch(*asked)._replace(values=change(batch(*asked).values)))
    with pytest.raises(ValueError, match=r"^dataset 'digits', batch of step 0: values: .*(not finite|given uint8)"):
        recorded(small_run())


# Fairness: what does not depend on the trainer


@pytest.mark.parametrize(("task", "dataset"), [("diffusion", "digits"), ("masked", "digits-codes")])
def test_all_trainers_of_a_seed_see_the_same_batches_noise_and_dropped_labels(task, dataset, recorded):
    def batches(name: str, **changes) -> list:
        return [batch for batch, *_ in recorded(small_run(name, task=task, dataset=dataset, **changes))]

    expected = batches("elt")
    wider = replace(SMALL, width=32, max_loops=5)
    others = [batches(name) for name in ("no-ilsd", "unique-depth", "universal-transformer")]
    for other in (*others, batches("elt", architecture=wider)):
        for ours, theirs in zip(expected, other, strict=True):
            for field, same in zip(ours, theirs, strict=True):
                assert np.array_equal(field, same) or field is same is None
    assert not np.array_equal(expected[0].inputs, expected[1].inputs)
    assert not np.array_equal(expected[0].inputs, batches("elt", seed=1)[0].inputs)
    assert any((batch.labels == 10).any() for batch in expected)  # some label was dropped


def test_exits_come_from_their_own_stream(recorded):
    run = small_run(steps=40)
    expected = [ELT().exits(SMALL, stream("digits", 0, "exits", step)) for step in range(40)]
    assert [exits for _, exits, *_ in recorded(run)] == expected
    assert set(expected) == {(1, 3), (2, 3)}


def test_progress_runs_from_zero_at_the_first_step_to_one_at_the_last(recorded):
    progress = [progress for *_, progress, _ in recorded(small_run(steps=5))]
    assert progress == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [progress for *_, progress, _ in recorded(small_run(steps=1))] == [0.0]


def test_a_resumed_run_sees_what_the_rest_of_an_uninterrupted_one_sees(recorded, tmp_path, monkeypatch):
    run = small_run()
    whole = recorded(run)
    rest = Recorder()
    monkeypatch.setattr(training, "build_engine", lambda *_: rest)
    monkeypatch.setattr(rest, "load", lambda _: 6, raising=False)
    (tmp_path / WEIGHTS).touch()
    fit(run, tmp_path)
    assert len(rest.steps) == 4
    for (batch, *others), (same, *same_others) in zip(rest.steps, whole[6:], strict=True):
        assert np.array_equal(batch.inputs, same.inputs)
        assert others == same_others


# The learning rate


def test_the_rate_warms_up_linearly_and_then_stays():
    optimisation = Optimisation(steps=100, warmup_steps=4, learning_rate=0.8)
    rates = [learning_rate(optimisation, step) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert set(rates[4:]) == {0.8}


def test_the_cosine_rate_halves_midway_and_ends_near_zero():
    optimisation = Optimisation(steps=110, warmup_steps=10, learning_rate=0.8, schedule="cosine")
    rates = [learning_rate(optimisation, step) for step in range(110)]
    assert rates[9] == rates[10] == pytest.approx(0.8)
    assert rates[60] == pytest.approx(0.4)
    assert rates[35] == pytest.approx(0.8 * (1 + 0.5**0.5) / 2)  # cos(π/4)
    assert 0 < rates[-1] < 0.001
    assert np.diff(rates[10:]).max() < 0


def test_no_warm_up_starts_at_the_full_rate(recorded):
    optimisation = Optimisation(steps=3, warmup_steps=0, learning_rate=0.5)
    assert [rate for *_, rate in recorded(small_run(optimisation=optimisation))] == [0.5] * 3


# The log


def test_the_log_holds_every_step_once_with_its_exits_and_terms(tmp_path):
    fit(small_run(), tmp_path)
    lines = logged(tmp_path)
    assert [line["step"] for line in lines] == list(range(10))
    for line in lines:
        assert line["exits"] in ([1, 3], [2, 3])
        assert line["loss"] == pytest.approx(line["teacher"] + line["student"] + line["distillation"], rel=1e-5)
        assert line["gradient_norm"] > 0
    assert lines[0]["distillation"] == lines[-1]["student"] == 0


def test_a_resumed_run_drops_lines_that_no_log_has(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = ['{"step": 0}', "{}", "[" * 9000 + "}", '{"step": "x"}', '{"step": []}', '{"step": 1e999}', '{"step": 1}']
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe}\n")
    Log(path, start=2)
    assert logged(tmp_path) == [{"step": 0}, {"step": 1}]


def test_the_log_of_a_resumed_run_holds_every_step_once(tmp_path):
    run = small_run()
    fit(run, tmp_path / "whole")
    fit_until(run, tmp_path / "resumed", 6)  # logged up to step 5, saved after step 3
    with (tmp_path / "resumed" / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "exi')  # cut off by a kill
    fit(run, tmp_path / "resumed")
    assert logged(tmp_path / "resumed") == logged(tmp_path / "whole")


def test_progress_is_reported_as_steps_done_of_all(tmp_path):
    reports = []
    fit(small_run(), tmp_path, lambda *done: reports.append(done))
    assert reports == [(3, 10), (6, 10), (9, 10), (10, 10)]


def test_a_finished_run_is_not_trained_again(tmp_path):
    run = small_run()
    fit(run, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    reports = []
    fit(run, tmp_path, lambda *done: reports.append(done))
    assert reports == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# What fails


@dataclass(frozen=True)
class NotANumber(ELT):
    """ELT whose loss has no value at its fourth step."""

    def objective(self, outputs, batch, progress, task, ops):
        terms = super().objective(outputs, batch, progress, task, ops)
        broken = float("nan") if progress == 3 / 9 else 1.0
        return {**terms, "student": terms["student"] * broken}


def test_a_loss_that_is_not_a_number_ends_the_run_with_its_step(tmp_path, monkeypatch):
    monkeypatch.setitem(trainers.registry._entries, "not-a-number", NotANumber)
    with pytest.raises(DivergedError, match="student became nan at step 3") as caught:
        fit(small_run("not-a-number"), tmp_path)
    assert caught.value.step == 3
    assert [line["step"] for line in logged(tmp_path)] == [0, 1, 2]
    assert not (tmp_path / WEIGHTS).exists()


def test_a_learning_rate_beyond_reason_diverges_and_leaves_no_broken_checkpoint(tmp_path):
    run = small_run()
    run = replace(run, optimisation=replace(run.optimisation, learning_rate=1e30))
    with pytest.raises(DivergedError) as caught:
        fit(run, tmp_path)
    assert 1 <= caught.value.step <= 3
    assert not (tmp_path / WEIGHTS).exists()


def test_a_damaged_checkpoint_is_refused(tmp_path):
    fit(small_run(), tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        fit(small_run(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": "etl"}, "did you mean 'elt'"),
        ({"task": "difusion"}, "did you mean 'diffusion'"),
        ({"dataset": "digit"}, "did you mean 'digits"),
        ({"backend": "toch"}, "did you mean 'torch'"),
        ({"task": "masked"}, "works on tokens data, dataset 'digits' gives continuous"),
        ({"architecture": Architecture(min_loops=2, max_loops=2)}, "min_loops must be below max_loops"),
        ({"trainer": "unique-depth"}, "max_loops = 1"),
        ({"trainer_options": {"lambda": 1}}, "unknown trainer 'elt' field 'lambda'"),
        ({"architecture": replace(SMALL, patch=3)}, "patch"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(replace(small_run(), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Learning


@pytest.mark.slow
@pytest.mark.parametrize(("task", "dataset"), [("diffusion", "digits"), ("masked", "digits-codes")])
def test_training_lowers_the_heldout_loss_at_every_exit(task, dataset, tmp_path):
    block = "dit" if task == "diffusion" else "bert"
    run = small_run(task=task, dataset=dataset, architecture=replace(SMALL, width=32, block=block))
    run = replace(run, optimisation=Optimisation(steps=150, batch_size=32, learning_rate=2e-3, ema_decay=0.9))
    made = parts(run)

    def losses(engine) -> list[float]:
        (host,) = made.task.heldout(made.dataset.heldout(), made.dataset.spec, np.random.default_rng(0), draws=1)
        batch = engine.upload(host)
        return [float(made.task.loss(output, batch, engine.ops)) for output in engine.predict(batch, (1, 2, 3))]

    before, after = losses(training.build_engine(run)), losses(fit(run, tmp_path))
    assert all(later < 0.8 * earlier for earlier, later in zip(before, after, strict=True))


# Being told to stop


def test_a_training_that_is_told_to_stop_saves_the_step_it_reached_and_goes_on_to_the_same_weights(tmp_path):
    run, asked = small_run(), iter([False, False, False, False, False, True])  # before the first step, then after each
    (trainee,) = training.fit_seeds({tmp_path / "stopped": run}, stop=lambda: next(asked, True))
    assert (trainee.step, trainee.error) == (5, None)
    assert len(logged(tmp_path / "stopped")) == 5
    reports = []
    fit(run, tmp_path / "stopped", lambda *done: reports.append(done))
    assert reports[0] == (5, 10)  # where it goes on
    fit(run, tmp_path / "whole")
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    ended = [tensors(tmp_path / name / "checkpoint.safetensors") for name in ("stopped", "whole")]
    assert ended[0][1] == ended[1][1]  # the library orders a file's header as it likes
