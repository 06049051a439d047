"""Fixed points in JAX: the same solver, the same gradient, one program for any number of loops."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from test_jax_training import compilations
from two_backends import pair_of, relative, small_run

from eltbench.backends.jax.engine import objective
from eltbench.backends.jax.equilibrium import phantom_gradient
from eltbench.backends.jax.initialisation import named
from eltbench.backends.torch.equilibrium import phantom_gradient as phantom_gradient_of_torch
from eltbench.core.fixed_point import Solver
from eltbench.evaluation.trajectory import trajectory

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PLAIN = (("memory", 0), ("mixing", 0.6))
EXITS = (2, 7, 40)


@pytest.fixture(params=[(), PLAIN], ids=["anderson", "plain"])
def pair(request, tmp_path):
    return pair_of(replace(small_run("deq", "masked", block="bert"), trainer_options=request.param), tmp_path)


@pytest.mark.slow
def test_far_exits_agree_with_torch_and_need_no_new_program(pair):
    pair.jax.predict(pair.jax.upload(pair.batch()), (1, 2, 3), ("prediction", "state"))
    with compilations() as compiled:
        outputs = pair.predictions(EXITS, ("prediction", "state"))
    assert not compiled
    for ours, theirs in outputs:
        assert relative(ours[0], theirs[0]) < 1e-5
        assert relative(ours[1], theirs[1]) < 1e-5


@pytest.mark.slow
def test_a_trajectory_is_that_of_predict(pair):
    batch = pair.jax.upload(pair.batch())
    recurrence = pair.jax.recurrence(batch)
    states = trajectory(recurrence, 7)
    for exit, output in zip((1, 7), pair.jax.predict(batch, (1, 7), ("prediction", "state")), strict=True):
        assert relative(np.asarray(output.prediction), np.asarray(recurrence.read(states[exit]))) < 1e-5
        assert relative(np.asarray(output.state), np.asarray(states[exit][:, -output.state.shape[1] :])) < 1e-5


@pytest.mark.slow
def test_training_gives_the_values_of_inference_and_torchs_gradient_at_several_exits(pair):
    exits = np.array([1, 3], np.int32)
    engine, batch = pair.jax, pair.jax.upload(pair.batch())
    fields = ("prediction", "state")

    @jax.jit
    def trained(network):
        outputs = network.train(batch, exits, fields, loops=3)
        return sum(jnp.mean(jnp.sin(field)) for output in outputs for field in output[:2]), outputs

    (_, outputs), gradient = jax.value_and_grad(trained, has_aux=True)(engine.state.network)
    for trained_output, output in zip(outputs, engine.predict(batch, (1, 3), fields), strict=True):
        for ours, theirs in zip(trained_output[:2], output[:2], strict=True):
            assert relative(np.asarray(ours), np.asarray(theirs)) < 1e-6

    batch = pair.torch.upload(pair.batch())
    theirs = pair.torch.network(batch.inputs, batch.labels, batch.context, batch.log_snr, (1, 3), fields)
    torch.stack([field.sin().mean() for output in theirs for field in output[:2]]).sum().backward()
    expected = {name: parameter.grad.numpy() for name, parameter in pair.torch.network.named_parameters()}
    largest = max(np.abs(slope).max() for slope in expected.values())
    for name, slope in named(gradient).items():
        assert np.abs(np.asarray(slope) - expected[name]).max() < 1e-4 * largest, name


@pytest.mark.slow
def test_the_loops_before_the_phantom_steps_are_constant_to_differentiation(pair):
    """Nothing of them is kept: of a scan's results only its last state and what it stacks for the exits."""
    engine = pair.jax
    batch, exits = engine.upload(pair.batch()), engine.recipe.passes((3,))
    traced = jax.make_jaxpr(
        jax.grad(lambda network: objective(network, engine.recipe, batch, exits, np.float32(0.3))[0])
    )(engine.state.network)
    scans = [equation for equation in traced.jaxpr.eqns if equation.primitive.name == "scan"]
    loops, *_ = (scan for scan in scans if scan.params["length"] == 3)
    state = (3, *engine.recurrence(batch).initial.shape)  # of every loop, for the exits
    assert [out.aval.shape for out in loops.outvars[loops.params["num_carry"] :]] == [state]


@pytest.mark.parametrize(("steps", "damping"), [(1, 1.0), (4, 0.7)])
def test_the_phantom_gradient_of_any_map_is_torchs(steps, damping):
    solver, rng = Solver(phantom_steps=steps, damping=damping), np.random.default_rng(0)
    matrix, constant, state, cotangent = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((5, 5), (5,), (5,), (5,))
    )

    def solved(constant):
        return phantom_gradient(solver, lambda point: jnp.tanh(matrix @ point + constant), jnp.asarray(state))

    value, pull = jax.vjp(solved, jnp.asarray(constant))
    leaf = torch.tensor(constant, requires_grad=True)
    theirs = phantom_gradient_of_torch(
        solver, lambda point: torch.tanh(torch.tensor(matrix) @ point + leaf), torch.tensor(state)
    )
    (slope,) = torch.autograd.grad(theirs, leaf, torch.tensor(cotangent))
    assert np.array_equal(value, state)
    np.testing.assert_allclose(pull(jnp.asarray(cotangent))[0], slope, rtol=1e-5, atol=1e-6)
