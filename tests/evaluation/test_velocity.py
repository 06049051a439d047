"""A network that predicts a velocity: every signal and error is of the task's clean estimate, not of the prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from eltbench.core.arrays import namespace
from eltbench.core.config import Architecture, Run
from eltbench.core.streams import stream
from eltbench.evaluation.signals import per_sample
from eltbench.evaluation.signals.exit_trace import trace
from eltbench.evaluation.stopping import generation
from eltbench.evaluation.stopping.anytime import anytime
from eltbench.tasks.base import Batch, ExitOutput
from eltbench.tasks.diffusion import Diffusion
from eltbench.training.loop import Parts, build_engine, parts
from eltbench.training.model import Model

EXITS = (1, 2, 3)


def scales(log_snr: Any) -> tuple[Any, Any]:
    """α and σ (B, 1, 1, 1), with α² + σ² = 1."""
    xp = namespace(log_snr)
    snr = xp.reshape(xp.exp(log_snr), (-1, 1, 1, 1))
    return xp.sqrt(snr / (1 + snr)), xp.sqrt(1 / (1 + snr))


@dataclass(frozen=True)
class Velocity(Diffusion):
    """v = α ε - σ x_0, so that x_0 = α x_t - σ v."""

    def clean(self, output: ExitOutput, batch: Batch) -> Any:
        alpha, sigma = scales(batch.log_snr)
        return alpha * batch.inputs - sigma * output.prediction

    def sample(self, predict, *arguments, **settings) -> Iterator[Any]:
        def estimate(inputs, labels, log_snr, context, loops):
            output = ExitOutput(predict(inputs, labels, log_snr, context, loops))
            return self.clean(output, Batch(inputs, labels, context, log_snr, None, None))

        return super().sample(estimate, *arguments, **settings)


class AsVelocity:
    """An engine whose network says the velocity that belongs to the clean value which the other one's predicts."""

    def __init__(self, engine) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def predict(self, batch, exits, fields=("prediction",)):
        return [self.velocity(output, batch) for output in self.engine.predict(batch, exits, fields)]

    def steps(self, batch):
        engine, steps = self, self.engine.steps(batch)

        class Steps:
            initial = steps.initial
            here = batch

            def advance(self, fields):
                output = steps.advance(fields)
                return engine.velocity(output, self.here) if fields else output

            def keep(self, kept):
                steps.keep(kept)
                self.here = self.here.select(kept)

        return Steps()

    @staticmethod
    def velocity(output: ExitOutput, batch: Batch) -> ExitOutput:
        alpha, sigma = scales(batch.log_snr)
        return output._replace(prediction=(alpha * batch.inputs - output.prediction) / sigma)


def pair(seed: int = 0) -> tuple[Model, Model]:
    """One network, read as a prediction of the clean item and as one of the velocity."""
    shape = Architecture(unique_layers=1, max_loops=3, width=16, heads=2, dropout=0.1)
    run = Run("elt", "diffusion", "digits", seed=seed, architecture=shape)
    made, engine = parts(run), build_engine(run)
    for parameter in engine.average.parameters():  # away from a head of zeros, whose prediction is 0 at every exit
        parameter.data += 0.1
    velocity = AsVelocity(engine)
    return Model(run, engine, made), Model(run, velocity, Parts(made.trainer, Velocity(), made.dataset, made.network))


@pytest.fixture(scope="module")
def models():
    return pair()


def assert_alike(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5, equal_nan=True), name


def test_signals_and_errors_of_items_are_those_of_the_clean_estimate(models, monkeypatch):
    clean, _ = models
    monkeypatch.setattr(type(clean.dataset), "heldout", lambda self: self.training().select(slice(8)))
    others = pair(seed=1)
    seen = [
        per_sample.observe(model, EXITS, 2, members={"ensemble": [other]}, dropout_passes=2)
        for model, other in zip(models, others, strict=True)
    ]
    assert {"squared_change_to_previous", "variance_bound", "ensemble_variance", "dropout_variance"} <= set(
        seen[0].signals
    )
    assert_alike(*(one.signals for one in seen))
    assert_alike(*(one.errors for one in seen))


def test_a_trace_keeps_the_clean_estimate(models):
    clean, velocity = models
    (batch,) = clean.task.heldout(clean.dataset.heldout().select(slice(4)), clean.spec, stream("digits", 0, "x"), 1)
    ours, theirs = (trace(model, batch, EXITS).outputs[-1].prediction for model in models)
    assert np.allclose(ours, theirs, atol=1e-4)
    assert not np.allclose(ours, velocity.predict(*batch[:2], batch.log_snr, exits=(3,))[0].reshape(-1, 1), atol=0.1)


def test_signals_along_a_sampling_trajectory_are_those_of_the_clean_estimate(models):
    labels = np.arange(4, dtype=np.int32)
    seen = [generation.generate(model, labels, EXITS, sampling={"steps": 3}) for model in models]
    assert_alike(*(one.signals for one in seen))
    assert np.allclose(seen[0].samples, seen[1].samples, atol=1e-3)


def test_signals_read_at_any_time_are_those_of_the_clean_estimate_also_where_items_have_stopped(models):
    clean, _ = models
    (batch,) = clean.task.heldout(clean.dataset.heldout().select(slice(6)), clean.spec, stream("digits", 0, "x"), 1)
    changes = list(anytime(clean, *batch[:2], batch.log_snr))[-1].signals["squared_change_to_previous"]
    asked = {"rule": "prediction-change", "threshold": float(np.median(changes)), "exits": EXITS}
    ours, theirs = (list(anytime(model, *batch[:2], batch.log_snr, **asked)) for model in models)
    assert len(ours) == len(theirs) == 3
    assert 0 < ours[1].running.sum() < 6
    for one, other in zip(ours, theirs, strict=True):
        assert_alike(one.signals, other.signals)
