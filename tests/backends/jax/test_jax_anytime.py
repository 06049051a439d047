"""A pass in JAX that is taken loop by loop gives what predict gives, with a bounded number of programs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from two_backends import TRAINERS, compilations, pair_of, relative, small_run

from eltbench.evaluation.stopping import rules as stopping
from eltbench.evaluation.stopping.anytime import anytime
from eltbench.training.model import Model

pytestmark = pytest.mark.usefixtures("compiled_quickly")

EXITS = (1, 2, 3)
MORE = [("universal-transformer", "dit"), ("deq", "bert"), ("unique-depth", "dit"), ("unique-depth", "bert")]
CASES = [  # looped trainers share their programs
    pytest.param(trainer, block, marks=pytest.mark.slow if (trainer, block) in MORE else ())
    for trainer, block in product(TRAINERS, ("dit", "bert"))
    if (trainer, block) != ("trm", "dit")  # a "dit" diffuses here
]


def model_of(pair, backend="jax") -> Model:
    return Model(pair.run, getattr(pair, backend), pair.made)


def given(batch) -> dict:
    return {"inputs": batch.inputs, "labels": batch.labels, "log_snr": batch.log_snr, "context": batch.context}


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "block"), CASES)
def test_every_prediction_is_that_of_predict_also_where_items_leave(trainer, block, tmp_path):
    pair = pair_of(small_run(trainer, "diffusion" if block == "dit" else "masked", block=block), tmp_path)
    model, batch = model_of(pair), pair.batch()
    if trainer == "unique-depth":
        (only,) = anytime(model, **given(batch))
        assert relative(model.predict(**given(batch), exits=(1,))[0], only.prediction) < 1e-5
        with pytest.raises(ValueError, match="no exits to stop at"):
            anytime(model, **given(batch), rule="cosine")
        return
    whole = list(anytime(model, **given(batch), signals=["relative_update_norm"]))  # nothing leaves
    values = np.stack([now.signals["relative_update_norm"] for now in whole])
    order = np.sort(values[0])
    threshold = float(order[1:3].mean())  # two of the four stop at once: less than half of the program's items go on
    stop = stopping.stops(values, threshold)
    expected = np.stack(model.predict(**given(batch), exits=EXITS))
    assert all(relative(left, now.prediction) < 1e-5 for left, now in zip(expected, whole, strict=True))
    rule = {"rule": "latent-difference", "threshold": threshold, "signals": ()}
    for place, now in enumerate(anytime(model, **given(batch), **rule)):
        read = np.minimum(stop, place)
        assert np.array_equal(now.exits, np.array(EXITS)[read])
        assert relative(expected[read, np.arange(4)], now.prediction) < 1e-5
        assert now.nonfinite == ()


@pytest.mark.slow
def test_the_signals_are_those_of_torch(tmp_path):
    pair = pair_of(small_run("universal-transformer", "masked", block="bert"), tmp_path)
    ours, theirs = (list(anytime(model_of(pair, backend), **given(pair.batch()))) for backend in ("torch", "jax"))
    for left, right in zip(ours, theirs, strict=True):
        assert left.signals.keys() == right.signals.keys()
        for name, values in left.signals.items():
            assert np.allclose(right.signals[name], values, rtol=1e-3, atol=1e-5, equal_nan=True), name


@pytest.mark.slow
def test_there_are_as_many_programs_as_powers_of_two_whatever_leaves_when(tmp_path):
    pair = pair_of(small_run("elt", "diffusion"), tmp_path)
    noise = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    host, exits = pair.batch().select(np.arange(5) % 4)._replace(inputs=noise), (1, 2, 3, 4, 5)
    expected = model_of(pair).predict(**given(host), exits=exits)
    batch = pair.jax.upload(host)
    steps, left = pair.jax.steps(batch), np.arange(5)
    sizes = []
    with compilations() as compiled:
        for exit in exits:
            output = steps.advance(("prediction", "state"))
            sizes.append(len(steps._carry.state))
            assert relative(expected[exit - 1][left], output.prediction) < 1e-5
            assert len(output.state) == len(left)
            if len(left) > 1:
                kept = np.delete(np.arange(len(left)), exit % len(left))
                steps.keep(kept)
                left = left[kept]
    assert sizes == [5, 4, 4, 2, 1]
    assert len(compiled) <= 4 + 3  # a loop of each size, and the way to each smaller one
