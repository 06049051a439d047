"""The recurrence is the loop that `predict` runs, and its Jacobian is that loop's derivative."""

import numpy as np
import pytest
import torch

from eltbench.core.config import Architecture, Run
from eltbench.evaluation.trajectory import spectral_radius
from eltbench.tasks.base import Batch
from eltbench.training.loop import build_engine, parts

CASES = {
    "dit": {"task": "diffusion", "dataset": "digits", "trainer": "elt"},
    "dit-injected": {"task": "diffusion", "dataset": "digits", "trainer": "elt", "input_injection": True},
    "bert": {"task": "masked", "dataset": "digits-codes", "trainer": "elt", "block": "bert"},
    "bert-near": {
        "task": "masked",
        "dataset": "digits-codes",
        "trainer": "elt",
        "block": "bert",
        "attention_radius": 1,
    },
    "universal": {
        "task": "masked",
        "dataset": "digits-codes",
        "trainer": "universal-transformer",
        "block": "bert",
    },
    "equilibrium": {
        "task": "masked",
        "dataset": "digits-codes",
        "trainer": "deq",
        "block": "bert",
        "input_injection": True,
    },
}


def tiny(case, items=2, **fields):
    """An engine whose averaged weights are random, and an uploaded batch for it."""
    options = dict(CASES[case])
    names = {name: options.pop(name) for name in ("task", "dataset", "trainer")}
    run = Run(**names, architecture=Architecture(width=8, heads=2, mlp_ratio=2, **options), **fields)
    made = parts(run)
    engine = build_engine(run, made)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in engine.average.module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    clean = made.dataset.heldout().select(slice(items))
    (batch,) = made.task.heldout(clean, made.dataset.spec, np.random.default_rng(0), 1)
    return engine, engine.upload(batch)


def after(recurrence, loops):
    state = recurrence.initial
    for index in range(1, loops + 1):
        state = recurrence.loop(state, index)
    return state


def dense_jacobian(recurrence, state, index):
    """By torch's reverse mode, one row a time: (n, n) of one item's flattened state."""
    network, conditioning = recurrence.network, recurrence.conditioning
    rows = torch.autograd.functional.jacobian(lambda point: network.loop(point, conditioning, index), state)
    return rows.reshape(state.numel(), state.numel())


@pytest.mark.parametrize("case", ["dit", "dit-injected", "bert", "bert-near"])
def test_reading_after_some_loops_equals_predict_at_that_exit(case):
    engine, batch = tiny(case)
    recurrence = engine.recurrence(batch)
    for exit, output in zip((1, 3), engine.predict(batch, (1, 3), ("prediction", "state")), strict=True):
        state = after(recurrence, exit)
        assert torch.equal(recurrence.read(state), output.prediction)
        assert torch.equal(state[:, -output.state.shape[1] :], output.state)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("index", [1, 3])
def test_jacobian_product_equals_the_dense_jacobian(case, index):
    engine, batch = tiny(case, items=1)
    recurrence = engine.recurrence(batch)
    state = after(recurrence, index - 1)
    vector = torch.randn(state.shape, generator=torch.Generator().manual_seed(5))
    product = recurrence.jacobian(state, index)(vector).flatten()
    expected = dense_jacobian(recurrence, state, index) @ vector.flatten()
    assert expected.norm() > 0
    torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_arnoldi_finds_the_largest_eigenvalue_of_the_dense_jacobian(case):
    engine, batch = tiny(case, items=1)
    recurrence = engine.recurrence(batch)
    state = after(recurrence, 2)
    jacobian = recurrence.jacobian(state, 3)

    def product(vector):
        return jacobian(torch.tensor(vector, dtype=torch.float32).view(state.shape)).numpy().ravel().astype(np.float64)

    dense = dense_jacobian(recurrence, state, 3).double().numpy()
    expected = np.abs(np.linalg.eigvals(dense)).max()
    assert spectral_radius(product, state.numel()).value == pytest.approx(expected, rel=2e-3)


def test_items_of_a_batch_do_not_enter_each_others_derivative():
    engine, batch = tiny("dit", items=2)
    both = engine.recurrence(batch)
    alone = engine.recurrence(Batch(*(None if field is None else field[1:] for field in batch)))
    vector = torch.randn(both.initial.shape, generator=torch.Generator().manual_seed(5))
    product = both.jacobian(both.initial, 1)(vector)
    torch.testing.assert_close(product[1:], alone.jacobian(alone.initial, 1)(vector[1:]))


def test_recurrence_works_inside_inference_mode_and_on_its_states():
    engine, batch = tiny("dit")
    outside = engine.recurrence(batch)
    vector = torch.ones_like(outside.initial)
    expected = outside.jacobian(after(outside, 2), 3)(vector)
    with torch.inference_mode():
        inside = engine.recurrence(Batch(*(None if field is None else field.clone() for field in batch)))
        state = engine.predict(batch, (2,), ("state",))[0].state
        assert state.is_inference()
        torch.testing.assert_close(inside.jacobian(state, 3)(torch.ones_like(state)), expected)


def test_recurrence_is_in_float32_and_leaves_no_gradient_whatever_the_runs_precision():
    engine, batch = tiny("dit", precision="bf16")
    recurrence = engine.recurrence(batch)
    state = after(recurrence, 1)
    image = recurrence.jacobian(state, 2)(torch.ones_like(state))
    for tensor in (state, image, recurrence.read(state)):
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
    assert all(parameter.grad is None for parameter in engine.average.module.parameters())


def test_jacobian_of_compiled_blocks_is_taken_from_the_eager_ones():
    engine, batch = tiny("dit")
    recurrence = engine.recurrence(batch)
    expected = recurrence.jacobian(recurrence.initial, 1)(torch.ones_like(recurrence.initial))
    for block in engine.average.module.blocks:
        block.compile(backend="aot_eager")
    compiled = engine.recurrence(batch)
    assert torch.equal(compiled.jacobian(compiled.initial, 1)(torch.ones_like(compiled.initial)), expected)
