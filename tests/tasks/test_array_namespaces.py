"""The same draws give the same samples and losses in NumPy, torch and jitted JAX."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import torch

from eltbench import tasks, trainers
from eltbench.backends.jax.ops import JaxOps
from eltbench.backends.torch.ops import TorchOps
from eltbench.core.config import Architecture
from eltbench.data.base import Clean, DataSpec
from eltbench.tasks.base import Batch, ExitOutput
from eltbench.tasks.diffusion import DiffusionSampling, advance
from eltbench.tasks.guidance import guided
from eltbench.tasks.masked import reveal

VOCABULARY, CLASSES, ITEMS = 6, 10, 8
SPECS = {
    "masked": DataSpec("tokens", (4, 4), vocabulary=VOCABULARY, classes=CLASSES),
    "diffusion": DataSpec("continuous", (4, 4), channels=2, classes=CLASSES),
}
JAX = JaxOps(jax.devices("cpu")[0])
LABELS = (np.arange(ITEMS) % CLASSES).astype(np.int32)


@pytest.fixture(params=["torch", "jax"])
def ops(request):
    return {"torch": TorchOps(), "jax": JAX}[request.param]


def items(name: str, seed: int = 0) -> Clean:
    rng = np.random.default_rng(seed)
    if name == "masked":
        return Clean(rng.integers(VOCABULARY, size=(ITEMS, 16)).astype(np.int32), LABELS)
    return Clean(rng.uniform(-1, 1, (ITEMS, 4, 4, 2)).astype(np.float32), LABELS)


def predictions(name: str, seed: int) -> np.ndarray:
    shape = (ITEMS, 16, VOCABULARY) if name == "masked" else (ITEMS, 4, 4, 2)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(ops, name: str):
    """A fixed network whose prediction depends on state, label and loops, from arrays of NumPy."""

    def predict(inputs, labels, log_snr, context, loops):
        rng = np.random.default_rng(loops)
        rows = (len(inputs), *(1 for _ in inputs.shape[1:]))
        if name == "diffusion":
            return inputs * 0.5 + ops.asarray((np.asarray(labels) / 20).astype(np.float32)).reshape(rows)
        table = rng.normal(size=(VOCABULARY + 1, CLASSES + 1, VOCABULARY)).astype(np.float32)
        return ops.asarray(2 * table[np.asarray(inputs), np.asarray(labels)[:, None]])

    return predict


def draw(name: str, ops, **options) -> list[np.ndarray]:
    task = tasks.create(name)
    settings = task.sampling(steps=5, **options)
    rng = np.random.default_rng(0)
    states = task.sample(network(ops, name), SPECS[name], LABELS, 2, rng, ops, settings)
    return [np.asarray(state) for state in states]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_same_draws_give_the_same_tokens(ops, numpy_ops, scale):
    expected = draw("masked", numpy_ops, guidance_scale=scale)
    assert np.array_equal(draw("masked", ops, guidance_scale=scale), expected)
    assert (expected[-1] != VOCABULARY).all()


@pytest.mark.parametrize("options", [{}, {"sampler": "ddpm", "gamma": 0.3}, {"eta": 0.7, "guidance_scale": 2.0}])
def test_the_same_draws_give_the_same_images(ops, numpy_ops, options):
    expected = draw("diffusion", numpy_ops, **options)
    assert np.allclose(draw("diffusion", ops, **options), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("still_masked", [0, 1, 9])
def test_jitted_decoding_gives_the_tokens_of_numpy(still_masked, numpy_ops):
    rng = np.random.default_rng(1)
    tokens = np.where(rng.random((ITEMS, 16)).argsort(1) < 10, VOCABULARY, items("masked").values).astype(np.int32)
    arrays = (
        tokens,
        predictions("masked", 2),
        rng.gumbel(size=(ITEMS, 16, VOCABULARY)).astype(np.float32),
        rng.gumbel(size=(ITEMS, 16)).astype(np.float32),
    )
    expected = reveal(*arrays, 0.9, 2.0, still_masked, numpy_ops)
    jitted = jax.jit(partial(reveal, ops=JAX))(*arrays, 0.9, 2.0, still_masked)  # the step's numbers are traced
    assert np.array_equal(jitted, expected)
    assert np.array_equal(reveal(*map(torch.tensor, arrays), 0.9, 2.0, still_masked, TorchOps()), expected)


@pytest.mark.parametrize(
    "settings", [DiffusionSampling(), DiffusionSampling(eta=0.5), DiffusionSampling(sampler="ddpm", gamma=0.3)]
)
def test_jitted_diffusion_steps_give_the_states_of_numpy(settings):
    state, clean, noise = (predictions("diffusion", seed) for seed in range(3))
    expected = advance(state, clean, -1.0, 0.5, noise, settings)
    jitted = jax.jit(lambda state, clean, noise: advance(state, clean, -1.0, 0.5, noise, settings))
    assert np.allclose(jitted(state, clean, noise), expected, rtol=0, atol=1e-6)
    on_torch = advance(*map(torch.tensor, (state, clean)), -1.0, 0.5, torch.tensor(noise), settings)
    assert np.allclose(on_torch, expected, rtol=0, atol=1e-6)


def test_guided_calls_can_be_jitted(numpy_ops):
    inputs = predictions("diffusion", 0)

    def linear(inputs, labels, log_snr, context, loops):
        return inputs * labels[:, None, None, None].astype(np.float32)

    def call(ops, inputs, labels):
        return guided(linear, 2.5, CLASSES, ops)(inputs, labels, None, None, 1)

    expected = call(numpy_ops, inputs, LABELS)
    assert np.allclose(jax.jit(partial(call, JAX))(inputs, LABELS), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "diffusion"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_errors_and_distillation_agree(name, smoothing, ops, numpy_ops):
    task = tasks.create(name)
    if name == "masked":
        task = replace(task, label_smoothing=smoothing)
    batch = task.corrupt(items(name), SPECS[name], np.random.default_rng(0))

    def values(ops) -> list[np.ndarray]:
        there = Batch(*(None if array is None else ops.asarray(array) for array in batch))
        student, teacher = (ExitOutput(ops.asarray(predictions(name, seed))) for seed in (1, 2))
        results = (
            task.loss(student, there, ops),
            task.distillation(student, teacher, there, ops),
            task.errors(student, there, ops),
            task.item_weights(there),
        )
        return [np.asarray(result) for result in results]

    for value, expected in zip(values(ops), values(numpy_ops), strict=True):
        assert np.allclose(value, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["masked", "diffusion"])
@pytest.mark.parametrize("trainer_name", ["elt", "no-ilsd", "unique-depth", "universal-transformer"])
def test_every_objective_agrees_and_can_be_jitted(name, trainer_name, numpy_ops):
    task, trainer = tasks.create(name), trainers.create(trainer_name)
    batch = task.corrupt(items(name), SPECS[name], np.random.default_rng(0))
    exits = trainer.exits(Architecture(max_loops=1 if trainer.depth == "unique" else 4), np.random.default_rng(0))
    raw = [predictions(name, exit) for exit in exits]
    ponder = np.random.default_rng(9).uniform(1, 4, (ITEMS, 16)).astype(np.float32)

    def terms(ops, raw, ponder, batch, progress):
        outputs = [ExitOutput(prediction, ponder=ponder) for prediction in raw]
        return trainer.objective(outputs, batch, progress, task, ops)

    expected = terms(numpy_ops, raw, ponder, batch, 0.3)
    on_torch = terms(
        TorchOps(),
        [torch.tensor(array) for array in raw],
        torch.tensor(ponder),
        Batch(*(None if array is None else torch.tensor(array) for array in batch)),
        0.3,
    )
    jitted = jax.jit(partial(terms, JAX))(raw, ponder, batch, 0.3)
    for other in (on_torch, jitted):
        assert set(other) == set(expected)
        for term, value in expected.items():
            assert float(other[term]) == pytest.approx(float(value), rel=1e-6)
