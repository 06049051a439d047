"""Equilibrium depth: exits are iterations of a solver, and gradients are those of the fixed point."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.equilibrium import phantom_gradient
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture, Run
from eltbench.core.fixed_point import Solver
from eltbench.data.base import DataSpec
from eltbench.evaluation.trajectory import trajectory
from eltbench.training.loop import build_engine, parts

SPECS = {
    "dit": DataSpec("continuous", (4, 6), channels=2, classes=3),
    "bert": DataSpec("tokens", (3, 4), vocabulary=5, classes=3),
}
ANDERSON = Solver(memory=3)


def build(block="dit", solver=ANDERSON, away=0.03, **options):
    """A small network whose every parameter is `away` from its (partly zero) start, and a call's arguments."""
    spec, timed = SPECS[block], block == "dit"
    architecture = Architecture(width=16, heads=2, block=block, input_injection=True, **options)
    generator = torch.Generator().manual_seed(0)
    network = Network(NetworkSpec(architecture, "equilibrium", spec, timed=timed), generator=generator, solver=solver)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += away * torch.randn(parameter.shape, generator=generator)
    if timed:
        inputs = torch.randn(3, *spec.grid, spec.channels, generator=generator)
    else:
        inputs = torch.randint(spec.vocabulary + 1, (3, spec.tokens), generator=generator)
    return network, (inputs, torch.tensor([0, 1, 3]), None, torch.linspace(-5, 5, 3) if timed else None)


@torch.no_grad()
def states_of(network, call, solver, exits):
    """(exit, state, conditioning) for each exit, the prefix token included."""
    initial, conditioning = network.embed(*call)
    loop = SimpleNamespace(
        initial=initial, solver=solver, loop=lambda state, index: network.loop(state, conditioning, index)
    )
    states = trajectory(loop, max(exits))
    return [(exit, states[exit], conditioning) for exit in exits]


def residual(network, state, conditioning):
    """‖f(z) - z‖ / ‖z‖ of each item."""
    with torch.no_grad():
        return (network.loop(state, conditioning, 1) - state).norm(dim=(1, 2)) / state.norm(dim=(1, 2))


def gradients(network, output):
    """Of a fixed random reading of an output, by parameter."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(output.dtype)
    names, parameters = zip(*network.named_parameters(), strict=True)
    slopes = torch.autograd.grad((output * weights).sum(), parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, slopes, strict=True))


def distance(ours, theirs):
    """Of two gradients, over the second's length."""
    difference = torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs])
    return float(difference.norm() / torch.cat([slope.flatten() for slope in theirs.values()]).norm())


# Exits


@pytest.mark.parametrize("away", [0.03, 0.3])
@pytest.mark.parametrize("block", SPECS)
def test_each_exit_of_the_accelerated_iteration_equals_a_shallower_run(block, away):
    network, call = build(block, away=away)
    exits, fields = (1, 2, 5, 9), ("prediction", "state")
    with torch.no_grad():
        for exit, output in zip(exits, network(*call, exits, fields), strict=True):
            (alone,) = network(*call, (exit,), fields)
            assert torch.equal(output.prediction, alone.prediction)
            assert torch.equal(output.state, alone.state)


@pytest.mark.parametrize("block", SPECS)
def test_a_gradient_changes_no_value(block):
    network, call = build(block)
    differentiable = network(*call, (2, 4), ("prediction", "state"))
    with torch.no_grad():
        plain = network(*call, (2, 4), ("prediction", "state"))
    for ours, theirs in zip(differentiable, plain, strict=True):
        assert ours.prediction.requires_grad
        assert ours.state.requires_grad
        assert torch.equal(ours.prediction, theirs.prediction)
        assert torch.equal(ours.state, theirs.state)


@pytest.mark.parametrize(("block", "early"), [("dit", 6), ("bert", 40)])
def test_loops_come_to_a_fixed_point_and_acceleration_comes_sooner(block, early):
    network, call = build(block)
    left = {
        (name, loops): float(residual(network, state, conditioning).max())
        for name, solver in (("accelerated", ANDERSON), ("plain", Solver()))
        for loops, state, conditioning in states_of(network, call, solver, (1, early, 60))
    }
    assert left["accelerated", 1] > 0.01
    assert left["accelerated", 60] < 1e-4
    assert left["accelerated", early] < left["plain", early] / 5


@pytest.mark.parametrize("block", SPECS)
def test_the_map_is_one_and_the_same_in_every_loop_and_keeps_the_state_bounded(block):
    network, call = build(block, away=0.3)
    with torch.no_grad():
        state, conditioning = network.embed(*call)
        first, later = (network.loop(100 * state, conditioning, index) for index in (1, 7))
    assert torch.equal(first, later)
    torch.testing.assert_close(first.square().mean(-1), torch.ones(first.shape[:-1]))


# Gradients


@pytest.mark.parametrize(("steps", "damping"), [(1, 1.0), (1, 0.5), (4, 0.7), (200, 0.5)])
def test_the_phantom_gradient_of_a_linear_map_has_a_closed_form(steps, damping):
    """λ Σ_{i<k} (1 - λ + λ A)^i, which becomes the implicit gradient (1 - A)⁻¹."""
    rng, size = np.random.default_rng(0), 5
    matrix = rng.standard_normal((size, size))
    matrix *= 0.8 / np.abs(np.linalg.eigvals(matrix)).max()
    constant = torch.tensor(rng.standard_normal(size), requires_grad=True)
    implicit = np.linalg.inv(np.eye(size) - matrix)
    solution = torch.tensor(implicit) @ constant.detach()
    state = phantom_gradient(
        Solver(phantom_steps=steps, damping=damping), lambda point: torch.tensor(matrix) @ point + constant, solution
    )
    assert torch.equal(state, solution)
    cotangent = rng.standard_normal(size)
    (slope,) = torch.autograd.grad(state, constant, torch.tensor(cotangent))
    damped = (1 - damping) * np.eye(size) + damping * matrix
    expected = damping * sum(np.linalg.matrix_power(damped, power) for power in range(steps))
    np.testing.assert_allclose(slope, cotangent @ expected, rtol=1e-9)
    assert np.allclose(slope, cotangent @ implicit, rtol=1e-4) == (steps == 200)


def test_the_gradient_tends_to_that_of_a_long_unrolled_run():
    """The oracle is backpropagation through 40 plain loops; the bias shrinks with the number of phantom steps."""
    network, call = build("dit", away=0.1)
    network.double()
    call = tuple(each.double() if each is not None and each.is_floating_point() else each for each in call)
    state, conditioning = network.embed(*call)
    for index in range(1, 41):
        state = network.loop(state, conditioning, index)
    expected = gradients(network, network.read(state, conditioning))
    bias = []
    for steps in (1, 5, 40):
        network.solver = replace(ANDERSON, phantom_steps=steps, damping=0.8)
        (output,) = network(*call, (40,))
        bias.append(distance(gradients(network, output.prediction), expected))
    assert bias[2] < 1e-5
    assert bias[2] < bias[1] / 10
    assert bias[1] < bias[0] / 2
    assert bias[0] < 0.5  # one step already points the right way


def test_every_parameter_has_the_gradient_in_bfloat16_that_it_has_in_float32():
    """The loops without a gradient run first; what autocast keeps of them must not take it from the steps after."""
    network, call = build("bert")
    (exact,) = network(*call, (4,))
    expected = gradients(network, exact.prediction)
    with torch.autocast("cpu", torch.bfloat16):
        (output,) = network(*call, (4,))
    assert distance(gradients(network, output.prediction.float()), expected) < 0.05


# Engine


def engine_of(block="dit", **options):
    task, dataset = ("diffusion", "digits") if block == "dit" else ("masked", "digits-codes")
    architecture = Architecture(width=8, heads=2, mlp_ratio=2, block=block, input_injection=True)
    run = Run("deq", task, dataset, architecture=architecture, trainer_options=tuple(options.items()))
    engine, made = build_engine(run), parts(run)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in engine.average.module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    (batch,) = made.task.heldout(
        made.dataset.heldout().select(slice(2)), made.dataset.spec, np.random.default_rng(0), 1
    )
    return engine, engine.upload(batch)


@pytest.mark.parametrize("memory", [0, 2])
@pytest.mark.parametrize("block", SPECS)
def test_the_options_reach_the_network_and_a_trajectory_is_that_of_predict(block, memory):
    engine, batch = engine_of(block, memory=memory, mixing=0.7)
    assert engine.network.solver == Solver(memory=memory, mixing=0.7)
    recurrence = engine.recurrence(batch)
    states = trajectory(recurrence, 6)
    for exit, output in zip((1, 3, 6), engine.predict(batch, (1, 3, 6), ("prediction", "state")), strict=True):
        assert torch.equal(recurrence.read(states[exit]), output.prediction)
        assert torch.equal(states[exit][:, -output.state.shape[1] :], output.state)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of torch's own tracing
def test_a_new_loop_count_never_recompiles_the_block():
    network, call = build("dit")
    expected = network(*call, (12,))[0].prediction
    torch.compiler.reset()
    counter = CompileCounter()
    network.compile_block(backend=counter)
    graphs = set()
    for loops in range(1, 13):
        (output,) = network(*call, (loops,))
        graphs.add(counter.frame_count)
    assert graphs == {2}  # with a gradient and without
    torch.testing.assert_close(output.prediction, expected)
